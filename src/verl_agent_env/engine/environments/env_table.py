"""Environments of a host: those alive, those closed lately, and how many there may be."""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from verl_agent_env.config import HostLimits
from verl_agent_env.engine.environments.live_env import MOVED, LiveEnv
from verl_agent_env.envs.kind import EnvKind
from verl_agent_env.errors import (
    AtCapacityError,
    EnvironmentClosedError,
    EnvironmentNotFoundError,
    RunQuotaExceededError,
    VerlAgentEnvError,
)
from verl_agent_env.types import slot_of, tag_of


class _ClosedEnv(NamedTuple):
    closed_at: float
    reason: str
    epoch: int
    """What the slot's counter of owners showed then."""


class Dispose(Protocol):
    """Lets an environment free what it holds."""

    def __call__(
        self, kind: EnvKind, env: Any, fault: BaseException | None = None, *, is_over: bool = False
    ) -> None:
        """Do so, given what its last call raised, and whether its episode goes on in no other environment."""


class EpisodeObserver(Protocol):
    """Observer of the episodes in the table."""

    def adopted(self, instance: LiveEnv) -> None:
        """Note that an environment came from another worker."""

    def over(self, instance: LiveEnv, reason: str = "") -> None:
        """Keep an environment's episode, which is over for this reason."""

    def discarded(self, instance: LiveEnv, *, is_alone: bool) -> None:
        """Note that a new environment does not become live, because another one has its id unless ``is_alone``."""


class EnvTable:
    """Live instances by id, with the counts that limits and metrics need."""

    def __init__(
        self,
        limits: HostLimits,
        clock: Callable[[], float],
        dispose: Dispose,
        unknown: Callable[[str], VerlAgentEnvError] = EnvironmentNotFoundError,
        collector: EpisodeObserver | None = None,
    ) -> None:
        """An empty env_table.

        Args:
            limits: How many there may be, and how long closed ones are remembered.
            clock: Seconds.
            dispose: Lets an environment that nobody uses any more free what it holds.
            unknown: What to say of an id that is neither alive nor remembered.
            collector: Keeps episodes, if they are kept.
        """
        self.live: Counter[str] = Counter()
        """Live environments by env name."""
        self.created: Counter[str] = Counter()
        """Environments ever created, by env name."""
        self.closed: Counter[tuple[str, str]] = Counter()
        """Environments ever closed, by env name and reason (``closed``, ``idle`` or ``moved``)."""
        self.in_slot: Counter[int] = Counter()
        """Environments by slot, those being made included."""
        self.not_durable_in_slot: Counter[int] = Counter()
        """Of these, those that are kept nowhere else, those being made included."""
        self._bound: set[str] = set()
        self.unreadable: set[str] = set()
        """Ids of live environments that this worker's version of their kind cannot go on with."""
        self._limits = limits
        self._clock = clock
        self._dispose = dispose
        self._unknown = unknown
        self._collector = collector
        self._instances: dict[str, LiveEnv] = {}
        self.get: Callable[[str], LiveEnv | None] = self._instances.get
        """The live instance of an id, if there is one."""
        self._runs: dict[str, dict[str, set[str]]] = {}
        """Ids by run and by the tag of their holder, whose run is another one than anybody else's of that name."""
        self._reserved = 0
        self._reserved_runs: Counter[tuple[str, str]] = Counter()
        self._closed: dict[str, _ClosedEnv] = {}
        self._epochs: Counter[int] = Counter()
        """Times that a slot went to another worker."""
        self._ttls: Counter[float] = Counter()
        self._ttl_heap: list[float] = []
        """Each ttl of the live environments, the shortest first, and some that were theirs: each may have its own."""
        self.shorter_ttl = asyncio.Event()
        """Set when an environment came in whose ttl is shorter than that of all others."""

    def __len__(self) -> int:
        return len(self._instances)

    @property
    def shortest_ttl_s(self) -> float:
        """The shortest ttl of the live environments; the default when there are none."""
        heap = self._ttl_heap
        while heap and heap[0] not in self._ttls:
            heapq.heappop(heap)
        return heap[0] if heap else self._limits.default_ttl_s

    def find(self, env_id: str) -> LiveEnv:
        """The live instance of this id.

        Raises:
            EnvironmentClosedError: It was closed, not long ago.
            EnvironmentNotFoundError: There is none, or what else ``unknown`` makes of it.
        """
        instance = self._instances.get(env_id)
        if instance is not None:
            return instance
        reason = self.closed_as(env_id)
        if reason is not None:
            raise EnvironmentClosedError(env_id, reason)
        raise self._unknown(env_id)

    def was_closed(self, env_id: str) -> bool:
        """Tell whether the environment is known to be closed."""
        return self.closed_as(env_id) is not None

    def is_known(self, env_id: str) -> bool:
        """Tell whether the environment is alive here, or known to be closed."""
        return env_id in self._instances or self.was_closed(env_id)

    def ids(self) -> list[str]:
        """Ids of all live environments, oldest first."""
        return list(self._instances)

    def in_slots(self, slots: Collection[int]) -> list[LiveEnv]:
        """Find the live environments of slots, among those that are kept outside this process."""
        return [
            instance
            for instance in self._instances.values()
            if instance.slot in slots and instance.durability
        ]

    def of_run(self, run_id: str, tag: str | None = None) -> list[str]:
        """Ids of a run's live environments; with a ``tag``, of those of its holder."""
        holders = self._runs.get(run_id, {})
        found = holders.values() if tag is None else (holders.get(tag, ()),)
        return [env_id for env_ids in found for env_id in env_ids]

    def run_sizes(self) -> Iterator[tuple[str, str, int]]:
        """Yield each run with the tag of its holder and its number of live environments."""
        for run_id, holders in self._runs.items():
            for tag, env_ids in holders.items():
                yield run_id, tag, len(env_ids)

    def touch(self, instance: LiveEnv) -> None:
        """Note that somebody uses the environment."""
        instance.last_used = self._clock()

    @contextmanager
    def reserved(self, instance: LiveEnv) -> Iterator[None]:
        """Hold room for an environment while it is being made.

        Raises:
            AtCapacityError: The host is full.
            RunQuotaExceededError: The run has as many as it may.
        """
        limits, run_id, tag = self._limits, instance.run_id, tag_of(instance.env_id)
        if len(self._instances) + self._reserved >= limits.max_envs:
            raise AtCapacityError("environments", limits.max_envs)
        if run_id is not None:
            in_run = len(self._runs.get(run_id, {}).get(tag, ())) + self._reserved_runs[run_id, tag]
            if in_run >= limits.max_envs_per_run:
                raise RunQuotaExceededError(run_id, limits.max_envs_per_run)
            self._reserved_runs[run_id, tag] += 1
        self._reserved += 1
        slot = slot_of(instance.env_id)
        self.in_slot[slot] += 1
        self.not_durable_in_slot[slot] += 1
        try:
            yield
        finally:
            self._reserved -= 1
            self.in_slot[slot] -= 1
            self.not_durable_in_slot[slot] -= 1
            if run_id is not None:
                self._reserved_runs[run_id, tag] -= 1
                if not self._reserved_runs[run_id, tag]:
                    del self._reserved_runs[run_id, tag]

    def add(self, instance: LiveEnv, *, is_new: bool = True) -> None:
        """Take in an environment that was made, here or on the worker that had it before."""
        instance.created_at = instance.last_used = self._clock()
        self._instances[instance.env_id] = instance
        slot = slot_of(instance.env_id)
        self.in_slot[slot] += 1
        if instance.is_not_durable:
            self._bound.add(instance.env_id)
            self.not_durable_in_slot[slot] += 1
        if instance.run_id is not None:
            holders = self._runs.setdefault(instance.run_id, {})
            holders.setdefault(tag_of(instance.env_id), set()).add(instance.env_id)
        if instance.ttl_s not in self._ttls:
            if instance.ttl_s < self.shortest_ttl_s:
                self.shorter_ttl.set()
            self._ttls[instance.ttl_s] = 0
            heapq.heappush(self._ttl_heap, instance.ttl_s)
            if len(self._ttl_heap) > 2 * len(self._ttls):
                self._ttl_heap = sorted(self._ttls)
        self._ttls[instance.ttl_s] += 1
        self.live[instance.kind.name] += 1
        if instance.unreadable is not None:
            self.unreadable.add(instance.env_id)
        if is_new:
            self.created[instance.kind.name] += 1

    def remove(self, instance: LiveEnv, reason: str) -> None:
        """Take out an environment and remember for a while that it was closed; not one that only ``moved``."""
        if self._collector is not None:
            self._collector.over(instance, reason)
        del self._instances[instance.env_id]
        self.unreadable.discard(instance.env_id)
        slot = slot_of(instance.env_id)
        self.in_slot[slot] -= 1
        if instance.env_id in self._bound:
            # It may have been lost meanwhile.
            self._bound.discard(instance.env_id)
            self.not_durable_in_slot[slot] -= 1
        if instance.run_id is not None:
            holders, tag = self._runs[instance.run_id], tag_of(instance.env_id)
            holders[tag].discard(instance.env_id)
            if not holders[tag]:
                del holders[tag]
            if not holders:
                del self._runs[instance.run_id]
        self._ttls[instance.ttl_s] -= 1
        if not self._ttls[instance.ttl_s]:
            del self._ttls[instance.ttl_s]
        self.live[instance.kind.name] -= 1
        self.closed[instance.kind.name, reason] += 1
        if reason != MOVED:
            self.mark_closed(instance.env_id, reason)

    def adopt(self, instance: LiveEnv) -> None:
        """Make a recovered environment live; limits on how many there may be held when it was made."""
        self.add(instance, is_new=False)
        if self._collector is not None:
            self._collector.adopted(instance)

    def evict(self, instance: LiveEnv, reason: str) -> None:
        """Take out an environment and let it free what it holds, after the call that is at work on it."""
        instance.closed_as = reason
        self.remove(instance, reason)
        if not instance.is_busy:
            self.release(instance)

    def evict_moved(self, env_id: str) -> None:
        """Forget an environment that another worker owns."""
        instance = self.get(env_id)
        if instance is not None:
            self.evict(instance, MOVED)

    def note_closed(self, env_id: str, reason: str) -> None:
        """Note that an environment was closed, on whatever worker."""
        instance = self.get(env_id)
        if instance is not None:
            self.evict(instance, reason)
        else:
            self.mark_closed(env_id, reason)

    def release(
        self, instance: LiveEnv, fault: BaseException | None = None, *, is_known: bool = True
    ) -> None:
        """Part the instance from its environment, which frees what it holds.

        Args:
            instance: The instance.
            fault: What the environment's last call raised.
            is_known: False if nothing of its episode is known anywhere else.
        """
        if instance.is_noted and self._collector is not None:
            live = self._instances.get(instance.env_id)
            if live is not instance:
                # It was made and does not become live. What came back under its id meanwhile is noted itself.
                self._collector.discarded(instance, is_alone=live is None)
        env, instance.env = instance.env, None
        if env is not None:
            is_over = not is_known or instance.closed_as not in (None, MOVED)
            self._dispose(instance.kind, env, fault, is_over=is_over)

    def closed_as(self, env_id: str) -> str | None:
        """Return why an environment was closed; None if it is not known to be."""
        closed = self._closed.get(env_id)
        if closed is None or closed.epoch != self._epochs[slot_of(env_id)]:
            return None
        return None if self._clock() - closed.closed_at > self._limits.closed_memory_s else closed.reason

    def epoch_of(self, slot: int) -> int:
        """Return how many times the slot left this worker: what was known of it in an earlier epoch is void."""
        return self._epochs[slot]

    def forget_closed(self, slots: Collection[int]) -> None:
        """Forget which environments of these slots were closed: others owned them and know it better."""
        for slot in slots:
            self._epochs[slot] += 1

    def mark_closed(self, env_id: str, reason: str) -> None:
        """Remember for a while that an environment was closed."""
        now = self._clock()
        self._closed[env_id] = _ClosedEnv(now, reason, self._epochs[slot_of(env_id)])
        # Oldest first: dictionaries keep the order of insertion.
        while self._closed:
            oldest = next(iter(self._closed))
            expired = now - self._closed[oldest].closed_at > self._limits.closed_memory_s
            if not expired and len(self._closed) <= self._limits.closed_memory_size:
                break
            del self._closed[oldest]
