"""Hosts that share one log, and can take each other's slots."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

from tests.cluster.workers import worker
from verl_agent_env.cluster.memory.log import MemoryEventLog
from verl_agent_env.cluster.memory.store import MemoryStore
from verl_agent_env.config import HostLimits
from verl_agent_env.engine import Host
from verl_agent_env.engine.episodes.collector import EpisodeOptions
from verl_agent_env.engine.persistence import PersistenceOptions
from verl_agent_env.engine.persistence.recorder import LogShard
from verl_agent_env.envs.base import Durability
from verl_agent_env.envs.registry import BUILT_IN, EnvSpec, Registry
from verl_agent_env.errors import StoreUnavailableError
from verl_agent_env.types import NUM_SLOTS
from verl_agent_env.wire.records import Refusal, Saved, Write


class Cluster:
    """Hosts that share one log; a slot belongs to the last one that took it."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.log = FlakyLog(self.store)
        self._stack = AsyncExitStack()

    async def host(
        self,
        durabilities: dict[str, Durability] | None = None,
        *,
        specs: Sequence[EnvSpec] = BUILT_IN,
        patience_s: float = 30.0,
        episodes: EpisodeOptions | None = None,
        **limits: Any,
    ) -> Host:
        """A new host of these environments that takes all slots from whoever has them.

        Its answers wait for the log for ``patience_s``.
        """
        record = worker()
        await self.store.heartbeat(record, 1000.0)
        cluster = await self.store.read_map()
        for incarnation in cluster.workers:
            if incarnation != record.incarnation:
                await self.store.hand_off({record.incarnation: cluster.tokens_of(incarnation)})
        await self.store.claim(record.incarnation, range(NUM_SLOTS))
        owned = Owned(self.store, record.incarnation)
        await owned.look()
        kept = PersistenceOptions(
            self.log, owned, (LogShard(self.log, owned),), durabilities or {}, patience_s
        )
        host = Host(
            Registry({spec.name: spec for spec in specs}), HostLimits(**limits), kept=kept, episodes=episodes
        )
        assert host.recorder is not None
        journal = asyncio.create_task(host.recorder.journal.run())
        self._stack.push_async_callback(_end, host, journal)
        host.owned = owned  # type: ignore[attr-defined]
        return host

    async def empty(self, host: Host) -> None:
        """Lose everything; the host takes all slots again, in the new data set."""
        self.log.clear()
        self.store.clear()
        record = worker()
        await self.store.heartbeat(record, 1000.0)
        await self.store.claim(record.incarnation, range(NUM_SLOTS))
        owned = host.owned  # type: ignore[attr-defined]
        owned.incarnation = record.incarnation
        await owned.look()

    async def aclose(self) -> None:
        await self._stack.aclose()


async def _end(host: Host, journal: asyncio.Task[None]) -> None:
    journal.cancel()
    await asyncio.gather(journal, return_exceptions=True)
    await host.stop()


class Owned:
    """The slots of one worker, as it saw them last."""

    def __init__(self, store: MemoryStore, incarnation: str) -> None:
        self._store = store
        self.incarnation = incarnation
        self.generation = ""
        self.has_lease = True
        """Whether it may act for them at present."""
        self.tokens: dict[int, str] = {}

    async def look(self) -> None:
        cluster = await self._store.read_map()
        self.generation = cluster.generation
        self.tokens = cluster.tokens_of(self.incarnation)

    def token_of(self, slot: int) -> str | None:
        return self.tokens.get(slot)

    def owns(self, slot: int) -> bool:
        return self.has_lease and slot in self.tokens

    def has_gone(self, slot: int) -> bool:
        return False

    def was_refused(self) -> bool:
        return False


class FlakyLog(MemoryEventLog):
    """A log that can be away, and can lose its answers."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.is_away = False
        self.is_unreadable = False
        self.loses_answers = 0
        self.commits: list[list[Write]] = []

    async def commit(self, generation: str, tokens: Any, writes: Sequence[Write]) -> list[Refusal]:
        await asyncio.sleep(0)
        if self.is_away:
            raise StoreUnavailableError("memory")
        refusals = await super().commit(generation, tokens, writes)
        self.commits.append(list(writes))
        if self.loses_answers:
            self.loses_answers -= 1
            raise StoreUnavailableError("memory")
        return refusals

    async def load(self, env_ids: Sequence[str], *, whole: bool = False) -> list[Saved]:
        if self.is_away or self.is_unreadable:
            raise StoreUnavailableError("memory")
        return await super().load(env_ids, whole=whole)
