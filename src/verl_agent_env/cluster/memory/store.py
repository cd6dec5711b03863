"""The store of a single process: everything in dictionaries, no other software."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import uuid
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from verl_agent_env.cluster.leases import boot_time
from verl_agent_env.cluster.store import (
    ENDED_MEMORY_S,
    MAX_CHANGED_SLOTS,
    MAX_CHANGES,
    ClusterMap,
    Heartbeat,
    MapChanges,
    WorkerRecord,
    check_slots,
    holder_of,
    token_of,
)
from verl_agent_env.errors import GenerationChangedError, NameTakenError, WorkerNotAliveError
from verl_agent_env.types import NUM_SLOTS
from verl_agent_env.wire.suspicions import MAX_SUSPICIONS, Suspicion

_LOOK_S = 0.05
"""How often a waiting call looks for changes, because an expiring lease sets no event."""


def _random_id() -> str:
    return uuid.uuid4().hex


@dataclass(slots=True)
class _Lease:
    record: WorkerRecord
    expires_at: float


@dataclass(frozen=True, slots=True)
class _Change:
    """Changes of one version of the map."""

    owners: Sequence[tuple[Collection[int], str]] = ()
    """As :attr:`MapChanges.owners`."""
    workers: Collection[str] = ()
    """Incarnations that have come, gone or changed."""
    version: int = 0


class MemoryStore:
    """:class:`~verl_agent_env.cluster.store.Store` for workers that share one event loop.

    No method awaits between reading and writing, so each is atomic.

    Args:
        clock: Seconds, by which leases expire.
        new_id: Makes generations and nonces.
        num_slots: Number of slots.
    """

    def __init__(
        self,
        clock: Callable[[], float] = boot_time,
        new_id: Callable[[], str] = _random_id,
        num_slots: int = NUM_SLOTS,
    ) -> None:
        self._clock = clock
        self._num_slots = num_slots
        self._new_id = new_id
        self._generation = new_id()
        self._version = 0
        self._leases: dict[str, _Lease] = {}
        self._none_ends_before = float("-inf")
        """Time before which no lease ends, as far as is known."""
        self._ended: dict[str, float] = {}
        self._tokens: dict[int, str] = {}
        self._suspicions: dict[str, tuple[Suspicion, float]] = {}
        """Suspicions with the time at which they expire."""
        self._changes: deque[_Change] = deque(maxlen=MAX_CHANGES)
        """What was new in the last versions, in their order."""
        self._changed = asyncio.Event()

    def clear(self) -> None:
        """Lose all data, as after ``FLUSHALL`` in Redis."""
        self._generation = self._new_id()
        self._leases.clear()
        self._ended.clear()
        self._tokens.clear()
        self._suspicions.clear()
        self._changes.clear()

    async def generation(self) -> str:
        return self._generation

    async def heartbeat(self, record: WorkerRecord, ttl_s: float) -> Heartbeat:
        now = self._clock()
        if self._has_ended(record.incarnation):
            raise WorkerNotAliveError(record.incarnation, "ended")
        for holder in [lease.record for lease in self._live().values()]:
            if holder.name == record.name and holder.incarnation != record.incarnation:
                if holder.supervisor != record.supervisor:
                    raise NameTakenError(record.name, holder.address)
                self._end(holder.incarnation)
        known = self._leases.get(record.incarnation)
        if known is None or known.record.shape != record.shape:
            self._bump(_Change(workers=(record.incarnation,)))
        self._leases[record.incarnation] = _Lease(record, now + ttl_s)
        self._none_ends_before = min(self._none_ends_before, now + ttl_s)
        return Heartbeat(self._generation, self._version)

    async def leave(self, incarnation: str) -> None:
        self._end(incarnation)

    async def claim(
        self, incarnation: str, slots: Collection[int], *, generation: str | None = None
    ) -> dict[int, str]:
        check_slots(slots, self._num_slots)
        if generation is not None and generation != self._generation:
            raise GenerationChangedError(generation, self._generation)
        self._require_alive(incarnation)
        live = self._live()
        token = token_of(self._new_id(), incarnation)
        claimed: dict[int, str] = {}
        for slot in slots:
            present = self._tokens.get(slot)
            if present is not None and holder_of(present) == incarnation:
                claimed[slot] = present
            elif present is None or holder_of(present) not in live:
                claimed[slot] = self._tokens[slot] = token
        taken = [slot for slot, held in claimed.items() if held == token]
        if taken:
            self._bump(_Change([(taken, token)]))
        return claimed

    async def hand_off(self, moves: Mapping[str, Mapping[int, str]]) -> dict[int, str]:
        for tokens in moves.values():
            check_slots(tokens, self._num_slots)
        live, nonce = self._live(), self._new_id()
        owners = [
            (self.owned_under(tokens), token_of(nonce, receiver, was_handed=True))
            for receiver, tokens in moves.items()
            if receiver in live
        ]
        handed = {slot: token for slots, token in owners for slot in slots}
        if handed:
            self._tokens.update(handed)
            self._bump(_Change(owners))
        return handed

    async def suspect(self, suspicions: Collection[Suspicion], cleared: Collection[str] = ()) -> None:
        now = self._clock()
        for key in cleared:
            self._suspicions.pop(key, None)
        for suspicion in suspicions:
            self._suspicions[suspicion.key] = suspicion, now + suspicion.lasts_s
        longest = sorted(self._suspicions.items(), key=lambda item: item[1][1], reverse=True)
        self._suspicions = dict(longest[:MAX_SUSPICIONS])
        self._bump(_Change())

    async def read_map(self, known: ClusterMap | None = None) -> ClusterMap:
        self._live()
        changes = None if known is None else self.changes_since(known.generation, known.version)
        return self.whole().applied_to(None) if changes is None else changes.applied_to(known)

    def whole(self) -> MapChanges:
        """Return the map as changes of an empty one."""
        slots_of: dict[str, list[int]] = {}
        for slot, token in self._tokens.items():
            slots_of.setdefault(token, []).append(slot)
        owners = [(slots, token) for token, slots in slots_of.items()]
        workers = {incarnation: lease.record for incarnation, lease in self._live().items()}
        return self._as_changes(owners, workers)

    def changes_since(self, generation: str, version: int) -> MapChanges | None:
        """Return what is new since a version; None if that is not remembered."""
        changes: deque[_Change] = deque()
        for change in reversed(self._changes):
            if change.version < version:
                break
            changes.appendleft(change)
        if generation != self._generation or not changes or changes[0].version != version:
            return None
        live, workers = self._live(), {}
        owners: list[tuple[Collection[int], str]] = []
        for change in itertools.islice(changes, 1, None):
            owners += change.owners
            for incarnation in change.workers:
                workers[incarnation] = live[incarnation].record if incarnation in live else None
        return self._as_changes(owners, workers)

    def _as_changes(
        self, owners: Sequence[tuple[Collection[int], str]], workers: Mapping[str, WorkerRecord | None]
    ) -> MapChanges:
        now = self._clock()
        suspicions = {
            key: dataclasses.replace(suspicion, lasts_s=until - now)
            for key, (suspicion, until) in self._suspicions.items()
            if until > now
        }
        num_slots = self._num_slots if self._version else 0
        return MapChanges(self._generation, self._version, owners, workers, suspicions, num_slots)

    async def map_version(self) -> int:
        self._live()
        return self._version

    async def advance(self, version: int) -> None:
        if self._version <= version:
            self._version = version
            self._bump(_Change())

    async def wait_for_change(self, version: int, timeout_s: float) -> int:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while await self.map_version() == version:
                    changed = self._changed
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_LOOK_S):
                            await changed.wait()
        return self._version

    async def aclose(self) -> None:
        """Implement :meth:`Store.aclose`."""

    def owned_under(self, tokens: Mapping[int, str]) -> set[int]:
        """Return the slots that are owned under their token."""
        return {slot for slot, token in tokens.items() if self._tokens.get(slot) == token}

    def _live(self) -> dict[str, _Lease]:
        """Remove expired leases; return the others."""
        now = self._clock()
        if now < self._none_ends_before:
            return self._leases
        over = [incarnation for incarnation, lease in self._leases.items() if lease.expires_at <= now]
        for incarnation in over:
            del self._leases[incarnation]
        ends = (lease.expires_at for lease in self._leases.values())
        self._none_ends_before = min(ends, default=float("-inf"))
        if over:
            self._bump(_Change(workers=over))
        return self._leases

    def _require_alive(self, incarnation: str) -> None:
        if incarnation not in self._live():
            raise WorkerNotAliveError(incarnation, "ended" if self._has_ended(incarnation) else "expired")

    def _has_ended(self, incarnation: str) -> bool:
        now = self._clock()
        self._ended = {ended: until for ended, until in self._ended.items() if until > now}
        return incarnation in self._ended

    def _end(self, incarnation: str) -> None:
        self._ended[incarnation] = self._clock() + ENDED_MEMORY_S
        known = self._leases.pop(incarnation, None)
        slots = [slot for slot, token in self._tokens.items() if holder_of(token) == incarnation]
        for slot in slots:
            del self._tokens[slot]
        if known is not None or slots:
            self._bump(_Change([(slots, "")], (incarnation,)))

    def _bump(self, change: _Change) -> None:
        """Make a new version of the map, with what is new in it."""
        self._version = max(self._version + 1, round(self._clock() * 1e6))
        if sum(len(slots) for slots, _ in change.owners) > MAX_CHANGED_SLOTS:
            self._changes.clear()
            change = _Change()
        self._changes.append(dataclasses.replace(change, version=self._version))
        self._changed.set()
        self._changed = asyncio.Event()
