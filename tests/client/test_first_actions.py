"""Actions that the client has carried out first: their results, the number of the next step, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from tests.client.conftest import LAKE, MakeClient
from tests.conftest import ServerProcess
from tests.lossy_proxy import LossyProxy
from verl_agent_env.client import AsyncEnv, AsyncEnvClient, EnvClient
from verl_agent_env.errors import InvalidRequestError
from verl_agent_env.types import StepResult

ACTIONS: list[Any] = ["right", "<answer>left</answer>", "I jump"]


async def stepped(env: AsyncEnv, actions: list[Any]) -> list[StepResult]:
    return [await env.step(action) for action in actions]


@pytest.mark.parametrize("micro_batching", [True, False])
async def test_an_environment_begins_where_the_same_steps_would_have_led(
    make_client: MakeClient, micro_batching: bool
) -> None:
    client = make_client(micro_batching=micro_batching)
    async with client.make(**LAKE, seed=3) as one, client.make(**LAKE, seed=3, actions=ACTIONS) as other:
        begun = await one.reset()
        steps = await stepped(one, ACTIONS)
        assert (other.beginning, other.first_steps, other.seq) == (begun, steps, 3)
        assert await other.step("right") == await one.step("right")
        # An episode with steps in it is not the first one any more.
        assert (await other.reset()).info["seed"] == (await one.reset()).info["seed"] != 3
        assert other.first_steps == []


async def test_a_reset_undoes_a_step_in_one_call(client: AsyncEnvClient) -> None:
    async with client.make(**LAKE, seed=3) as env:
        begun = await env.reset()
        steps = await stepped(env, ACTIONS)
        assert await env.reset(seed=3, actions=ACTIONS[:2]) == begun
        assert (env.first_steps, env.seq) == (steps[:2], 2)
        assert await env.step(ACTIONS[2]) == steps[2]


async def test_a_reset_right_after_the_creation_begins_a_fresh_episode(client: AsyncEnvClient) -> None:
    async with client.make(**LAKE, seed=3, actions=ACTIONS) as env:
        await env.reset()
        assert (env.seq, (await env.state())["seq"]) == (0, 0)


async def test_first_actions_that_the_server_lost_are_sent_again(client: AsyncEnvClient) -> None:
    async with client.make(**LAKE, seed=4, actions=ACTIONS) as env:
        before = (await env.trajectory())["steps"]
        # Somebody begins the same episode anew: for the server, the first steps never were.
        other = await client.attach(env.env_id)
        await other.reset(seed=4)
        await env.step("right")
        assert (await env.trajectory())["steps"][:3] == before
        assert env.seq == 4


async def test_items_of_a_batch_have_actions_of_their_own(client: AsyncEnvClient) -> None:
    envs = [client.make(**LAKE, seed=3, actions=ACTIONS[:count]) for count in (0, 1, 2)]
    await client.initialize_batch(envs)
    assert [(env.seq, len(env.first_steps)) for env in envs] == [(0, 0), (1, 1), (2, 2)]
    begun = await client.reset_batch(envs, [3, 3, 3], [ACTIONS, [], ["left"]])
    assert begun[0] == begun[1] == begun[2]
    assert [env.seq for env in envs] == [3, 0, 1]
    await client.close_batch(envs)


def test_the_blocking_client_takes_them_too(sync_client: EnvClient) -> None:
    with sync_client.make(**LAKE, seed=3, actions=ACTIONS) as env:
        steps = env.first_steps
        assert len(steps) == env.seq == 3
        env.reset(seed=3, actions=ACTIONS[:1])
        assert env.first_steps == steps[:1]
        many = sync_client.make_many(
            "frozen_lake", [3, 3], actions=[ACTIONS, []], env_kwargs=LAKE["env_kwargs"]
        )
        assert [each.seq for each in many if not isinstance(each, Exception)] == [3, 0]
        sync_client.reset_batch([env], [3], [ACTIONS[:2]])
        assert env.first_steps == steps[:2]


async def test_over_a_lossy_network_they_are_carried_out_once(server: ServerProcess) -> None:
    async with (
        LossyProxy(server.port, lose_requests=0.3, lose_answers=0.3) as proxy,
        AsyncEnvClient(proxy.url, deadline_s=60) as client,
    ):
        for seed in range(6):
            async with client.make(**LAKE, seed=seed, actions=ACTIONS) as env:
                await env.reset(seed=seed, actions=ACTIONS[:2])
                await env.step(ACTIONS[2])
                assert [step["action"] for step in (await env.trajectory())["steps"]] == ACTIONS
        assert proxy.lost_answers > 0


@pytest.mark.parametrize("actions", ["right", b"right", {"a": 1}, 3, [float("nan")], [object()]])
async def test_what_is_no_list_of_actions_is_refused_before_anything_is_sent(
    client: AsyncEnvClient, actions: Any
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        client.make(**LAKE, actions=actions)
    assert caught.value.errors[0]["loc"] == ["actions"]
    async with client.make(**LAKE, seed=3) as env:
        with pytest.raises(InvalidRequestError):
            await env.reset(seed=3, actions=actions)
        assert (await env.state())["episode"] == 0


async def test_actions_need_a_seed_and_a_refusal_changes_nothing(client: AsyncEnvClient) -> None:
    async with client.make(**LAKE, seed=3, actions=ACTIONS) as env:
        with pytest.raises(ValueError, match="seed"):
            await env.reset(actions=ACTIONS)
        with pytest.raises(InvalidRequestError):
            await env.reset(seed=3, actions=["up"] * 1001)
        assert (env.seq, (await env.state())["seq"]) == (3, 3)
        await env.step("right")
