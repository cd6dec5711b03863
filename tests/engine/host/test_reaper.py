"""How often idle environments are looked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.steered import pass_time
from tests.waiting import until
from verl_agent_env.config import HostLimits
from verl_agent_env.engine import CreateRequest, Host, await_maybe
from verl_agent_env.engine.host.reaper import reap_forever
from verl_agent_env.envs.registry import Registry


@pytest.fixture
async def reaped_host(registry: Registry) -> AsyncIterator[Host]:
    host = Host(registry, HostLimits(default_ttl_s=3600.0), clock=lambda: asyncio.get_running_loop().time())
    reaper = asyncio.create_task(reap_forever(host))
    # It sleeps already, for half a minute, when the test begins.
    await asyncio.sleep(0.01)
    yield host
    reaper.cancel()
    await asyncio.wait([reaper])
    await host.stop()


async def test_environment_goes_within_a_quarter_beyond_its_ttl(reaped_host: Host) -> None:
    ttl_s = 1000.0
    await await_maybe(reaped_host.create(CreateRequest("probe/inline-v0")))
    await await_maybe(reaped_host.create(CreateRequest("probe/inline-v0", ttl_s=ttl_s)))
    # Not in one leap: the reaper looks again and again.
    for _ in range(99):
        await pass_time(0.01 * ttl_s)
    assert len(reaped_host.env_table) == 2
    for _ in range(26):
        await pass_time(0.01 * ttl_s)
    assert len(reaped_host.env_table) == 1


async def test_tiny_ttl_does_not_keep_the_reaper_busy(reaped_host: Host) -> None:
    await await_maybe(reaped_host.create(CreateRequest("probe/inline-v0", ttl_s=1e-9)))
    await until(lambda: len(reaped_host.env_table) == 0)
    looks = 0
    reap = reaped_host.reap

    async def counted() -> int:
        nonlocal looks
        looks += 1
        return await reap()

    reaped_host.reap = counted  # type: ignore[method-assign]
    await pass_time(0.1)
    assert looks == 0
