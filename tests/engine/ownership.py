"""Hosts that share one log, of which one at a time owns the slots, and may not have heard of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from tests.cluster.workers import worker
from tests.engine.conftest import FakeClock
from verl_agent_env.cluster.memory.log import MemoryEventLog
from verl_agent_env.cluster.memory.store import MemoryStore
from verl_agent_env.cluster.store import WorkerRecord
from verl_agent_env.config import HostLimits
from verl_agent_env.engine import Host
from verl_agent_env.engine.persistence import PersistenceOptions
from verl_agent_env.engine.persistence.recorder import LogShard
from verl_agent_env.envs.base import Durability
from verl_agent_env.envs.registry import Registry
from verl_agent_env.errors import StoreUnavailableError
from verl_agent_env.types import NUM_SLOTS
from verl_agent_env.wire.records import Refusal, Saved, Write
from verl_agent_env.wire.task_results import ResultPage, TaskStatistics

_LEASE_S = 1e6


class CutLog:
    """One worker's way to the log, which can be cut: whoever asks is told that nobody answers."""

    def __init__(self, log: MemoryEventLog) -> None:
        self.is_cut = False
        self.is_held = False
        """Whether answers do not come for now; calls arrive."""
        self.commits = 0
        """Groups that came through."""
        self._log = log

    async def commit(
        self, generation: str, tokens: Mapping[int, str], writes: Sequence[Write]
    ) -> list[Refusal]:
        await self._travel()
        self.commits += 1
        return await self._log.commit(generation, tokens, writes)

    async def load(self, env_ids: Sequence[str], *, whole: bool = False) -> list[Saved]:
        await self._travel()
        return await self._log.load(env_ids, whole=whole)

    async def env_ids(self, slots: Sequence[int]) -> list[str]:
        await self._travel()
        found = await self._log.env_ids(slots)
        while self.is_held:  # noqa: ASYNC110 - nobody waits for long
            await asyncio.sleep(0.001)
        return found

    async def results(self, run: str, cursor: str = "0") -> ResultPage:
        await self._travel()
        return await self._log.results(run, cursor)

    async def results_of(self, run: str, tasks: Sequence[str]) -> list[TaskStatistics]:
        await self._travel()
        return await self._log.results_of(run, tasks)

    async def aclose(self) -> None:
        await self._log.aclose()

    async def _travel(self) -> None:
        await asyncio.sleep(0)
        if self.is_cut:
            raise StoreUnavailableError("memory")


class Slots:
    """The slots of one worker, as it saw them last."""

    def __init__(self) -> None:
        self.generation = ""
        self.tokens: dict[int, str] = {}
        self.has_lease = True

    def token_of(self, slot: int) -> str | None:
        return self.tokens.get(slot)

    def owns(self, slot: int) -> bool:
        return self.has_lease and slot in self.tokens

    def has_gone(self, slot: int) -> bool:
        return slot not in self.tokens

    def was_refused(self) -> bool:
        return False


class Owner:
    """A worker's host, its slots, and its way to the log."""

    def __init__(
        self, owners: Owners, record: WorkerRecord, limits: HostLimits, durabilities: Mapping[str, Durability]
    ) -> None:
        self.record = record
        self.slots = Slots()
        self.log = CutLog(owners.log)
        kept = PersistenceOptions(self.log, self.slots, (LogShard(self.log, self.slots),), durabilities)
        self.host = Host(owners.registry, limits, clock=owners.clock, kept=kept)
        assert self.host.recorder is not None
        self.journal = self.host.recorder.journal
        self._owners = owners

    def cut(self) -> None:
        """Lose the way to the store for so long that the lease is over; it hears of nothing."""
        self.log.is_cut = True
        self.slots.has_lease = False

    async def hear(self) -> None:
        """Find the way to the store again: read the map, forget what was another worker's, act again."""
        self.log.is_cut = False
        cluster = await self._owners.store.read_map()
        tokens = cluster.tokens_of(self.record.incarnation)
        is_same_store = cluster.generation == self.slots.generation
        voided = {slot for slot, token in self.slots.tokens.items() if tokens.get(slot) != token}
        if voided and is_same_store:
            self.host.evict(voided)
        self.slots.generation, self.slots.tokens = cluster.generation, tokens
        self.slots.has_lease = True


class Owners:
    """All of them."""

    def __init__(self, registry: Registry, clock: FakeClock) -> None:
        self.registry = registry
        self.clock = clock
        self.store = MemoryStore()
        self.log = MemoryEventLog(self.store)
        self._owner: Owner | None = None
        self._stack = AsyncExitStack()

    async def join(self, durabilities: Mapping[str, Durability] | None = None, **limits: float) -> Owner:
        """Another worker, which owns nothing unless it is the first."""
        all_limits: dict[str, Any] = {"max_step_s": 20.0, **limits}
        owner = Owner(self, worker(), HostLimits(**all_limits), durabilities or {})
        await self.store.heartbeat(owner.record, _LEASE_S)
        run = asyncio.create_task(owner.journal.run())
        self._stack.push_async_callback(_end, owner.host, run)
        if self._owner is None:
            await self.store.claim(owner.record.incarnation, range(NUM_SLOTS))
            self._owner = owner
        await owner.hear()
        return owner

    async def move_to(self, owner: Owner) -> None:
        """All slots go to ``owner``, and nobody but that one hears of it."""
        assert self._owner is not None
        cluster = await self.store.read_map()
        tokens = cluster.tokens_of(self._owner.record.incarnation)
        await self.store.hand_off({owner.record.incarnation: tokens})
        self._owner = owner
        await owner.hear()

    async def empty(self) -> None:
        """The store loses everything; the owner takes its slots again, but has not heard of it yet."""
        assert self._owner is not None
        self.store.clear()
        self.log.clear()
        await self.store.heartbeat(self._owner.record, _LEASE_S)
        await self.store.claim(self._owner.record.incarnation, range(NUM_SLOTS))

    async def aclose(self) -> None:
        """End all hosts."""
        await self._stack.aclose()


async def _end(host: Host, journal: asyncio.Task[None]) -> None:
    journal.cancel()
    await asyncio.gather(journal, return_exceptions=True)
    await host.stop()
