"""The store: the live workers of a cluster, and the owner of each slot.

A **worker** keeps its lease with heartbeats, each valid for ``ttl_s`` by the store's own clock. A **slot** belongs to
at most one incarnation, which proves its ownership with a **token**, ``<random nonce>:<incarnation>``; every change of
owner makes a new one. Tokens are compared by equality only: they have no order.

A **name** (``node:port``) belongs to one live incarnation. A supervisor gives all of its workers its own random id
(:attr:`WorkerRecord.supervisor`). A worker that joins under the name of a live one replaces it if both have the same
supervisor, which starts a worker only after the end of the last one: the store ends the old incarnation. With another
supervisor the worker belongs to a second node of one name and is refused. A node that is restarted after a crash still
finds its own former leases, so a worker whose first heartbeat is refused retries for one ``ttl_s``.

The **version** of the map changes with every change of ownership, when a worker joins, ends or changes its state or
address, and when calls are suspected to have ended a worker. The next heartbeat of any worker notices that a lease has
expired. Versions are compared by equality only; they go on growing when the store is emptied. The **generation** is the
id of the data set: a new one means that the store was emptied or replaced, and that no slot has an owner.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import orjson

from verl_agent_env.wire.records import record_of
from verl_agent_env.wire.suspicions import Suspicion

WorkerState = Literal["starting", "ready", "draining"]

ENDED_MEMORY_S = 600.0
"""How long an incarnation that has ended is refused; a late heartbeat must not revive it."""

MAX_CHANGES = 1024
"""Versions of the map of which a store remembers what was new, at least."""
MAX_CHANGED_SLOTS = 1024
"""Slots whose change at once is remembered; after a change of more the whole map is read."""


Formats = frozenset[tuple[str, str]]
"""Kinds of environments, each with the format of its states. No worker reads two formats of one kind."""


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A worker, as its heartbeats describe it."""

    incarnation: str
    """Random id of this process; never reused."""
    name: str
    """``node:port``; the same after a restart of the process."""
    node: str
    """Name of the node, whose pool of workers it belongs to."""
    supervisor: str
    """Random id of the pool's supervisor process, whose workers may replace each other. Secret: workers derive from it what
    they authenticate themselves to each other with."""
    address: str
    """``host:port`` to reach it at, spelt as in nginx's configuration."""
    pid: int
    state: WorkerState = "starting"
    live_envs: int = 0
    started_at: float = 0.0
    """Seconds since the epoch."""
    reads: Mapping[str, str] | None = None
    """Kinds of environments that it has loaded so far, with the format of their states; None from versions without this field."""

    def __post_init__(self) -> None:
        for name in ("incarnation", "name", "node", "supervisor", "address"):
            if not getattr(self, name):
                raise ValueError(f"a worker's {name} must not be empty")

    @property
    def shape(self) -> str:
        """The part of the record whose change makes a new version of the map."""
        reads = "" if self.reads is None else orjson.dumps(self.reads, option=orjson.OPT_SORT_KEYS).decode()
        return f"{self.state} {self.address} {reads}"

    def can_read(self, formats: Formats) -> bool:
        """Tell whether the worker can continue environments of all these kinds and formats; True if it does not say."""
        return self.reads is None or formats <= self.reads.items()

    def to_json(self) -> bytes:
        """Encode the record."""
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> WorkerRecord:
        """Decode what :meth:`to_json` wrote; fields of later versions are ignored."""
        return record_of(cls, text)


class Heartbeat(NamedTuple):
    """The store's answer to a heartbeat."""

    generation: str
    map_version: int


class Ownership(NamedTuple):
    """The owner of a slot."""

    token: str
    incarnation: str


@dataclass(frozen=True)
class ClusterMap:
    """Workers, owners and suspicions, as of one moment."""

    generation: str
    version: int
    owners: Mapping[int, Ownership]
    """Owners by slot. An owner may be dead: then the slot can be claimed."""
    workers: Mapping[str, WorkerRecord]
    """Live workers by incarnation."""
    suspicions: Mapping[str, Suspicion] = field(default_factory=dict)
    """Calls that have ended a worker, or may have, by :attr:`~verl_agent_env.wire.suspicions.Suspicion.key`."""
    num_slots: int = 0
    """Number of slots of the data set; 0 as long as no worker has joined."""
    since: int | None = field(default=None, compare=False)
    """Version of the map that this one was made of; None for one that was read as a whole."""
    changed: Collection[int] = field(default=(), compare=False)
    """Slots whose owner or token may be another one than in that map."""

    def owner_of(self, slot: int) -> WorkerRecord | None:
        """Return the live worker that owns ``slot``, if there is one."""
        owner = self.owners.get(slot)
        return None if owner is None else self.workers.get(owner.incarnation)

    def tokens_of(self, incarnation: str) -> dict[int, str]:
        """Return the slots of a worker with their tokens."""
        return {slot: own.token for slot, own in self.owners.items() if own.incarnation == incarnation}


@dataclass(frozen=True, slots=True)
class MapChanges:
    """Changes of a map since an earlier version in the same data set; or the whole map, as changes of an empty one."""

    generation: str
    version: int
    owners: Sequence[tuple[Collection[int], str]]
    """Slots with their token, empty for slots that are free; of a slot that is named twice the last one counts."""
    workers: Mapping[str, WorkerRecord | None]
    """Workers that have come or changed, by incarnation; None for those that have gone."""
    suspicions: Mapping[str, Suspicion]
    """All of them: those that have expired are no change of their own."""
    num_slots: int
    """Number of slots of the data set; 0 as long as no worker has joined."""

    def applied_to(self, known: ClusterMap | None) -> ClusterMap:
        """Return the map with these changes; parts that are the same are shared with the known one."""
        owners = {} if known is None else known.owners
        if self.owners:
            owners = {**owners}
            for slots, token in self.owners:
                if token:
                    owners.update(dict.fromkeys(slots, Ownership(token, holder_of(token))))
                else:
                    for slot in slots:
                        owners.pop(slot, None)
        workers = {} if known is None else known.workers
        if self.workers:
            workers = {
                incarnation: worker
                for incarnation, worker in {**workers, **self.workers}.items()
                if worker is not None
            }
        return ClusterMap(
            self.generation,
            self.version,
            owners,
            workers,
            self.suspicions,
            self.num_slots,
            None if known is None else known.version,
            () if known is None else frozenset(itertools.chain(*(slots for slots, _ in self.owners))),
        )


class Store(Protocol):
    """Membership and ownership, shared by all workers. The first one that joins gives the data set its number of slots.

    Every call ends in bounded time and may be repeated after a lost answer: it gives the same result.

    Raises:
        StoreUnavailableError: From any call; whether a write took effect is then unknown.
        ValueError: A slot is out of range.
    """

    async def generation(self) -> str:
        """Return the id of the data set, which the first call creates."""

    async def heartbeat(self, record: WorkerRecord, ttl_s: float) -> Heartbeat:
        """Join, or extend the lease to ``ttl_s`` from now. Another generation than the last one means an emptied store.

        Raises:
            NameTakenError: A worker of another supervisor is alive under this name.
            SlotsDifferError: The data set has another number of slots than this worker.
            WorkerNotAliveError: The incarnation has left or was replaced.
        """

    async def leave(self, incarnation: str) -> None:
        """End an incarnation: its name and slots are free at once, and it cannot join again."""

    async def claim(
        self, incarnation: str, slots: Collection[int], *, generation: str | None = None
    ) -> dict[int, str]:
        """Take ownership of those of ``slots`` that are free or whose owner is dead.

        Returns:
            The token of each slot that the caller owns now, including those that it owned before.

        Raises:
            WorkerNotAliveError: The caller has no live lease.
            GenerationChangedError: The store is of another generation than the given one.
        """

    async def hand_off(self, moves: Mapping[str, Mapping[int, str]]) -> dict[int, str]:
        """Give slots to other workers, all at once: it is one new version of the map.

        Args:
            moves: Slots with their present tokens, by the receiver's incarnation.

        Returns:
            The new token of each slot handed over; slots whose token did not match, and those of a receiver without a live lease,
            are left out.
        """

    async def suspect(self, suspicions: Collection[Suspicion], cleared: Collection[str] = ()) -> None:
        """Publish suspicions to all workers and remove those of the keys ``cleared``, as a new version of the map.

        A supervisor calls it before it starts the next worker. At most
        :data:`~verl_agent_env.wire.suspicions.MAX_SUSPICIONS` are kept: those that expire last.
        """

    async def read_map(self, known: ClusterMap | None = None) -> ClusterMap:
        """Return the map, as of one moment.

        Args:
            known: The map that the caller has read before: then only what has changed since is transferred, as long as the store
                remembers it (:data:`MAX_CHANGES`), and :attr:`WorkerRecord.live_envs` is as it was with the worker's last change.
        """

    async def map_version(self) -> int:
        """Return the map's version; 0 while the store is empty."""

    async def advance(self, version: int) -> None:
        """Make the map's version higher than ``version``, if it is not yet.

        Versions follow the order of ownership where event logs have stores of their own. A store that turned back is behind
        what its logs know already.
        """

    async def wait_for_change(self, version: int, timeout_s: float) -> int:
        """Return the map's version as soon as it differs from ``version``, or after ``timeout_s``."""

    async def aclose(self) -> None:
        """Close connections; the store cannot be used afterwards."""


_HANDED = "handed-"


def token_of(nonce: str, incarnation: str, *, was_handed: bool = False) -> str:
    """Return the token of ``incarnation`` with a random ``nonce``, which tells whether it was handed to it or claimed."""
    nonce = f"{_HANDED}{nonce}" if was_handed else nonce
    return f"{nonce}:{incarnation}"


def holder_of(token: str) -> str:
    """Return the incarnation that a token belongs to."""
    return token.partition(":")[2]


def was_interrupted(held: tuple[str, str], present: tuple[str, str]) -> bool:
    """Tell whether another worker may have owned a slot between two times at which this one did.

    In an emptied store all tokens are new, and it did not, unless somebody else was there first and has handed the slot over.

    Args:
        held: Data set and token at the first time.
        present: Data set and token at the second one.
    """
    return held[1] != present[1] and (held[0] == present[0] or was_handed(present[1]))


def was_handed(token: str) -> bool:
    """Tell whether a token is of slots that their owner handed over; False for those of owners of an earlier version."""
    return token.startswith(_HANDED)


def check_slots(slots: Collection[int], num_slots: int) -> None:
    """Check that all numbers are slots of a cluster of ``num_slots``.

    Raises:
        ValueError: One of them is not.
    """
    for slot in slots:
        if not 0 <= slot < num_slots:
            raise ValueError(f"slot must be from 0 to {num_slots - 1}, not {slot}")
