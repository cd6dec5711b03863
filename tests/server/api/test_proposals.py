"""Actions that somebody else would take next: proposed, not carried out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

import httpx
import pytest

from tests.judge_server import JudgeServer, serving_judge
from tests.server.conftest import GATED, Problem
from verl_agent_env.envs.model_endpoints import use_endpoints

Initialize = Callable[..., Awaitable[str]]
MAPPED = {"desc": ["SFFG"], "is_slippery": False}


@pytest.fixture
def model() -> Iterator[JudgeServer]:
    """A model that goes to the right, configured as ``judge``."""
    with serving_judge(lambda _: "<answer>right</answer>") as server:
        server.use()
        yield server
    use_endpoints(None)


async def proposed(client: httpx.AsyncClient, env_id: str, **request: str) -> object:
    answer = await client.post(f"/api/environment/{env_id}/propose-action", json=request)
    assert answer.status_code == 200, answer.text
    return answer.json()["action"]


async def test_the_solver_plays_an_episode_to_its_success(
    client: httpx.AsyncClient, initialize: Initialize
) -> None:
    env_id = await initialize(client, env_kwargs=MAPPED)
    path = f"/api/environment/{env_id}"
    for _ in range(20):
        action = await proposed(client, env_id, policy="solution")
        step = (await client.post(f"{path}/step", json={"action": action})).json()
        if step["terminated"]:
            break
    assert step["info"]["success"] is True


async def test_a_random_policy_acts_and_a_proposal_changes_nothing(
    client: httpx.AsyncClient, initialize: Initialize
) -> None:
    env_id = await initialize(client, env_kwargs=MAPPED)
    path = f"/api/environment/{env_id}"
    actions = [await proposed(client, env_id, policy="random") for _ in range(30)]
    assert len({str(action) for action in actions}) > 1
    assert (await client.get(path)).json()["seq"] == 0
    for action in actions[:3]:
        assert (await client.post(f"{path}/read-action", json={"action": action})).status_code == 200


async def test_an_environment_that_knows_no_solution_says_so(
    client: httpx.AsyncClient, initialize: Initialize
) -> None:
    env_id = await initialize(client, GATED)
    assert await proposed(client, env_id, policy="solution") is None


@pytest.mark.parametrize(
    "body", [{}, {"policy": "best"}, {"policy": "model"}, {"policy": "model", "endpoint": "nobody"}]
)
async def test_a_policy_that_is_not_there_is_refused(
    client: httpx.AsyncClient, initialize: Initialize, problem: Problem, body: dict[str, str]
) -> None:
    env_id = await initialize(client, env_kwargs=MAPPED)
    answer = await client.post(f"/api/environment/{env_id}/propose-action", json=body)
    problem(answer, 422, "invalid_request")


async def test_of_an_episode_that_is_over_nothing_is_proposed(
    client: httpx.AsyncClient, initialize: Initialize, problem: Problem, model: JudgeServer
) -> None:
    env_id = await initialize(client, env_kwargs={**MAPPED, "max_steps": 1})
    path = f"/api/environment/{env_id}"
    await client.post(f"{path}/step", json={"action": "up"})
    for body in ({"policy": "random"}, {"policy": "solution"}, {"policy": "model", "endpoint": "judge"}):
        problem(await client.post(f"{path}/propose-action", json=body), 409, "episode_ended")


async def test_a_model_is_asked_with_the_conversation_so_far(
    client: httpx.AsyncClient, initialize: Initialize, model: JudgeServer
) -> None:
    env_id = await initialize(client, env_kwargs=MAPPED)
    await client.post(f"/api/environment/{env_id}/step", json={"action": "I jump"})
    action = await proposed(client, env_id, policy="model", endpoint="judge")
    assert action == "<answer>right</answer>"
    asked = model.requests[-1]["messages"]
    assert [message["role"] for message in asked] == ["user", "assistant", "user"]
    assert asked[1]["content"] == "I jump"


async def test_a_model_sees_results_of_tools_as_a_user_s_messages(
    client: httpx.AsyncClient, initialize: Initialize, model: JudgeServer
) -> None:
    env_id = await initialize(client, env_kwargs=MAPPED)
    call = {"id": "c1", "type": "function", "function": {"name": "move_left", "arguments": "{}"}}
    action = {"role": "assistant", "content": "", "tool_calls": [call]}
    step = (await client.post(f"/api/environment/{env_id}/step", json={"action": action})).json()
    assert [message["role"] for message in step["observation"]] == ["tool"]
    await proposed(client, env_id, policy="model", endpoint="judge")
    asked = model.requests[-1]["messages"]
    assert [message["role"] for message in asked] == ["user", "assistant", "user"]
    assert asked[2]["content"] == step["observation"][0]["content"]
