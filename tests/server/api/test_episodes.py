"""Kept episodes over HTTP: lists, one of them, runs and exports, for whom they belong to."""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import orjson
import pyarrow.parquet
import pytest

from tests.server.conftest import LAKE, RIGHT, MakeClient, Problem, app_of
from tests.server.http.test_holders import as_, token_file  # noqa: F401 - a fixture
from tests.waiting import HANG_S
from tests.web.browser.narrowing_env import NarrowingEnv
from verl_agent_env.cluster.memory.episodes import MemoryEpisodes
from verl_agent_env.engine import inspection
from verl_agent_env.engine.episodes import search
from verl_agent_env.engine.episodes.conversations import conversation_of
from verl_agent_env.envs.registry import EnvSpec

SOKOBAN = "verl_env/sokoban_small-v0"
UP = "<think>Above me.</think><answer>up</answer>"

Initialize = Callable[..., Awaitable[str]]


@pytest.fixture
async def keeping(make_client: MakeClient) -> httpx.AsyncClient:
    return await make_client(keep_trajectories="memory")


@pytest.fixture
def play(initialize: Initialize) -> Callable[..., Awaitable[str]]:
    """A function that plays an episode to its end, and gives its id."""

    async def played(client: httpx.AsyncClient, *actions: Any, env_name: str = LAKE, **request: Any) -> str:
        env_id = await initialize(client, env_name, **request)
        for action in actions:
            answer = await client.post(f"/api/environment/{env_id}/step", json={"action": action})
            assert answer.status_code == 200, answer.text
        await client.post(f"/api/environment/{env_id}/close")
        return f"{env_id}.0"

    return played


async def get(client: httpx.AsyncClient, path: str, **options: Any) -> Any:
    answer = await client.get(path, **options)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_an_action_that_was_taken_is_not_told_to_be_invalid_by_an_environment_with_other_tools(
    keeping: httpx.AsyncClient, play: Callable[..., Awaitable[str]]
) -> None:
    env_name = NarrowingEnv.env_name
    app_of(keeping).env_host.registry.register(
        EnvSpec(env_name, f"{NarrowingEnv.__module__}:{NarrowingEnv.__name__}")
    )
    taken, refused = (
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": name, "arguments": '{"move": "0-2"}'},
                }
            ],
        }
        for name in ("take", "jump")
    )
    plain = await play(keeping, taken, refused, env_name=env_name)
    told = await play(keeping, taken, env_name=env_name, env_kwargs={"include_reading": True})
    good, bad = (await get(keeping, f"/api/episodes/{plain}"))["steps"]
    assert good["reading"] is None
    assert not bad["reading"]["valid"]
    (good,) = (await get(keeping, f"/api/episodes/{told}"))["steps"]
    assert good["reading"]["valid"]


async def test_episodes_are_listed_by_what_is_asked_for(
    keeping: httpx.AsyncClient, play: Callable[..., Awaitable[str]]
) -> None:
    first = await play(keeping, "left", run_id="a")
    second = await play(keeping, "left", "nowhere", run_id="b")
    found = await get(keeping, "/api/episodes")
    assert [row["id"] for row in found["episodes"]] == [second, first]
    assert (found["kept"], found["total"], found["next_offset"], found["is_whole"]) == (True, 2, None, True)
    for query, wanted in (
        ("run=a", [first]),
        ("invalid=true", [second]),
        ("success=true", []),
        ("success=false&sort=num_steps&order=asc", [first, second]),
        ("text=NOWHERE", [second]),
        ("ending=unfinished&min_reward=0&run=&text=", [second, first]),
        (f"env={SOKOBAN}", []),
    ):
        page = await get(keeping, f"/api/episodes?{query}")
        assert [row["id"] for row in page["episodes"]] == wanted, query
    page = await get(keeping, "/api/episodes?limit=1")
    assert (page["total"], page["next_offset"]) == (2, 1)
    page = await get(keeping, "/api/episodes?limit=1&offset=1")
    assert page["next_offset"] is None


async def test_an_episode_is_read_with_its_actions_as_sent_and_as_read(
    keeping: httpx.AsyncClient, play: Callable[..., Awaitable[str]]
) -> None:
    episode_id = await play(keeping, UP, "<answer>upwards</answer>", env_name=SOKOBAN)
    episode = await get(keeping, f"/api/episodes/{episode_id}")
    good, bad = episode["steps"]
    assert good["action"] == UP
    assert good["reading"]["form"] == "answer"
    assert good["reading"]["thought"] == "Above me."
    assert good["reading"]["valid"]
    begin, end = good["reading"]["place"]
    assert UP[begin:end] == "up"
    assert not bad["reading"]["valid"]
    assert bad["reading"]["calls"][0]["fault"]
    assert "drawing" not in episode


async def test_past_boards_are_drawn_of_kept_and_of_live_episodes_alike(
    keeping: httpx.AsyncClient, initialize: Initialize
) -> None:
    env_id = await initialize(keeping, SOKOBAN)
    pictures = [(await keeping.get(f"/api/environment/{env_id}/render?mode=svg")).text]
    for action in ("move down", "move left", "nonsense"):
        await keeping.post(f"/api/environment/{env_id}/step", json={"action": action})
        pictures.append((await keeping.get(f"/api/environment/{env_id}/render?mode=svg")).text)
    live = await get(keeping, f"/api/environment/{env_id}/trajectory?render=svg")
    await keeping.post(f"/api/environment/{env_id}/close")
    kept = await get(keeping, f"/api/episodes/{env_id}.0?render=svg")
    for episode in (live, kept):
        assert [episode["drawing"], *(step["drawing"] for step in episode["steps"])] == pictures


async def test_what_cannot_be_drawn_says_so(
    keeping: httpx.AsyncClient, initialize: Initialize, play: Callable[..., Awaitable[str]], problem: Problem
) -> None:
    countdown = "verl_env/countdown-v0"
    env_id = await initialize(keeping, countdown)
    problem(
        await keeping.get(f"/api/environment/{env_id}/trajectory?render=svg"), 422, "render_mode_unsupported"
    )
    episode = await get(keeping, f"/api/episodes/{await play(keeping, '1', env_name=countdown)}?render=svg")
    assert (episode["drawing"], episode["steps"][0]["drawing"]) == (None, None)


async def test_runs_are_summed_up(keeping: httpx.AsyncClient, play: Callable[..., Awaitable[str]]) -> None:
    await play(keeping, "left", run_id="a")
    await play(keeping, "left", "nowhere", run_id="b")
    await play(keeping, "left", run_id="b")
    answer = await get(keeping, "/api/runs")
    assert [(run["run_id"], run["episodes"]) for run in answer["runs"]] == [("b", 2), ("a", 1)]
    assert answer["runs"][0]["points"] == []
    (run,) = (await get(keeping, "/api/runs?run=b"))["runs"]
    assert (run["episodes"], run["judged"], run["successes"], run["invalid"]) == (2, 2, 0, 1)
    assert run["endings"] == {"unfinished": 2}
    assert [(env["env_name"], env["num_steps"]) for env in run["environments"]] == [(LAKE, 3)]
    assert sum(point["episodes"] for point in run["points"]) == 2


async def test_a_training_is_found_by_its_steps_with_the_tokens_that_were_written(
    keeping: httpx.AsyncClient, play: Callable[..., Awaitable[str]]
) -> None:
    def said(step: int, tokens: int) -> dict[str, Any]:
        notes = {
            "usage": {"prompt_tokens": 9, "completion_tokens": tokens},
            "metadata": {"training_step": step},
        }
        return {"role": "assistant", "content": "left", **notes}

    ids = [await play(keeping, said(step, 5), said(step, 6), run_id="a", seed=1) for step in (0, 1)]
    await play(keeping, "left", run_id="a")
    (row,) = (await get(keeping, "/api/episodes?run=a&training_step=1"))["episodes"]
    assert (row["id"], row["training_step"], row["tokens"]) == (ids[1], 1, 11)
    assert (await get(keeping, "/api/episodes?training_step="))["total"] == 3
    steps = (await get(keeping, f"/api/episodes/{ids[0]}"))["steps"]
    assert [(step["prompt_tokens"], step["tokens"]) for step in steps] == [(9, 5), (9, 6)]
    (run,) = (await get(keeping, "/api/runs?run=a"))["runs"]
    assert [(sums["training_step"], sums["episodes"]) for sums in run["training_steps"]] == [(0, 1), (1, 1)]
    table = (await keeping.get("/api/episodes.parquet?run=a&order=asc")).content
    rows = pyarrow.parquet.read_table(io.BytesIO(table)).to_pylist()
    assert [(row["training_step"], row["tokens"]) for row in rows] == [(0, 11), (1, 11), (None, None)]


async def test_exports_hold_every_episode_that_fits(
    keeping: httpx.AsyncClient, play: Callable[..., Awaitable[str]]
) -> None:
    ids = [await play(keeping, UP, RIGHT, env_name=SOKOBAN, run_id="a", seed=seed) for seed in range(20)]
    await play(keeping, "left", run_id="b")
    lines = await keeping.get("/api/episodes.jsonl?run=a&order=asc")
    episodes = [orjson.loads(line) for line in lines.content.splitlines()]
    assert [episode["id"] for episode in episodes] == ids
    answer = await keeping.get("/api/episodes.parquet?run=a&order=asc")
    assert answer.headers["content-type"] == "application/vnd.apache.parquet"
    rows = pyarrow.parquet.read_table(io.BytesIO(answer.content)).to_pylist()
    assert [row["id"] for row in rows] == ids
    assert rows[0]["messages"] == conversation_of(episodes[0])
    roles = [message["role"] for message in rows[0]["messages"]]
    assert roles == ["user", "assistant", "user", "assistant"]
    assert rows[0]["messages"][1]["content"] == UP
    assert '"name": "move_right"' in rows[0]["messages"][3]["content"]
    assert orjson.loads(rows[0]["tools_json"])[0]["type"] == "function"
    assert (rows[0]["reward"], rows[0]["success"]) == (episodes[0]["reward"], False)


async def test_an_export_is_not_cut_where_a_list_is_and_leaves_out_what_was_deleted_meanwhile(
    keeping: httpx.AsyncClient, play: Callable[..., Awaitable[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(101):
        await play(keeping, "left", seed=seed)
    assert len((await get(keeping, "/api/episodes"))["episodes"]) == 100
    assert len((await keeping.get("/api/episodes.jsonl")).content.splitlines()) == 101
    table = io.BytesIO((await keeping.get("/api/episodes.parquet")).content)
    assert pyarrow.parquet.read_table(table).num_rows == 101
    read = MemoryEpisodes.documents

    async def without_the_first(store: MemoryEpisodes, ids: Sequence[str]) -> list[bytes | None]:
        return [None, *(await read(store, ids))[1:]]

    monkeypatch.setattr(MemoryEpisodes, "documents", without_the_first)
    lines = (await keeping.get("/api/episodes.jsonl?limit=16")).content.splitlines()
    assert len(lines) == 15
    assert all(orjson.loads(line) for line in lines)


async def test_pages_follow_on_each_other_up_to_the_last_or_while_a_text_is_not_looked_for_everywhere(
    keeping: httpx.AsyncClient, play: Callable[..., Awaitable[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        await play(keeping, "left", run_id=f"run {number}")
    offset, found = 0, []
    while offset is not None:
        page = await get(keeping, f"/api/episodes?limit=2&offset={offset}")
        found += [row["run_id"] for row in page["episodes"]]
        offset = page["next_offset"]
    assert found == [f"run {number}" for number in range(4, -1, -1)]
    # Whoever asks for what lies behind the last one has come to the end.
    assert (await get(keeping, "/api/episodes?offset=9"))["next_offset"] is None
    runs = await get(keeping, "/api/runs?limit=2&offset=3")
    assert ([run["run_id"] for run in runs["runs"]], runs["total"]) == (["run 1", "run 0"], 5)
    monkeypatch.setattr(search, "SEARCH_S", HANG_S)
    # With spaces that somebody typed.
    assert (await get(keeping, "/api/episodes?text=%20frozen%20lake%20"))["total"] == 5
    # A page that is full before all were looked at is followed by another, though no more were found so far.
    page = await get(keeping, "/api/episodes?text=lake&limit=5")
    assert (page["total"], page["is_whole"], page["next_offset"]) == (5, True, None)
    monkeypatch.setattr(search, "_DOCUMENTS_AT_ONCE", 2)
    page = await get(keeping, "/api/episodes?text=lake&limit=2")
    assert (page["total"], page["is_whole"], page["next_offset"]) == (2, False, 2)
    # There was no time for any: whoever asked for the same page again would ask for ever.
    monkeypatch.setattr(search, "SEARCH_S", -1.0)
    page = await get(keeping, "/api/episodes?text=lake&limit=2")
    assert (page["episodes"], page["is_whole"], page["next_offset"]) == ([], False, None)


async def test_a_drawing_begins_with_the_options_of_its_reset_and_one_with_missing_steps_has_none(
    keeping: httpx.AsyncClient, play: Callable[..., Awaitable[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    episode_id = await play(keeping, UP, env_name=SOKOBAN, seed=9)
    read, changes = MemoryEpisodes.documents, {b'"options":null': b'"options":{"start":2}'}
    begun: list[tuple[Any, ...]] = []

    async def changed(store: MemoryEpisodes, ids: Sequence[str]) -> list[bytes | None]:
        (document,) = await read(store, ids)
        for old, new in changes.items():
            document = (document or b"").replace(old, new)
        return [document]

    async def draw(*arguments: Any) -> list[str]:
        begun.append(arguments[3:5])
        return ["before", "after"]

    monkeypatch.setattr(MemoryEpisodes, "documents", changed)
    monkeypatch.setattr(inspection, "draw_kept", draw)
    episode = await get(keeping, f"/api/episodes/{episode_id}?render=svg")
    assert (episode["drawing"], episode["steps"][0]["drawing"]) == ("before", "after")
    changes[b'"complete":true'] = b'"complete":false'
    episode = await get(keeping, f"/api/episodes/{episode_id}?render=svg")
    assert (episode["drawing"], episode["steps"][0]["drawing"]) == (None, None)
    assert begun == [(9, b'{"start":2}')]


async def test_an_id_of_any_length_is_told_in_part(keeping: httpx.AsyncClient, problem: Problem) -> None:
    told = problem(await keeping.get(f"/api/episodes/{'x' * 4000}"), 404, "episode_not_found")
    assert "x" * 128 in told["detail"]
    assert "x" * 129 not in told["detail"]


async def test_a_server_that_keeps_nothing_says_so(client: httpx.AsyncClient, problem: Problem) -> None:
    assert (await get(client, "/api/episodes"))["kept"] is False
    assert (await get(client, "/api/runs"))["kept"] is False
    assert (await client.get("/api/episodes.jsonl")).content == b""
    problem(await client.get("/api/episodes/none.0"), 404, "episode_not_found")


@pytest.mark.parametrize(
    "query",
    [
        "success=maybe",
        "min_reward=much",
        "min_reward=nan",
        "limit=0",
        "offset=-1",
        "sort=taste",
        "order=up",
        "ending=bad",
        "seed=x",
        "sucess=true",
        "run=r&tag=x",
    ],
)
async def test_what_cannot_be_understood_is_refused(
    keeping: httpx.AsyncClient, problem: Problem, query: str
) -> None:
    for path in ("/api/episodes", "/api/runs", "/api/episodes.jsonl"):
        problem(await keeping.get(f"{path}?{query}"), 422, "invalid_request")


async def test_the_holder_of_a_token_sees_its_own(
    make_client: MakeClient, token_file: Path, problem: Problem  # noqa: F811
) -> None:
    client = await make_client(auth_file=str(token_file), keep_trajectories="memory")
    ids = {}
    for name in ("alice", "bob"):
        made = await client.post(
            "/api/environment/initialize", json={"env_name": LAKE, "run_id": "r"}, headers=as_(name)
        )
        env_id = made.json()["env_id"]
        await client.post(f"/api/environment/{env_id}/step", json={"action": "left"}, headers=as_(name))
        await client.post(f"/api/environment/{env_id}/close", headers=as_(name))
        ids[name] = f"{env_id}.0"
    problem(await client.get("/api/episodes"), 401, "unauthorized")
    for reader, seen in (
        ("alice", ["alice"]),
        ("watcher", ["alice"]),
        ("bob", ["bob"]),
        ("ops", ["bob", "alice"]),
    ):
        page = await get(client, "/api/episodes", headers=as_(reader))
        assert [row["id"] for row in page["episodes"]] == [ids[name] for name in seen]
        (run,) = (await get(client, "/api/runs", headers=as_(reader)))["runs"]
        assert run["episodes"] == len(seen)
        lines = (await client.get("/api/episodes.jsonl", headers=as_(reader))).content.splitlines()
        assert len(lines) == len(seen)
    problem(await client.get(f"/api/episodes/{ids['bob']}", headers=as_("alice")), 404, "episode_not_found")
    await get(client, f"/api/episodes/{ids['bob']}", headers=as_("ops"))
