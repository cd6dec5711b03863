"""What a person does on each page, in a real browser without a network."""

from __future__ import annotations

import re
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import orjson
import pytest

from tests.conftest import ServerProcess, StartServer
from tests.waiting import HANG_S, eventually
from tests.web.browser.conftest import Open, Visit
from verl_agent_env.evaluation import EvaluatedEpisode, EvaluationPlan
from verl_agent_env.evaluation.page import write_page

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="make web-test installs it")
expect = pytest.importorskip("playwright.sync_api").expect

TEXT = "As a model would write it"
SOKOBAN = "play/verl_env/sokoban_small-v0?seed=3"


def search_and_change(visit: Visit) -> None:
    """Find an environment, be refused an argument, and see the sample change with another."""
    page = visit.page
    visit.goto("catalogue")
    page.get_by_role("searchbox").fill("dim_room small")
    page.get_by_role("link", name="small").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("sokoban_small")
    expect(page.locator("aside img")).to_be_visible()
    expect(page.get_by_text("A preset of sokoban")).to_be_visible()
    expect(page.get_by_role("group").first).to_contain_text("Keyword arguments of Sokoban")
    field = page.get_by_label("num_boxes", exact=True)
    field.fill("99")
    field.press("Tab")
    expect(page.get_by_role("alert")).to_contain_text("It must be 1 to 20")
    before = page.locator("aside .fold").first.text_content()
    field.fill("1")
    field.press("Tab")
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.locator("aside img")).to_be_visible()
    expect(page.get_by_role("link", name="Play", exact=True).last).to_have_attribute(
        "href", re.compile("num_boxes")
    )
    assert before
    page.get_by_role("searchbox").fill("")


def play_with_all_hands(visit: Visit) -> None:
    """Play by button, key and text, take a step back, and bring the state to somebody else by its link."""
    page = visit.page
    visit.goto(SOKOBAN)
    page.get_by_role("button", name="push down").click()
    page.keyboard.press("ArrowLeft")
    for text, reading in (
        ("<think>Back up.</think><answer>up</answer>", "push_up"),
        ("<think>Where to?</think> I would jump", "is not an action"),
    ):
        page.get_by_label(TEXT).fill(text)
        expect(page.locator(".reading")).to_contain_text(reading)
        page.get_by_role("button", name="Send").click()
    expect(page.locator(".turn")).to_have_count(5)
    expect(page.locator(".facts")).to_contain_text("Invalid1")
    link, shown = page.evaluate("location.href"), page.locator(".facts").inner_text()
    page.goto("about:blank")
    page.goto(link)
    expect(page.locator(".turn")).to_have_count(5)
    assert page.locator(".facts").inner_text() == shown
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".turn")).to_have_count(4)
    page.keyboard.press("r")
    expect(page.locator(".turn")).to_have_count(1)
    page.keyboard.press("ArrowDown")
    expect(page.locator(".turn")).to_have_count(2)
    page.get_by_label(TEXT).fill("<think>The box is beside me.</think><answer>right</answer>")
    expect(page.locator(".reading")).to_contain_text("push_right")


def play_by_form(visit: Visit) -> None:
    """Solve a puzzle that is a text with a tool that takes an argument."""
    page = visit.page
    visit.goto("play/verl_env/countdown-v0?seed=4")
    field = page.get_by_label("equation")
    field.fill("1 + 1")
    field.press("Enter")
    expect(page.locator(".turn")).to_have_count(2)
    field.fill("(7 + 6) * (8 + 8 - 3 - 3)")
    page.get_by_role("button", name="test_equation").click()
    expect(page.locator(".turn")).to_have_count(3)
    expect(page.locator(".stage")).to_contain_text("Target: 130")
    expect(page.locator(".facts")).to_contain_text("solved")


def try_a_call(visit: Visit) -> None:
    """Find a call in the reference and send its example."""
    page = visit.page
    page.goto(f"{visit.url}docs")
    expect(page.get_by_role("heading", level=1)).to_contain_text("/api/environment/initialize")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".answer")).to_contain_text('"env_id"')


def watch(visit: Visit) -> None:
    """See who is there, and that all of it is well."""
    page = visit.page
    visit.goto("cluster")
    expect(page.locator(".facts")).to_contain_text("4096 of 4096")
    expect(page.get_by_role("row").nth(1)).to_contain_text("ready")
    expect(page.get_by_role("img", name="Slots by worker")).to_be_visible()


ACTIONS = ("<think>Is it open? It is.</think><answer>down</answer>", "<answer>left</answer>", "I jump")


def play_samples(url: str, run: str, number: int = 3) -> list[str]:
    """Play samples of one problem, each of which leaves the others' way at its last step; gives their ids."""
    ids = []
    with httpx.Client(base_url=url, timeout=HANG_S) as client:
        for last in range(number):
            request = {"env_name": "sokoban_small", "seed": 3, "run_id": run}
            env_id = client.post("api/environment/initialize", json=request).json()["env_id"]
            for text in (*ACTIONS[:2], ACTIONS[last % 3]):
                # As verl's agent loop sends it.
                notes = {"usage": {"completion_tokens": 7}, "metadata": {"training_step": last}}
                action = {"role": "assistant", "content": text, **notes}
                client.post(f"api/environment/{env_id}/step", json={"action": action})
            assert client.post(f"api/environment/{env_id}/close").status_code == 200
            ids.append(f"{env_id}.0")
        eventually(lambda: client.get(f"api/episodes?run={run}").json()["total"] == number)
    return ids


def read_a_run(visit: Visit) -> None:
    """Narrow the list of a run to those with an invalid action, read one step by step, and go back."""
    page, run = visit.page, f"run-{uuid.uuid4().hex[:6]}"
    play_samples(visit.url, run)
    visit.goto("episodes")
    page.get_by_label("Run", exact=True).select_option(run)
    expect(page.locator(".rows tbody tr")).to_have_count(3)
    expect(page.get_by_role("img", name="Mean reward over training steps")).to_be_visible()
    page.get_by_role("button", name="with invalid actions").click()
    expect(page.locator(".rows tbody tr")).to_have_count(1)
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    expect(page.locator(".turn")).to_have_count(4)
    page.keyboard.press("j")
    expect(page.get_by_text("Is it open? It is.")).to_be_visible()
    expect(page.get_by_role("img", name="Board after 1 step")).to_be_visible()
    for _ in range(2):
        page.keyboard.press("j")
    expect(page.locator(".turn").last).to_contain_text("'I jump' is not an action")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="with invalid actions").click()
    expect(page.locator(".rows tbody tr")).to_have_count(3)


def compare_two(visit: Visit) -> None:
    """See where two samples of a group part."""
    first, second, _ = play_samples(visit.url, f"run-{uuid.uuid4().hex[:6]}")
    visit.goto(f"episodes/{first}/{second}")
    page = visit.page
    page.get_by_role("button", name="First difference: step 3").click()
    expect(page.locator(".turn.differs")).to_have_count(2)
    expect(page.get_by_role("img", name="Board after 3 steps")).to_have_count(2)


def follow_a_run(visit: Visit) -> None:
    """See how a run goes on, and that it is divided by training steps."""
    page, run = visit.page, f"run-{uuid.uuid4().hex[:6]}"
    play_samples(visit.url, run)
    visit.goto(f"cluster/run/{run}")
    expect(page.get_by_role("heading", level=1)).to_contain_text(run)
    expect(page.locator(".summary .facts")).to_contain_text("Episodes3")
    expect(page.get_by_role("img", name="Mean reward over training steps")).to_be_visible()
    page.get_by_text("3 training steps").click()
    expect(page.get_by_role("link", name="Step 1")).to_be_visible()


TASKS: dict[str, Any] = {
    "episodes": read_a_run,
    "pair": compare_two,
    "catalogue": search_and_change,
    "play": play_with_all_hands,
    "text": play_by_form,
    "cluster": watch,
    "run": follow_a_run,
    "api": try_a_call,
}


@pytest.mark.parametrize("task", TASKS)
def test_the_main_task_of_each_page_is_done_offline_without_an_error(
    open_tab: Open, url: str, task: str, shots: Path
) -> None:
    visit = open_tab(url, scheme="dark" if task == "play" else "light")
    TASKS[task](visit)
    visit.page.mouse.move(1, 1)
    if task not in ("cluster", "run"):
        # Their stream of events has no end.
        visit.page.wait_for_load_state("networkidle")
    visit.page.screenshot(path=shots / f"web-{task}.png")
    assert visit.faults == []


@pytest.mark.parametrize("width", ["wide", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("task", TASKS)
def test_a_page_can_be_used_by_everybody_and_fits_its_screen(
    open_tab: Open, server: ServerProcess, task: str, scheme: str, width: str
) -> None:
    visit = open_tab(f"{server.url}/", width, scheme)
    TASKS[task](visit)
    assert not visit.page.evaluate("document.documentElement.scrollWidth > innerWidth")
    found = axe.Axe().run(visit.page)
    assert found.violations_count == 0, found.generate_report()
    assert visit.faults == []


def test_a_node_is_emptied_after_a_second_click_and_what_happens_is_shown(
    open_tab: Open, cluster_url: str
) -> None:
    visit = open_tab(cluster_url)
    page = visit.page
    watch(visit)
    node = page.locator(".node").first
    node.get_by_role("button", name="Drain").click()
    node.get_by_role("button", name="Really empty").click()
    expect(node.get_by_role("row").nth(1)).to_contain_text("draining")
    expect(node.get_by_role("row").nth(1)).to_contain_text("0.0 %")
    expect(page.get_by_role("listitem").filter(has_text="moved from").first).to_be_visible()
    node.get_by_role("button", name="Take environments again").click()
    expect(node.get_by_role("row").nth(1)).to_contain_text("ready")
    assert visit.faults == []


def test_the_solver_plays_on_to_the_end_and_a_random_policy_takes_a_step(
    open_tab: Open, server: ServerProcess
) -> None:
    visit = open_tab(f"{server.url}/")
    page = visit.page
    visit.goto(SOKOBAN)
    others = page.get_by_role("group", name="Somebody else plays on")
    others.get_by_role("button", name="take a step").click()
    expect(page.locator(".turn")).to_have_count(2)
    page.get_by_role("button", name="Restart").click()
    expect(page.locator(".turn")).to_have_count(1)
    others.get_by_role("combobox").select_option("the solver")
    others.get_by_role("button", name="play on").click()
    expect(page.locator(".facts")).to_contain_text("solved")
    expect(others.get_by_role("button", name="play on")).to_be_disabled()
    assert visit.faults == []


def test_a_model_that_is_not_configured_is_told_by_name(open_tab: Open, server: ServerProcess) -> None:
    visit = open_tab(f"{server.url}/")
    page = visit.page
    visit.goto(SOKOBAN)
    others = page.get_by_role("group", name="Somebody else plays on")
    others.get_by_role("combobox").select_option("a model")
    expect(others.get_by_role("button", name="take a step")).to_be_disabled()
    others.get_by_label("Model endpoint").fill("nobody")
    others.get_by_role("button", name="play on").click()
    expect(page.get_by_role("alert")).to_contain_text("no model endpoint is configured as 'nobody'")
    expect(others.get_by_role("button", name="play on")).to_be_visible()


def test_a_fast_hand_loses_no_action(open_tab: Open, server: ServerProcess) -> None:
    visit = open_tab(f"{server.url}/")
    visit.goto("play/verl_env/sokoban-v0?seed=1")
    expect(visit.page.locator(".stage img")).to_be_visible()
    for key in ("ArrowUp", "ArrowDown") * 10:
        visit.page.keyboard.press(key)
    expect(visit.page.locator(".turn")).to_have_count(21)
    assert visit.faults == []


def test_an_environment_that_was_closed_meanwhile_is_played_on(open_tab: Open, server: ServerProcess) -> None:
    visit = open_tab(f"{server.url}/")
    page = visit.page
    with page.expect_response("**/initialize") as made:
        visit.goto(SOKOBAN)
    env_id = made.value.json()["env_id"]
    page.get_by_role("button", name="push down").click()
    expect(page.locator(".turn")).to_have_count(2)
    page.evaluate("id => fetch(`../api/environment/${id}/close`, {method: 'POST'}).then(() => null)", env_id)
    page.get_by_role("button", name="push up").click()
    expect(page.locator(".turn")).to_have_count(3)


def test_a_script_in_a_drawing_does_not_run_and_a_link_that_is_damaged_is_said_to_be(
    open_tab: Open, server: ServerProcess
) -> None:
    visit = open_tab(f"{server.url}/")
    drawing = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 4" onload="window.top.ran = true">'
        '<script>window.top.ran = true</script><image href="http://127.0.0.1:9/x"/></svg>'
    )
    visit.page.route(
        "**/render?mode=svg", lambda route: route.fulfill(body=drawing, content_type="image/svg+xml")
    )
    visit.goto(SOKOBAN)
    expect(visit.page.locator(".stage img")).to_be_visible()
    assert visit.page.evaluate("window.ran") is None
    assert visit.faults == []
    for damaged in ("&args=%7Bno", "&args=null", "&seed=x"):
        visit.page.goto("about:blank")
        visit.goto(f"{SOKOBAN.partition('?')[0]}?{damaged}")
        expect(visit.page.get_by_role("alert")).to_contain_text("This link is damaged")
    visit.page.goto("about:blank")
    visit.goto("play/%E0%A4%A")
    expect(visit.page.get_by_role("alert")).to_contain_text("%E0%A4%A")


def test_a_link_takes_no_step_in_an_environment_that_does_not_repeat_itself(
    open_tab: Open, server: ServerProcess
) -> None:
    visit = open_tab(f"{server.url}/")

    def tell_otherwise(route: Any) -> None:
        route.fulfill(json={**route.fetch().json(), "deterministic": False})

    visit.page.route("**/api/environments/verl_env/sokoban_small-v0", tell_otherwise)
    visit.goto(f"{SOKOBAN}&do=push_down&do=push_left")
    expect(visit.page.get_by_role("status").last).to_contain_text("2 steps of the link were not taken")
    expect(visit.page.locator(".turn")).to_have_count(1)
    visit.page.get_by_role("button", name="push down").click()
    expect(visit.page.locator(".turn")).to_have_count(2)
    assert visit.faults == []


def test_no_action_is_sent_behind_the_last_one_or_behind_one_that_failed(
    open_tab: Open, server: ServerProcess
) -> None:
    visit = open_tab(f"{server.url}/")
    page, sent = visit.page, []
    page.on("request", lambda request: sent.append(request.url) if request.url.endswith("/step") else None)
    visit.goto('play/verl_env/frozen_lake-v1?seed=1&args={"desc":["SG"],"is_slippery":false}')
    expect(page.locator(".stage img")).to_be_visible()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    expect(page.locator(".facts")).to_contain_text("solved")
    page.wait_for_load_state("networkidle")
    assert len(sent) == 1
    assert visit.faults == []
    visit.goto("play/verl_env/sokoban-v0?seed=1")
    expect(page.locator(".turn")).to_have_count(1)
    held: list[Any] = []
    page.route("**/step", lambda route: held.append(route))
    sent.clear()
    for key in ("ArrowUp", "ArrowDown", "ArrowUp"):
        page.keyboard.press(key)
    expect(page.locator(".turn")).to_have_count(1)
    held[0].abort()
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    page.wait_for_load_state("networkidle")
    assert len(sent) == 1
    page.unroute("**/step")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".turn")).to_have_count(2)


@pytest.mark.parametrize("width", ["wide", "phone"])
def test_a_game_is_played_by_the_moves_that_are_legal_now_beside_its_latest_board(
    open_tab: Open, odd_server: ServerProcess, width: str
) -> None:
    visit = open_tab(f"{odd_server.url}/", width)
    page = visit.page
    visit.goto("play/odd/narrowing-v0?seed=1")
    board = page.locator(".stage .quote.current")
    moves = page.get_by_role("group", name="take").get_by_role("button")
    expect(moves).to_have_text(["0-1", "0-2", "0-3", "1-1", "2-1", "2-2"])
    expect(board).to_contain_text("0: | | |")
    moves.get_by_text("0-2").click()
    expect(moves).to_have_text(["0-1", "1-1", "2-1", "2-2"])
    expect(board).not_to_contain_text("0: | |")
    # Of several lines: Enter sends, as in any field, and what is missing is not sent.
    note = page.get_by_label("text", exact=True)
    note.press("Enter")
    expect(page.locator(".turn")).to_have_count(2)
    note.fill("one\ntw")
    note.press("o")
    note.press("Shift+Enter")
    note.press("3")
    note.press("Enter")
    expect(board).to_contain_text("Last note: one two 3")
    expect(note).to_be_focused()
    expect(note).to_have_value("")
    assert axe.Axe().run(page).violations_count == 0
    for move in ("0-1", "1-1"):
        moves.get_by_text(move).click()
        expect(moves.get_by_text(move)).to_have_count(0)
    moves.get_by_text("2-2").click()
    expect(page.locator(".facts")).to_contain_text("solved")
    page.get_by_role("button", name="Undo").click()
    expect(moves).to_have_text(["2-1", "2-2"])
    moves.get_by_text("2-2").click()
    expect(page.locator(".facts")).to_contain_text("solved")
    other = open_tab(f"{odd_server.url}/", width)
    other.page.goto(page.url)
    expect(other.page.locator(".turn")).to_have_count(6)
    expect(other.page.locator(".stage .quote.current")).to_contain_text("Last note: one two 3")
    assert visit.faults == other.faults == []


def test_an_environment_of_a_link_that_is_not_there_is_told_by_name(
    open_tab: Open, server: ServerProcess
) -> None:
    visit = open_tab(f"{server.url}/")
    page = visit.page
    visit.goto("catalogue/verl_env/sokobann-v0")
    expect(page.get_by_role("alert")).to_contain_text("Did you mean 'verl_env/sokoban-v0'")
    page.get_by_role("link", name="countdown", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("countdown")
    expect(page.get_by_role("alert")).to_have_count(0)


CHAT = "verl_env/single_turn_chat-v0"
HOSTILE = (
    "<script>window.ran = 1</script><img src=x onerror='window.ran = 2'>\n"
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645 (abc)\n\u202elive\u202c "
    + "W" * 3000
)


@pytest.mark.parametrize("width", ["wide", "phone"])
def test_whatever_a_text_holds_it_is_shown_as_text_and_whole(
    open_tab: Open, server: ServerProcess, width: str
) -> None:
    run = f"<b>{'R' * 80}</b>{uuid.uuid4().hex[:6]}"
    args = orjson.dumps({"task_prompt": HOSTILE}).decode()
    request = {"env_name": CHAT, "env_kwargs": {"task_prompt": HOSTILE}, "run_id": run}
    with httpx.Client(base_url=f"{server.url}/", timeout=HANG_S) as client:
        env_id = client.post("api/environment/initialize", json=request).json()["env_id"]
        action = f"<think>{HOSTILE}</think>{HOSTILE}"
        client.post(f"api/environment/{env_id}/step", json={"action": action})
        client.post(f"api/environment/{env_id}/close")
    visit = open_tab(f"{server.url}/", width)
    page = visit.page
    visit.goto(f"episodes/{env_id}.0")
    expect(page.locator(".turn")).to_have_count(2)
    page.locator("summary").first.click()
    assert page.evaluate("window.ran") is None
    parts = ".reader header *, .turn *"
    cut = "all => all.filter(one => one.getBoundingClientRect().right > innerWidth + 1).map(one => one.outerHTML)"
    assert page.locator(parts).evaluate_all(cut) == []
    wide = "all => all.filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.outerHTML.slice(0, 99))"
    assert page.locator(".reader header, .turn, .turn .text").evaluate_all(wide) == []
    for address in (
        f"episodes?run={quote(run)}",
        f"cluster/run/{quote(run)}",
        "cluster",
        f"play/{CHAT}?args={quote(args)}",
    ):
        visit.goto(address)
        expect(page.locator(".rows tbody tr, .summary, .node, .turns").first).to_be_visible()
        # Tables of workers scroll sideways; what only a screen reader has is one pixel wide.
        shown = page.locator("main *:not(.node table, .node table *, .hidden)")
        assert shown.evaluate_all(cut) == []
    assert visit.faults == []


def test_where_a_page_may_not_copy_the_text_is_shown_selected_for_the_person_to_copy(
    open_tab: Open, server: ServerProcess
) -> None:
    visit = open_tab(f"{server.url}/")
    page = visit.page
    # As over plain HTTP from another machine.
    page.add_init_script("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    visit.goto(SOKOBAN)
    for _ in range(2):
        page.get_by_role("button", name="Copy link").click()
        dialog = page.get_by_role("dialog", name="Copy")
        field = dialog.get_by_role("textbox")
        expect(field).to_be_focused()
        link = page.evaluate("location.href")
        assert page.evaluate("getSelection().toString()") == link
        assert axe.Axe().run(page).violations_count == 0
        page.keyboard.press("Control+c")
        page.keyboard.press("Escape")
        expect(dialog).to_have_count(0)
        text = page.get_by_label(TEXT)
        text.fill("")
        page.keyboard.press("Control+v")
        expect(text).to_have_value(link)
    page.get_by_role("button", name="Copy link").click()
    page.get_by_role("button", name="Close").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert visit.faults == []


def test_a_token_is_asked_for_once_and_kept_for_the_tab(open_tab: Open, start_server: StartServer) -> None:
    guarded = start_server(VERL_AGENT_ENV_AUTH_TOKENS="let-me-in")
    visit = open_tab(f"{guarded.url}/")
    page = visit.page
    visit.goto(SOKOBAN)
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Token").fill("wrong")
    dialog.get_by_role("button", name="Continue").click()
    expect(dialog).to_contain_text("does not know this token")
    dialog.get_by_label("Token").fill("let-me-in")
    dialog.get_by_role("button", name="Continue").click()
    expect(page.locator(".stage img")).to_be_visible()
    page.get_by_role("button", name="push down").click()
    expect(page.locator(".turn")).to_have_count(2)
    page.reload()
    expect(page.locator(".turn")).to_have_count(2)
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert page.evaluate("JSON.stringify(localStorage)") == "{}"


def test_the_stream_of_the_cluster_asks_for_a_token_as_any_call_does(
    open_tab: Open, start_server: StartServer
) -> None:
    guarded = start_server(VERL_AGENT_ENV_AUTH_TOKENS="let-me-in")
    visit = open_tab(f"{guarded.url}/", "phone")
    visit.goto("cluster")
    dialog = visit.page.get_by_role("dialog")
    assert axe.Axe().run(visit.page).violations_count == 0
    dialog.get_by_label("Token").fill("let-me-in")
    dialog.get_by_role("button", name="Continue").click()
    expect(visit.page.locator(".facts")).to_contain_text("4096 of 4096")


def open_samples(open_tab: Open, server: ServerProcess) -> tuple[Visit, str]:
    """Play three samples, and open the list of their run; gives the tab and the run."""
    run = f"run-{uuid.uuid4().hex[:6]}"
    play_samples(f"{server.url}/", run)
    visit = open_tab(f"{server.url}/")
    visit.goto(f"episodes?run={run}")
    expect(visit.page.locator(".rows tbody tr")).to_have_count(3)
    return visit, run


def test_a_training_is_read_by_its_steps_and_its_tokens_are_told(
    open_tab: Open, server: ServerProcess
) -> None:
    visit, run = open_samples(open_tab, server)
    page = visit.page
    field = page.get_by_role("textbox", name="Training step")
    field.fill("1")
    field.press("Enter")
    expect(page.locator(".rows tbody tr")).to_have_count(1)
    expect(page.locator(".rows tbody tr")).to_contain_text(f"{run}, step 1")
    page.keyboard.press("Escape")
    page.locator(".rows .link").click()
    expect(page.locator(".reader header")).to_contain_text("21 tokens")
    expect(page.locator(".turn").nth(1)).to_contain_text("7 tokens")
    page.get_by_role("link", name="Play on").click()
    expect(page.locator(".facts")).to_contain_text("Steps3")
    assert visit.faults == []


def test_two_are_marked_and_compared_by_keys_and_an_export_is_saved(
    open_tab: Open, server: ServerProcess
) -> None:
    visit, _ = open_samples(open_tab, server)
    page = visit.page
    for key in ("x", "j", "x"):
        page.keyboard.press(key)
    expect(page.get_by_role("button", name="Compare 2 of 2")).to_be_enabled()
    with page.expect_download() as saving:
        page.get_by_role("button", name="Save as JSONL").click()
    assert len(Path(saving.value.path()).read_bytes().splitlines()) == 3
    page.keyboard.press("c")
    expect(page.locator(".reader")).to_have_count(2)
    page.get_by_role("link", name="alone").first.click()
    page.get_by_role("link", name="Play on").click()
    expect(page.locator(".facts")).to_contain_text("Steps3")
    assert visit.faults == []


def test_enter_does_what_is_focused_and_an_episode_leads_back_to_the_list_that_it_was_found_in(
    open_tab: Open, server: ServerProcess
) -> None:
    visit, run = open_samples(open_tab, server)
    page = visit.page
    page.get_by_role("button", name="with invalid actions").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".rows tbody tr")).to_have_count(1)
    page.get_by_role("button", name="with invalid actions").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".rows tbody tr")).to_have_count(3)
    page.keyboard.press("j")
    expect(page.locator(".rows tr.current a")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".reader")).to_have_count(1)
    page.keyboard.press("p")
    page.keyboard.press("Escape")
    expect(page.get_by_label("Run", exact=True)).to_have_value(run)
    page.locator(".rows .link").first.click()
    page.get_by_role("link", name="← Episodes").click()
    expect(page.get_by_label("Run", exact=True)).to_have_value(run)
    assert visit.faults == []


def test_a_filter_that_the_server_refuses_can_be_mended(open_tab: Open, server: ServerProcess) -> None:
    visit, _ = open_samples(open_tab, server)
    page = visit.page
    field = page.get_by_label("Reward from")
    for wanted, found in (("much", 0), ("-1", 3)):
        field.fill(wanted)
        field.press("Enter")
        expect(page.get_by_role("alert")).to_have_count(int(not found))
        expect(page.locator(".rows tbody tr")).to_have_count(found)
    assert len(visit.faults) == 1, "the browser notes the refusal"


def test_the_page_of_an_evaluation_is_the_viewer_in_one_file_that_asks_nobody(
    open_tab: Open, tmp_path: Path
) -> None:
    usage = {"prompt_tokens": 1234, "completion_tokens": 17}
    said: list[dict[str, Any]] = [
        {"role": "user", "content": "Where to? <script>window.ran = true</script>"},
        {
            "role": "assistant",
            "content": "<answer>left</answer>",
            "reasoning_content": "It is near.",
            "usage": usage,
        },
        {"role": "user", "content": "A wall."},
    ]
    plan = EvaluationPlan("tiny", "frozen_lake", 2, 10, {})
    played = [EvaluatedEpisode(1, "success", 1.0, 1, messages=said), EvaluatedEpisode(2, "out_of_turns")]
    path = tmp_path / "page.html"
    path.write_text(write_page(plan, played), "utf-8")
    visit = open_tab("")
    page = visit.page
    page.goto(path.as_uri())
    expect(page.locator(".rows tbody tr")).to_have_count(2)
    page.get_by_role("searchbox").fill("a wall")
    page.get_by_role("searchbox").press("Enter")
    expect(page.locator(".rows tbody tr")).to_have_count(1)
    page.get_by_role("link", name="seed 1").click()
    page.keyboard.press("j")
    expect(page.get_by_text("It is near.")).to_be_visible()
    expect(page.locator(".turn").nth(1)).to_contain_text("17 tokens after 1,234")
    assert page.evaluate("window.ran") is None
    assert axe.Axe().run(page).violations_count == 0
    assert [fault for fault in visit.faults if not fault.startswith("file:")] == []
