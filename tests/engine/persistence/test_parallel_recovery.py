"""How much work it is to bring back many environments, and who waits for whom meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from tests import batch_calls
from tests.engine.persistence.hosts import Cluster
from tests.engine.persistence.ledger import SPECS, Ledger
from tests.waiting import NEVER_S, no_hang, until
from verl_agent_env.engine import CreateRequest, Host, await_maybe
from verl_agent_env.engine.environments.env_table import EnvTable
from verl_agent_env.engine.environments.live_env import LiveEnv
from verl_agent_env.engine.persistence.recovery import Recovery
from verl_agent_env.types import NUM_SLOTS
from verl_agent_env.wire.results import EncodedStep


@pytest.fixture(autouse=True)
def _mended() -> Iterator[None]:
    yield
    Ledger.on_restore = staticmethod(lambda: None)


async def made(host: Host, kind: str, count: int) -> list[str]:
    created = await batch_calls.create(host, [CreateRequest(f"ledger/{kind}-v0", 1)] * count)
    return [item[0] for item in created if isinstance(item, tuple)]


@pytest.mark.parametrize("kind", ["thread", "async"])
async def test_environments_that_block_come_back_side_by_side_in_one_batch(
    cluster: Cluster, kind: str
) -> None:
    first = await cluster.host(specs=SPECS)
    env_ids = await made(first, kind, 12)
    together = threading.Barrier(6)
    # Goes through only when six of them are at it.
    Ledger.on_restore = staticmethod(lambda: together.wait(NEVER_S))
    second = await cluster.host(specs=SPECS, max_threads=6, max_step_s=NEVER_S)
    results = await batch_calls.step(second, env_ids, [1] * 12, [0] * 12)
    assert all(isinstance(result, EncodedStep) for result in results)
    assert not together.broken


async def test_nobody_waits_for_an_environment_that_somebody_else_asked_for(cluster: Cluster) -> None:
    first = await cluster.host(specs=SPECS)
    slow, fast = await made(first, "thread", 1), await made(first, "inline", 20)
    gate, entered = threading.Event(), threading.Event()

    def block() -> None:
        if threading.current_thread() is not threading.main_thread():
            entered.set()
            gate.wait(NEVER_S)

    Ledger.on_restore = staticmethod(block)
    second = await cluster.host(specs=SPECS, max_step_s=NEVER_S)
    assert second.recovery is not None
    warm_up = asyncio.create_task(second.recovery.recover([*fast[:10], *slow, *fast[10:]]))
    await until(entered.is_set)
    async with no_hang():
        for env_id in fast:
            await await_maybe(second.step(env_id, 1, 0))
    assert not warm_up.done()
    gate.set()
    assert await warm_up == set()
    await await_maybe(second.step(slow[0], 1, 0))


async def test_environment_that_went_elsewhere_while_it_was_built_is_closed(cluster: Cluster) -> None:
    first = await cluster.host(specs=SPECS)
    (env_id,) = await made(first, "thread", 1)
    gate, entered = threading.Event(), threading.Event()

    def block() -> None:
        entered.set()
        gate.wait(NEVER_S)

    Ledger.on_restore = staticmethod(block)
    second = await cluster.host(specs=SPECS, max_step_s=NEVER_S)
    assert second.recovery is not None
    recovery = asyncio.create_task(second.recovery.recover([env_id]))
    await until(entered.is_set)
    Ledger.on_restore = staticmethod(lambda: None)
    third = await cluster.host(specs=SPECS)
    await second.owned.look()  # type: ignore[attr-defined]
    gate.set()
    assert await recovery == set()
    assert second.env_table.get(env_id) is None
    assert second.recovery.recovered == 0
    await await_maybe(third.step(env_id, 1, 0))


class CountingTable:
    """A host that counts how often it is asked for an environment."""

    def __init__(self, env_table: EnvTable) -> None:
        self.counts: Counter[str] = Counter()
        self._env_table = env_table

    def get(self, env_id: str) -> LiveEnv | None:
        self.counts["get"] += 1
        return self._env_table.get(env_id)

    def closed_as(self, env_id: str) -> str | None:
        self.counts["closed_as"] += 1
        return self._env_table.closed_as(env_id)

    def adopt(self, instance: LiveEnv) -> None:
        self._env_table.adopt(instance)

    def note_closed(self, env_id: str, reason: str) -> None:
        self._env_table.note_closed(env_id, reason)


@pytest.mark.parametrize("callers", [1, 3])
async def test_work_grows_with_the_number_of_environments_and_no_faster(
    cluster: Cluster, callers: int
) -> None:
    work = []
    for count in (1_000, 4_000):
        first = await cluster.host(specs=SPECS)
        await made(first, "inline", count)
        second = await cluster.host(specs=SPECS)
        assert second.recorder is not None
        table = CountingTable(second.env_table)
        recovery = Recovery(
            cluster.log,
            second.owned,  # type: ignore[attr-defined]
            table,
            second.recorder.journal,
            second.registry,
            second.executor,
            second.limits,
            second.suspicions,
        )
        await asyncio.gather(*(recovery.recover_slots(range(NUM_SLOTS)) for _ in range(callers)))
        assert recovery.recovered == len(second.env_table)
        work.append(table.counts.total() / len(second.env_table))
    assert work[1] < 1.5 * work[0]
