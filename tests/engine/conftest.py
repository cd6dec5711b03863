"""Hosts over environments that can be told to fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from tests.engine import probes
from tests.engine.awaiting import ask
from tests.engine.persistence.hosts import Cluster
from tests.waiting import NEVER_S, until
from verl_agent_env.config import HostLimits
from verl_agent_env.engine import CreateRequest, Host, await_maybe
from verl_agent_env.envs.registry import BUILT_IN, EnvSpec, Registry

KINDS = ("inline", "live_inline", "thread", "live", "async", "async_live")


class FakeClock:
    """A clock that goes on when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def controls() -> Iterator[probes.Controls]:
    probes.renew()
    yield probes.controls
    probes.renew()


@pytest.fixture
def registry() -> Registry:
    classes = {kind: f"{kind.title().replace('_', '')}Probe" for kind in KINDS}
    specs = [EnvSpec(f"probe/{kind}-v0", f"{probes.MODULE}:{name}") for kind, name in classes.items()]
    broken = EnvSpec("probe/missing-v0", "tests.engine.no_such_module:Env")
    return Registry({spec.name: spec for spec in (*BUILT_IN, *specs, broken)})


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def make_host(
    registry: Registry, controls: probes.Controls, clock: FakeClock
) -> AsyncIterator[Callable[..., Host]]:
    """A function that makes a host with these limits; it is stopped in the end."""
    hosts: list[Host] = []

    def make(**limits: Any) -> Host:
        host = Host(registry, HostLimits(**{"max_step_s": NEVER_S, **limits}), clock=clock)
        hosts.append(host)
        return host

    yield make
    controls.broken.clear()
    controls.gate.set()
    for host in hosts:
        await host.stop()


@pytest.fixture
def host(make_host: Callable[..., Host]) -> Host:
    return make_host()


@pytest.fixture
def create() -> Callable[..., Any]:
    """A function that makes a probe and gives its id."""

    async def make(host: Host, kind: str, seed: int = 1, **request: Any) -> str:
        env_id, _ = await await_maybe(host.create(CreateRequest(f"probe/{kind}-v0", seed, **request)))
        return env_id

    return make


@pytest.fixture
def hang(begun: Callable[..., Any]) -> Callable[..., Any]:
    """A function that begins a step which waits for the gate; gives its task."""

    async def step(host: Host, env_id: str, seq: int) -> asyncio.Task[Any]:
        hanging = asyncio.create_task(ask(host.step, env_id, "wait", seq))
        await begun()
        return hanging

    return step


@pytest.fixture
def begun(controls: probes.Controls) -> Callable[..., Any]:
    """A function that returns when so many ``wait`` commands have begun."""

    async def wait(count: int = 1) -> None:
        for _ in range(count):
            await until(lambda: controls.entered.acquire(blocking=False))

    return wait


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """Hosts that share one log."""
    several = Cluster()
    yield several
    await several.aclose()
