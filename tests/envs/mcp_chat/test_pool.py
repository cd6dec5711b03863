"""Sessions of one event loop: shared ones, limits, and that nothing leaks."""

from __future__ import annotations

import asyncio

import pytest

from tests.envs.mcp_chat.conftest import Started
from tests.envs.mcp_chat.support import ended, message, open_descriptors, probe, told
from verl_agent_env.envs.mcp_chat import McpChatEnv
from verl_agent_env.envs.mcp_chat.pool import pool_here
from verl_agent_env.errors import AtCapacityError


async def pid_of(env: McpChatEnv) -> int:
    return int(told((await env.astep(message(("pid", {}))))[0])[0])


async def test_shared_server_serves_several_episodes(started: Started) -> None:
    shared = probe(shared=True)
    assert await pid_of(await started(shared)) == await pid_of(await started(shared))
    assert pool_here().num_sessions == 1


async def test_instances_of_a_shared_server_take_turns(started: Started) -> None:
    shared = probe(shared=True, instances=2)
    pids = [await pid_of(await started(shared)) for _ in range(4)]
    assert [pids.count(pid) for pid in set(pids)] == [2, 2]


async def test_shared_server_that_nobody_uses_ends_after_a_while(started: Started) -> None:
    env = await started(probe(shared=True, idle_s=0.1))
    pid = await pid_of(env)
    await env.astep("bye")
    assert await ended(pid)


async def test_shared_server_is_used_again_before_it_ends(started: Started) -> None:
    shared = probe(shared=True, idle_s=60)
    first = await started(shared)
    pid = await pid_of(first)
    await first.aclose()
    assert await pid_of(await started(shared)) == pid


async def test_shared_server_that_dies_recovers_for_all(started: Started) -> None:
    shared = probe(shared=True)
    one, other = await started(shared), await started(shared)
    before = await pid_of(one)
    await other.astep(message(("die", {})))
    assert await pid_of(one) == await pid_of(other) != before


async def test_session_beyond_the_limit_is_refused_with_a_retryable_error(started: Started) -> None:
    env = await started(probe(max_sessions=1))
    with pytest.raises(AtCapacityError) as caught:
        await started(probe(max_sessions=1))
    assert caught.value.limit == 1
    await env.aclose()
    await started(probe(max_sessions=1))


async def test_many_episodes_through_a_shared_server_leak_nothing(started: Started) -> None:
    shared = probe(shared=True, instances=2, idle_s=60)
    # Everything that is made once is there after these.
    await asyncio.gather(*[(await started(shared)).aclose() for _ in range(2)])
    env = await started(shared)
    tasks, descriptors = len(asyncio.all_tasks()), open_descriptors()
    for seed in range(50):
        await env.areset(seed=seed)
        await env.astep(message(*[("add", {"a": seed, "b": nth}) for nth in range(5)]))
        await env.astep("done")
    await asyncio.sleep(0.1)
    assert (len(asyncio.all_tasks()), open_descriptors()) == (tasks, descriptors)


async def test_episodes_with_servers_of_their_own_leak_nothing(started: Started) -> None:
    env = await started()
    tasks, descriptors = len(asyncio.all_tasks()), open_descriptors()
    pids = []
    for seed in range(3):
        await env.areset(seed=seed)
        pids.append(await pid_of(env))
    assert (len(asyncio.all_tasks()), open_descriptors()) == (tasks, descriptors)
    assert await ended(*pids[:-1])
