"""What is lost on the way is sent again, and done once all the same."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.client.conftest import LAKE, MakeClient
from tests.conftest import ServerProcess, StartServer
from tests.lossy_proxy import LossyProxy
from tests.pool_process import Pool
from tests.waiting import HANG_S
from verl_agent_env.client import AsyncEnv, AsyncEnvClient
from verl_agent_env.errors import (
    EnvironmentLostError,
    EnvironmentStateError,
    SequenceGapError,
    SequenceStaleError,
)

STEPS = 12
ACTIONS = ["<action>right</action>", "<action>left</action>"]


async def play(env: AsyncEnv, steps: int = STEPS) -> list[tuple[int, str, float, Any]]:
    """Step an environment to and fro; what the client saw of each step."""
    seen = []
    for number in range(steps):
        action = ACTIONS[number % 2]
        result = await env.step(action)
        seen.append((number, action, result.reward, result.observation))
    return seen


async def kept_by_server(env: AsyncEnv) -> list[tuple[int, str, float, Any]]:
    """The same as the server has it."""
    steps = (await env.trajectory())["steps"]
    return [(step["seq"], step["action"], step["reward"], step["observation"]) for step in steps]


def count(url: str, metric: str) -> int:
    """The sum of a server's metric."""
    text = httpx.get(f"{url}/metrics", timeout=HANG_S).text
    return sum(int(float(value)) for value in re.findall(rf"^{metric}{{.*}} (\S+)$", text, re.MULTILINE))


@pytest.mark.parametrize("micro_batching", [True, False], ids=["shared", "plain"])
async def test_lossy_network_changes_nothing_and_leaves_nothing(
    start_server: StartServer, micro_batching: bool
) -> None:
    server = start_server()
    # A request that many share is one chance to lose it for all of them.
    rate = 0.25 if micro_batching else 0.05
    async with (
        LossyProxy(server.port, lose_requests=rate, lose_answers=rate) as proxy,
        AsyncEnvClient(proxy.url, micro_batching=micro_batching, deadline_s=60, direct="never") as client,
    ):
        envs = await asyncio.gather(*(client.make(**LAKE, seed=seed) for seed in range(30)))
        seen = await asyncio.gather(*map(play, envs))
        assert min(proxy.lost_requests, proxy.lost_answers) > 0
        retries, lost = sum(env.num_retries for env in envs), proxy.lost_requests + proxy.lost_answers
        # One that many share is sent again for each of them.
        assert retries > lost if micro_batching else retries == lost
        assert len({env.env_id for env in envs}) == 30
        proxy.lose_requests = proxy.lose_answers = 0.0
        assert await asyncio.gather(*map(kept_by_server, envs)) == seen
        assert [env.seq for env in envs] == [STEPS] * 30
    created = count(server.url, "verl_agent_env_created_total")
    assert count(server.url, "verl_agent_env_live_environments") == 0
    assert count(server.url, "verl_agent_env_closed_total") == created


async def test_resets_over_a_lossy_network_begin_the_episode_that_was_asked_for(
    server: ServerProcess, make_client: MakeClient
) -> None:
    reference = make_client()
    async with LossyProxy(server.port, lose_requests=0.2, lose_answers=0.2) as proxy:
        client = make_client(proxy.url)
        async with client.make(**LAKE, seed=1) as env, reference.make(**LAKE, seed=1) as same:
            for seed in [5, None, None, 7, None]:
                assert await env.reset(seed=seed) == await same.reset(seed=seed)
                assert await env.step(ACTIONS[0]) == await same.step(ACTIONS[0])
        assert proxy.lost_answers > 0
        await client.close()


async def test_end_of_an_episode_that_the_server_lost_is_sent_again(client: AsyncEnvClient) -> None:
    async with client.make(**LAKE, seed=4) as env:
        await env.reset()
        seen = await play(env, 5)
        # Somebody begins the same episode anew: for the server, steps 0 to 4 never were.
        other = await client.attach(env.env_id)
        await other.reset(seed=4)
        last = await env.step(ACTIONS[1])
        kept = await kept_by_server(env)
        assert kept[:5] == seen
        assert kept[5][3] == last.observation
        assert env.seq == 6


async def test_gap_that_the_client_cannot_fill_is_told(client: AsyncEnvClient) -> None:
    async with client.make(**LAKE, seed=4) as env:
        await play(env, 3)
        late = await client.attach(env.env_id)
        await env.reset(seed=4)
        with pytest.raises(SequenceGapError) as caught:
            await late.step(ACTIONS[0])
        assert (caught.value.env_id, caught.value.seq, caught.value.expected_seq) == (env.env_id, 3, 0)


async def test_step_behind_the_episode_is_told_and_not_tried_again(client: AsyncEnvClient) -> None:
    async with client.make(**LAKE, seed=4) as env:
        early = await client.attach(env.env_id)
        await play(env, 3)
        with pytest.raises(SequenceStaleError):
            await early.step(ACTIONS[0])


async def test_environment_of_a_dead_worker_raises_an_error_that_names_it(
    start_pool: Callable[..., Pool], make_client: MakeClient
) -> None:
    pool = start_pool()
    client = make_client(pool.server.url, deadline_s=30, direct="auto")
    envs = await asyncio.gather(*(client.make(**LAKE, seed=seed) for seed in range(20)))
    before = dict(zip(envs, await asyncio.gather(*map(play, envs)), strict=True))
    owners = {env: pool.owner_of(env.env_id) for env in envs}
    assert set(owners.values()) == {0, 1}
    pool.kill(0)
    outcomes = await asyncio.gather(*(env.step(ACTIONS[0]) for env in envs), return_exceptions=True)
    for env, outcome in zip(envs, outcomes, strict=True):
        if owners[env] == 0:
            # Nothing of it is kept without Redis.
            assert isinstance(outcome, EnvironmentStateError)
            assert isinstance(outcome, EnvironmentLostError)
            assert outcome.env_id == env.env_id
        else:
            assert not isinstance(outcome, BaseException)
            assert (await kept_by_server(env))[:STEPS] == before[env]


async def test_steps_go_on_through_the_restart_of_a_proxy(server: ServerProcess) -> None:
    async with LossyProxy(server.port) as proxy, AsyncEnvClient(proxy.url) as client:
        envs = await asyncio.gather(*(client.make(**LAKE, seed=seed) for seed in range(10)))
        playing = asyncio.gather(*(play(env, 200) for env in envs))
        for _ in range(10):
            proxy.lose_answers = 1.0
            await asyncio.sleep(0.02)
            proxy.lose_answers = 0.0
            await asyncio.sleep(0.02)
        seen = await playing
        assert proxy.lost_answers > 0
        assert await asyncio.gather(*map(kept_by_server, envs)) == seen
