"""Actions that a request carries out first: all of them or none, once, and as steps of their own would."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.server.conftest import GATED, LAKE, MakeClient, Problem

INITIALIZE = "/api/environment/initialize"
BOX = {"env_name": "sokoban_small", "seed": 3}
ACTIONS: list[Any] = ["<think>Down?</think><answer>down</answer>", "<answer>left</answer>", "I jump"]


async def played_one_by_one(
    client: httpx.AsyncClient, actions: list[Any], **made: Any
) -> tuple[Any, list[Any]]:
    """The answers of an episode whose steps are asked for one after the other."""
    begun = (await client.post(INITIALIZE, json=made)).json()
    path = f"/api/environment/{begun['env_id']}/step"
    return begun, [(await client.post(path, json={"action": action})).json() for action in actions]


async def state_of(client: httpx.AsyncClient, env_id: str) -> Any:
    return (await client.get(f"/api/environment/{env_id}")).json()


@pytest.mark.parametrize("made", [BOX, {"env_name": "countdown", "seed": 4}, {**BOX, "run_id": "run"}])
async def test_an_environment_begins_where_the_same_steps_would_have_led(
    client: httpx.AsyncClient, made: dict[str, Any]
) -> None:
    begun, steps = await played_one_by_one(client, ACTIONS, **made)
    first = (await client.post(INITIALIZE, json={**made, "actions": ACTIONS})).json()
    assert (first["observation"], first["info"], first["steps"]) == (
        begun["observation"],
        begun["info"],
        steps,
    )
    state = await state_of(client, first["env_id"])
    assert (state["seq"], state["ended"]) == (3, False)
    for action, seq in (("up", 3), ("down", 4)):
        answers = [
            (await client.post(f"/api/environment/{env_id}/step", json={"action": action, "seq": seq})).json()
            for env_id in (begun["env_id"], first["env_id"])
        ]
        assert answers[0] == answers[1]
    told = [
        (await client.get(f"/api/environment/{e['env_id']}/trajectory")).json()["steps"]
        for e in (begun, first)
    ]
    assert told[0] == told[1]


async def test_a_reset_undoes_a_step_in_one_call_and_is_answered_again_as_it_was(
    client: httpx.AsyncClient,
) -> None:
    begun, steps = await played_one_by_one(client, ACTIONS, **BOX)
    path = f"/api/environment/{begun['env_id']}"
    asked = {"seed": 3, "actions": ACTIONS[:2]}
    once = await client.post(f"{path}/reset", json=asked, headers={"x-operation-id": "undo"})
    assert once.json()["steps"] == steps[:2]
    episode = (await state_of(client, begun["env_id"]))["episode"]
    third = await client.post(f"{path}/step", json={"action": ACTIONS[2], "seq": 2})
    assert third.json() == steps[2]
    again = await client.post(f"{path}/reset", json=asked, headers={"x-operation-id": "undo"})
    assert again.content == once.content
    state = await state_of(client, begun["env_id"])
    assert (state["episode"], state["seq"]) == (episode, 3)
    # A step of the episode is repeated as any other.
    repeated = await client.post(f"{path}/step", json={"action": ACTIONS[2], "seq": 2})
    assert repeated.json() == steps[2]
    # Without actions it is an ordinary reset.
    assert "steps" not in (await client.post(f"{path}/reset", json={"seed": 3})).json()
    assert (await client.post(f"{path}/reset", json={"seed": 3, "actions": []})).json()["steps"] == []


async def test_a_key_makes_one_environment_of_all_attempts(client: httpx.AsyncClient) -> None:
    asked = {**BOX, "actions": ACTIONS}
    headers = {"idempotency-key": "one"}
    answers = [await client.post(INITIALIZE, json=asked, headers=headers) for _ in range(3)]
    assert len({answer.content for answer in answers}) == 1
    state = await state_of(client, answers[0].json()["env_id"])
    assert state["seq"] == 3


async def test_what_cannot_be_played_to_its_end_changes_nothing(
    make_client: MakeClient, problem: Problem
) -> None:
    client = await make_client()
    goal = {"env_name": LAKE, "env_kwargs": {"desc": ["SG", "FF"], "is_slippery": False}, "seed": 1}
    begun, steps = await played_one_by_one(client, ["down"], **goal)
    path = f"/api/environment/{begun['env_id']}"
    before = await state_of(client, begun["env_id"])
    too_many = {"seed": 1, "actions": ["right", "right"]}
    refused = problem(await client.post(f"{path}/reset", json=too_many), 422, "invalid_request")
    assert refused["errors"][0]["loc"] == ["actions", 1]
    problem(await client.post(f"{path}/reset", json={"actions": ["down"]}), 422, "invalid_request")
    too_long = {"seed": 1, "actions": ["x" * 2_000_000]}
    problem(await client.post(f"{path}/reset", json=too_long), 413, "action_too_large")
    problem(
        await client.post(f"{path}/reset", json={"seed": 1, "actions": ["up"] * 1001}), 422, "invalid_request"
    )
    after = await state_of(client, begun["env_id"])
    assert {**after, "age_s": 0, "idle_s": 0} == {**before, "age_s": 0, "idle_s": 0}
    assert (await client.post(f"{path}/step", json={"action": "down", "seq": 0})).json() == steps[0]
    live = (await client.get("/api/cluster")).json()["nodes"][0]["workers"][0]["live_envs"]
    problem(await client.post(INITIALIZE, json={**goal, **too_many}), 422, "invalid_request")
    assert (await client.get("/api/cluster")).json()["nodes"][0]["workers"][0]["live_envs"] == live
    gated = problem(
        await client.post(INITIALIZE, json={"env_name": GATED, "actions": ["up"]}), 422, "invalid_request"
    )
    assert gated["errors"][0]["loc"] == ["actions"]


async def test_an_episode_may_end_with_its_last_first_action_and_its_result_is_counted(
    client: httpx.AsyncClient,
) -> None:
    goal = {"env_name": LAKE, "env_kwargs": {"desc": ["SG", "FF"], "is_slippery": False}, "seed": 1}
    first = (await client.post(INITIALIZE, json={**goal, "run_id": "won", "actions": ["right"]})).json()
    assert first["steps"][0]["terminated"]
    assert (await state_of(client, first["env_id"]))["ended"]
    (task,) = (await client.get("/api/runs/won/tasks")).json()["tasks"]
    assert (task["tries"], task["successes"]) == (1, 1)
