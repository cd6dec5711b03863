"""The calls on one environment, in process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from tests.server.conftest import GATED, LAKE, RIGHT, MakeClient, Problem
from verl_agent_env.envs.registry import BUILT_IN

Initialize = Callable[..., Awaitable[str]]
ONE = "/api/environment/{}"
MAPPED = {"desc": ["SFF", "FFF", "FFG"], "is_slippery": False}


async def test_initialize_answers_id_message_and_the_episodes_beginning(client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/environment/initialize", json={"env_name": "frozen_lake", "seed": 5})
    body = answer.json()
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert set(body) == {"message", "env_id", "observation", "info"}
    assert len(body["env_id"]) == 36
    assert body["observation"][0]["role"] == "user"
    assert body["info"]["seed"] == 5


async def test_initialize_without_seed_gives_different_seeds(client: httpx.AsyncClient) -> None:
    seeds = set()
    for _ in range(3):
        answer = await client.post("/api/environment/initialize", json={"env_name": LAKE})
        seeds.add(answer.json()["info"]["seed"])
    assert len(seeds) == 3


async def test_same_seed_gives_the_same_beginning(client: httpx.AsyncClient) -> None:
    request = {"env_name": LAKE, "seed": 9, "env_kwargs": {"size": 6}}
    first = (await client.post("/api/environment/initialize", json=request)).json()
    second = (await client.post("/api/environment/initialize", json=request)).json()
    assert first["env_id"] != second["env_id"]
    assert first["observation"] == second["observation"]


async def test_step_answers_all_fields(client: httpx.AsyncClient, initialize: Initialize) -> None:
    env_id = await initialize(client, env_kwargs=MAPPED)
    answer = await client.post(f"/api/environment/{env_id}/step", json={"action": RIGHT, "seq": 0})
    body = answer.json()
    assert answer.status_code == 200
    assert set(body) == {"observation", "reward", "done", "terminated", "truncated", "info"}
    assert body["observation"][0]["role"] == "tool"
    assert body["observation"][0]["tool_call_id"] == "call_1"
    assert (body["reward"], body["done"], body["terminated"], body["truncated"]) == (0.0, False, False, False)
    assert body["info"]["action_is_valid"] is True


async def test_step_to_the_goal_ends_the_episode(
    client: httpx.AsyncClient, initialize: Initialize, problem: Problem
) -> None:
    env_id = await initialize(client, env_kwargs=MAPPED)
    path = f"/api/environment/{env_id}/step"
    for word in ("right", "right", "down"):
        answer = await client.post(path, json={"action": f"<action>{word}</action>"})
        assert answer.json()["done"] is False
    last = (await client.post(path, json={"action": "down"})).json()
    assert (last["reward"], last["done"], last["terminated"]) == (1.0, True, True)
    found = problem(await client.post(path, json={"action": "up"}), 409, "episode_ended")
    assert found["env_id"] == env_id


async def test_repeated_seq_gets_the_stored_answer(client: httpx.AsyncClient, initialize: Initialize) -> None:
    env_id = await initialize(client, env_kwargs=MAPPED)
    path = f"/api/environment/{env_id}/step"
    first = await client.post(path, json={"action": RIGHT, "seq": 0})
    again = await client.post(path, json={"action": RIGHT, "seq": 0})
    state = (await client.get(f"/api/environment/{env_id}")).json()
    assert again.content == first.content
    assert state["seq"] == 1


async def test_wrong_seq_is_refused_and_changes_nothing(
    client: httpx.AsyncClient, initialize: Initialize, problem: Problem
) -> None:
    env_id = await initialize(client, env_kwargs=MAPPED)
    path = f"/api/environment/{env_id}/step"
    for seq in (0, 1):
        assert (await client.post(path, json={"action": RIGHT, "seq": seq})).status_code == 200
    gap = problem(await client.post(path, json={"action": RIGHT, "seq": 7}), 409, "sequence_gap")
    stale = problem(await client.post(path, json={"action": RIGHT, "seq": 0}), 409, "sequence_stale")
    conflict = problem(await client.post(path, json={"action": "up", "seq": 1}), 409, "sequence_conflict")
    assert [found["expected_seq"] for found in (gap, stale, conflict)] == [2, 2, 2]
    assert (await client.get(f"/api/environment/{env_id}")).json()["seq"] == 2


async def test_reset_begins_another_episode(client: httpx.AsyncClient, initialize: Initialize) -> None:
    env_id = await initialize(client, env_kwargs=MAPPED)
    await client.post(f"/api/environment/{env_id}/step", json={"action": RIGHT})
    answer = await client.post(f"/api/environment/{env_id}/reset", json={"seed": 4})
    assert set(answer.json()) == {"observation", "info"}
    assert answer.json()["info"]["seed"] == 4
    state = (await client.get(f"/api/environment/{env_id}")).json()
    assert (state["episode"], state["seq"], state["seed"]) == (1, 0, 4)


async def test_reset_that_nginx_sends_again_takes_no_step_away(
    client: httpx.AsyncClient, initialize: Initialize
) -> None:
    env_id = await initialize(client, env_kwargs=MAPPED)
    path, sent = f"/api/environment/{env_id}", {"X-Operation-Id": "a"}
    first = await client.post(f"{path}/reset", json={"seed": 4}, headers=sent)
    await client.post(f"{path}/step", json={"action": RIGHT, "seq": 0})
    again = await client.post(f"{path}/reset", json={"seed": 4}, headers=sent)
    assert again.content == first.content
    assert (await client.get(path)).json()["seq"] == 1


async def test_copy_of_a_numbered_step_that_arrives_in_the_next_episode_is_not_taken(
    client: httpx.AsyncClient, initialize: Initialize, problem: Problem
) -> None:
    env_id = await initialize(client, env_kwargs=MAPPED)
    path, body, sent = f"/api/environment/{env_id}", {"action": RIGHT, "seq": 0}, {"X-Operation-Id": "a"}
    await client.post(f"{path}/step", json=body, headers=sent)
    await client.post(f"{path}/reset", json={"seed": 4})
    problem(await client.post(f"{path}/step", json=body, headers=sent), 409, "sequence_stale")
    assert (await client.get(path)).json()["seq"] == 0
    assert (await client.post(f"{path}/step", json=body, headers={"X-Operation-Id": "b"})).status_code == 200


async def test_reset_with_an_empty_body_is_a_reset_without_seed(
    client: httpx.AsyncClient, initialize: Initialize
) -> None:
    env_id = await initialize(client, seed=3)
    answer = await client.post(f"/api/environment/{env_id}/reset")
    assert answer.json()["info"]["seed"] == 3


async def test_close_twice_is_a_success_and_later_calls_say_closed(
    client: httpx.AsyncClient, initialize: Initialize, problem: Problem
) -> None:
    env_id = await initialize(client)
    for _ in range(2):
        answer = await client.post(f"/api/environment/{env_id}/close")
        assert (answer.status_code, set(answer.json())) == (200, {"message"})
    for method, verb in (("POST", "step"), ("POST", "reset"), ("GET", "task-prompt"), ("GET", "trajectory")):
        found = problem(
            await client.request(
                method, f"/api/environment/{env_id}/{verb}", json={"action": ""} if verb == "step" else {}
            ),
            404,
            "environment_closed",
        )
        assert (found["env_id"], found["reason"]) == (env_id, "closed")


@pytest.mark.parametrize(
    ("method", "verb"),
    [
        ("POST", "/reset"), ("POST", "/step"), ("POST", "/close"), ("GET", ""), ("GET", "/action-space"),
        ("GET", "/task-prompt"), ("GET", "/allow-parallel-tool-call"), ("GET", "/tools-schema-openai"),
        ("GET", "/tools-schema-anthropic"), ("GET", "/render"), ("GET", "/trajectory"), ("POST", "/read-action"),
    ],
)  # fmt: skip
async def test_every_call_on_an_unknown_id_is_environment_not_found(
    client: httpx.AsyncClient, problem: Problem, method: str, verb: str
) -> None:
    body = {"action": "up"} if verb in ("/step", "/read-action") else {}
    answer = await client.request(method, f"/api/environment/nobody{verb}", json=body)
    assert problem(answer, 404, "environment_not_found")["env_id"] == "nobody"


async def test_state_tells_where_the_environment_stands(
    client: httpx.AsyncClient, initialize: Initialize
) -> None:
    env_id = await initialize(client, seed=6, run_id="run-1", ttl_s=50)
    state = (await client.get(f"/api/environment/{env_id}")).json()
    assert set(state) == {
        "env_id", "env_name", "owner", "episode", "seed", "seq", "ended", "lost", "run_id", "age_s", "idle_s", "ttl_s",
    }  # fmt: skip
    assert (state["env_id"], state["env_name"], state["run_id"]) == (env_id, LAKE, "run-1")
    assert (state["episode"], state["seed"], state["seq"], state["ended"], state["lost"]) == (
        0,
        6,
        0,
        False,
        None,
    )
    assert state["ttl_s"] == 50.0
    assert state["age_s"] >= 0


async def test_trajectory_shows_actions_and_answers(
    client: httpx.AsyncClient, initialize: Initialize
) -> None:
    env_id = await initialize(client, seed=8, env_kwargs=MAPPED)
    answers = [
        (await client.post(f"/api/environment/{env_id}/step", json={"action": action})).json()
        for action in (RIGHT, "no action at all")
    ]
    shown = (await client.get(f"/api/environment/{env_id}/trajectory")).json()
    assert (shown["env_id"], shown["env_name"], shown["episode"], shown["seed"]) == (env_id, LAKE, 0, 8)
    assert shown["complete"] is True
    assert shown["observation"][0]["role"] == "user"
    assert [step["action"] for step in shown["steps"]] == [RIGHT, "no action at all"]
    assert [step["seq"] for step in shown["steps"]] == [0, 1]
    for step, answer in zip(shown["steps"], answers, strict=True):
        assert {key: step[key] for key in answer} == answer


@pytest.mark.parametrize(
    ("mode", "media_type", "beginning"),
    [("ansi", "text/plain", b""), ("svg", "image/svg+xml", b"<svg"), ("png", "image/png", b"\x89PNG")],
)
async def test_render_draws_in_each_mode(
    client: httpx.AsyncClient, initialize: Initialize, mode: str, media_type: str, beginning: bytes
) -> None:
    env_id = await initialize(client)
    answer = await client.get(f"/api/environment/{env_id}/render", params={"mode": mode})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(media_type)
    assert answer.content.startswith(beginning)
    assert len(answer.content) > 10


@pytest.mark.parametrize("mode", ["x" * 5000, "", "ANSI", "rgb_array", "\x00"])
async def test_render_in_an_unknown_mode_names_the_known_ones(
    client: httpx.AsyncClient, initialize: Initialize, problem: Problem, mode: str
) -> None:
    env_id = await initialize(client)
    answer = await client.get(f"/api/environment/{env_id}/render", params={"mode": mode})
    found = problem(answer, 422, "render_mode_unsupported")
    assert {"ansi", "svg", "png"} <= set(found["supported"])
    assert len(answer.content) < 1000


async def test_render_of_an_environment_without_pictures_is_a_problem(
    client: httpx.AsyncClient, initialize: Initialize, problem: Problem
) -> None:
    env_id = await initialize(client, GATED)
    answer = await client.get(f"/api/environment/{env_id}/render")
    assert problem(answer, 422, "render_mode_unsupported")["supported"] == []


@pytest.mark.parametrize("env_name", sorted({spec.entry_point: spec.name for spec in BUILT_IN}.values()))
async def test_every_kind_tells_its_prompt_tools_and_actions(
    client: httpx.AsyncClient, initialize: Initialize, env_name: str
) -> None:
    env_id = await initialize(client, env_name)

    async def get(verb: str) -> Any:
        answer = await client.get(f"/api/environment/{env_id}/{verb}")
        assert answer.status_code == 200
        (value,) = answer.json().values()
        return value

    assert await get("task-prompt")
    assert isinstance(await get("allow-parallel-tool-call"), bool)
    openai, anthropic = await get("tools-schema-openai"), await get("tools-schema-anthropic")
    assert [tool["function"]["name"] for tool in openai] == [tool["name"] for tool in anthropic]
    assert all(tool["type"] == "function" for tool in openai)
    schema = await get("action-space")
    Draft202012Validator.check_schema(schema)
    assert Draft202012Validator(schema).is_valid({"role": "assistant", "content": "up"})


@pytest.mark.parametrize(
    ("action", "form", "thought", "calls", "place"),
    [
        (RIGHT, "tool_calls", "", [("move_right", None)], None),
        ("<think>é</think><answer>up</answer>", "answer", "é", [("move_up", None)], [24, 26]),
        ("jump", "words", "", [("", "'jump' is not an action.")], [0, 4]),
        (
            '<tool_call>{"name": "fly", "arguments": {}}</tool_call>',
            "hermes",
            "",
            [("fly", "There is no tool 'fly'.")],
            [0, 55],
        ),
    ],
)
async def test_an_action_is_read_as_a_step_reads_it_and_nothing_is_changed(
    client: httpx.AsyncClient,
    initialize: Initialize,
    action: Any,
    form: str,
    thought: str,
    calls: list[tuple[str, str | None]],
    place: list[int] | None,
) -> None:
    env_id = await initialize(client, env_kwargs=MAPPED)
    before = (await client.get(f"/api/environment/{env_id}/render")).text
    answer = await client.post(f"/api/environment/{env_id}/read-action", json={"action": action})
    read = answer.json()
    assert answer.status_code == 200
    assert (read["form"], read["thought"], read["place"]) == (form, thought, place)
    assert [(call["name"], call["fault"]) for call in read["calls"]] == calls
    assert read["valid"] is all(fault is None for _, fault in calls)
    assert read["problem"] == next((fault for _, fault in calls if fault is not None), None)
    state = (await client.get(f"/api/environment/{env_id}")).json()
    assert (state["seq"], (await client.get(f"/api/environment/{env_id}/render")).text) == (0, before)
    step = await client.post(f"/api/environment/{env_id}/step", json={"action": action, "seq": 0})
    assert step.json()["info"]["action_is_valid"] is read["valid"]


async def test_each_step_tells_how_its_action_was_read_where_that_is_asked_for(
    client: httpx.AsyncClient, initialize: Initialize
) -> None:
    env_id = await initialize(client, env_kwargs={**MAPPED, "include_reading": True})
    path = f"/api/environment/{env_id}"
    for seq, action in enumerate([RIGHT, "<think>é</think><answer>up</answer>", "jump", 7]):
        read = (await client.post(f"{path}/read-action", json={"action": action})).json()
        if seq % 2:
            batch = {"env_ids": [env_id], "actions": [action], "seqs": [seq]}
            info = (await client.post("/api/batch/step", json=batch)).json()["infos"][0]
        else:
            info = (await client.post(f"{path}/step", json={"action": action, "seq": seq})).json()["info"]
        assert info["reading"] == read
    told = (await client.get(f"{path}/trajectory")).json()["steps"]
    assert told[3]["info"]["reading"]["problem"] == read["problem"] is not None


async def test_an_action_that_no_step_would_take_is_not_read(
    make_client: MakeClient, initialize: Initialize, problem: Problem
) -> None:
    client = await make_client(host={"max_action_bytes": 100})
    env_id = await initialize(client)
    path = f"/api/environment/{env_id}/read-action"
    problem(await client.post(path, json={"action": "x" * 101}), 413, "action_too_large")
    problem(await client.post(path, json={}), 422, "invalid_request")


async def test_catalogue_names_the_family_and_how_to_draw(client: httpx.AsyncClient) -> None:
    listed = {kind["name"]: kind for kind in (await client.get("/api/environments")).json()["environments"]}
    assert listed["verl_env/frozen_lake_ragen-v2"]["family"] == LAKE == listed[LAKE]["family"]
    assert listed[LAKE]["render_modes"] == ["ansi", "png", "svg"]
    assert listed["verl_env/countdown-v0"]["render_modes"] == ["ansi"]


async def test_catalogue_lists_every_environment_that_can_be_imported(client: httpx.AsyncClient) -> None:
    listed = {kind["name"]: kind for kind in (await client.get("/api/environments")).json()["environments"]}
    assert {spec.name for spec in BUILT_IN} | {GATED} == set(listed)
    lake = listed[LAKE]
    assert (lake["execution"], lake["deterministic"]) == ("inline", True)
    assert lake["description"]
    assert {tool["function"]["name"] for tool in lake["tools"]} >= {"move_right", "move_left"}
    for kind in listed.values():
        Draft202012Validator.check_schema(kind["kwargs_schema"])


async def test_catalogue_follows_the_registry(client: httpx.AsyncClient) -> None:
    from tests.server.conftest import app_of
    from tests.server.slow_env import ENTRY_POINT
    from verl_agent_env.envs.registry import EnvSpec

    await client.get("/api/environments")
    app_of(client).env_host.registry.register(EnvSpec("slow/added-v0", ENTRY_POINT))
    names = [kind["name"] for kind in (await client.get("/api/environments")).json()["environments"]]
    assert "slow/added-v0" in names
