"""An environment whose end is being written takes no call; what is told of it waits until that is written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.engine.awaiting import ask
from tests.engine.persistence.hosts import Cluster
from tests.engine.persistence.ledger import SPECS
from tests.waiting import until
from verl_agent_env.engine import CreateRequest, Host, inspection
from verl_agent_env.envs.base import Durability
from verl_agent_env.errors import EnvironmentClosedError, MovedError

CALLS = ("step", "repeated step", "reset", "read", "trajectory", "create")
KINDS = ("inline", "thread")


async def idle(cluster: Cluster, kind: str, durability: Durability) -> tuple[Host, str]:
    """A host over a log that is away, and its environment, whose end is waiting to be written."""
    name = f"ledger/{kind}-v0"
    host = await cluster.host({name: durability}, specs=SPECS)
    created = await ask(host.create, CreateRequest(name, 1, env_id=f"001-{'0' * 31}1"))
    await ask(host.step, created[0], 1, 0)
    assert host.recorder is not None
    await host.recorder.journal.flush()
    cluster.log.is_away = True
    host.env_table.find(created[0]).last_used -= 10_000.0
    assert await host.reap() == 1
    return host, created[0]


def call(host: Host, env_id: str, name: str, kind: str) -> Any:
    request = CreateRequest(f"ledger/{kind}-v0", 1, env_id=env_id)
    calls: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
        "step": lambda: ask(host.step, env_id, 1, 1),
        "repeated step": lambda: ask(host.step, env_id, 1, 0),
        "reset": lambda: ask(host.reset, env_id, 5),
        "read": lambda: ask(host.read, env_id, str),
        "trajectory": lambda: inspection.trajectory(host, env_id),
        "create": lambda: ask(host.create, request),
    }
    return calls[name]()


@pytest.mark.parametrize("durability", ["journal", "snapshot", "relaxed", "none"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CALLS)
async def test_a_call_waits_for_the_end_and_is_told_of_it(
    cluster: Cluster, kind: str, name: str, durability: Durability
) -> None:
    host, env_id = await idle(cluster, kind, durability)
    task = asyncio.create_task(call(host, env_id, name, kind))
    done, _ = await asyncio.wait([task], timeout=0.05)
    assert not done
    assert host.env_table.find(env_id).seq == 1
    cluster.log.is_away = False
    with pytest.raises(EnvironmentClosedError, match="idle"):
        await task


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CALLS)
async def test_an_end_that_came_too_late_is_none(cluster: Cluster, kind: str, name: str) -> None:
    host, env_id = await idle(cluster, kind, "journal")
    task = asyncio.create_task(call(host, env_id, name, kind))
    second = await cluster.host(specs=SPECS)
    cluster.log.is_away = False
    with pytest.raises(MovedError):
        await task
    await until(lambda: host.env_table.get(env_id) is None)
    assert (await ask(second.step, env_id, 1, 1)).reward is not None
