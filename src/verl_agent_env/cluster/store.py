"""What the workers of a cluster share: who is alive, and who owns which slot.

A **worker** keeps itself alive with heartbeats, each good for ``ttl_s`` by the store's own clock. A **slot** belongs to
at most one incarnation; what proves it is a **token**, ``<random nonce>:<incarnation>``, made anew at every change of
owner. Tokens are compared by equality only: there is no order among them.

A **name** (``node:port``) belongs to one live incarnation. A supervisor gives all of its workers its own random id
(:attr:`WorkerRecord.supervisor`). A worker that comes under the name of a live one is its successor when both have the
same supervisor, which starts a worker only after the last one's end: the old one is ended in the store. Under another
supervisor it is a second node of one name and is refused. A whole node that is restarted after a crash meets the
leases of its past, so a worker whose first heartbeat is refused tries for one ``ttl_s`` before it gives up.

The **version** of the map changes with every change of ownership, when a worker joins, ends or changes its state or
address, and when calls are suspected to have ended a worker; that a lease ran out is noticed by the next heartbeat of any worker. Versions are compared by equality too;
they go on growing when the store is emptied. The **generation** names the data set: another one means that the
store was emptied or replaced, and that nobody owns anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import orjson

from verl_agent_env.types import NUM_SLOTS
from verl_agent_env.wire.records import record_of
from verl_agent_env.wire.suspicions import Suspicion

WorkerState = Literal["starting", "ready", "draining"]

ENDED_MEMORY_S = 600.0
"""How long an incarnation that left or was reported dead is refused; a late heartbeat must not revive it."""


Formats = frozenset[tuple[str, str]]
"""Kinds of environments, each with a format of its states. Nobody reads two formats of one kind."""


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """What a worker tells about itself with every heartbeat."""

    incarnation: str
    """Random id of this process's life; never used again."""
    name: str
    """``node:port``; outlives the process."""
    node: str
    """The pool that it belongs to."""
    supervisor: str
    """Random id of the life of the pool's supervisor: who may replace the worker of a name. No client is told: of it is
    made what workers show each other."""
    address: str
    """``host:port`` where it listens, the same text that nginx is given."""
    pid: int
    state: WorkerState = "starting"
    live_envs: int = 0
    started_at: float = 0.0
    """Seconds since the epoch."""
    reads: Mapping[str, str] | None = None
    """Kinds of environments that it knows so far, with the format of their states; None of software that does not say."""

    def __post_init__(self) -> None:
        for name in ("incarnation", "name", "node", "supervisor", "address"):
            if not getattr(self, name):
                raise ValueError(f"a worker's {name} must not be empty")

    @property
    def shape(self) -> str:
        """What others act upon; a change of it is a change of the map."""
        reads = "" if self.reads is None else orjson.dumps(self.reads, option=orjson.OPT_SORT_KEYS).decode()
        return f"{self.state} {self.address} {reads}"

    def can_read(self, formats: Formats) -> bool:
        """Whether it can go on with environments of all these kinds and formats; True where it does not say."""
        return self.reads is None or formats <= self.reads.items()

    def to_json(self) -> bytes:
        """The record as it is kept."""
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> WorkerRecord:
        """The record that :meth:`to_json` wrote; fields of a later version are passed over."""
        return record_of(cls, text)


class Heartbeat(NamedTuple):
    """The store's answer to a heartbeat."""

    generation: str
    map_version: int


class Ownership(NamedTuple):
    """Whose a slot is."""

    token: str
    incarnation: str


@dataclass(frozen=True)
class ClusterMap:
    """The whole picture at one moment."""

    generation: str
    version: int
    owners: Mapping[int, Ownership]
    """By slot. The owner may be dead: then the slot waits to be claimed."""
    workers: Mapping[str, WorkerRecord]
    """Those alive, by incarnation."""
    suspicions: Mapping[str, Suspicion] = field(default_factory=dict)
    """Calls that ended a worker, or may have, by :attr:`~verl_agent_env.wire.suspicions.Suspicion.key`."""

    def owner_of(self, slot: int) -> WorkerRecord | None:
        """The live worker that owns ``slot``, if there is one."""
        owner = self.owners.get(slot)
        return None if owner is None else self.workers.get(owner.incarnation)

    def tokens_of(self, incarnation: str) -> dict[int, str]:
        """The slots of a worker with their tokens."""
        return {slot: own.token for slot, own in self.owners.items() if own.incarnation == incarnation}

    def slot_counts(self) -> Counter[str]:
        """How many slots each incarnation owns."""
        return Counter(own.incarnation for own in self.owners.values())


class Store(Protocol):
    """Membership and ownership, shared by all workers.

    Every call ends in bounded time, and each may be repeated after a lost answer: it gives the same result.

    Raises:
        StoreUnavailableError: From any call; whether a write took effect is then unknown.
        ValueError: A slot is out of range.
    """

    async def generation(self) -> str:
        """Id of the data set; made by the first call."""

    async def heartbeat(self, record: WorkerRecord, ttl_s: float) -> Heartbeat:
        """Join, or stay alive for another ``ttl_s``. A generation other than the last one means an emptied store.

        Raises:
            NameTakenError: A worker of another supervisor is alive under this name.
            WorkerNotAliveError: The incarnation left, was replaced or was reported dead.
        """

    async def leave(self, incarnation: str) -> None:
        """End the worker's own life: its name and slots are free at once, and the incarnation cannot come back."""

    async def claim(
        self, incarnation: str, slots: Collection[int], *, generation: str | None = None
    ) -> dict[int, str]:
        """Take those of ``slots`` that are free or whose owner is dead.

        Returns:
            The token of each slot that is the caller's now, those it owned before included.

        Raises:
            WorkerNotAliveError: The caller has no live lease.
            GenerationChangedError: The store is of another generation than the given one.
        """

    async def hand_off(self, tokens: Mapping[int, str], to_incarnation: str) -> dict[int, str]:
        """Give slots to another worker.

        Returns:
            The new token of each slot handed over; a slot whose token did not match is left out.

        Raises:
            WorkerNotAliveError: The receiver has no live lease; nothing was handed over.
        """

    async def suspect(self, suspicions: Collection[Suspicion], cleared: Collection[str] = ()) -> None:
        """Have all workers know suspicions, and forget those of the keys ``cleared``: a new version of the map.

        The supervisor of a pool tells it before it starts the next worker. At most
        :data:`~verl_agent_env.wire.suspicions.MAX_SUSPICIONS` are kept: those that last longest.
        """

    async def read_map(self) -> ClusterMap:
        """Everything, as of one moment."""

    async def map_version(self) -> int:
        """The map's version; 0 when there is nothing yet."""

    async def wait_for_change(self, version: int, timeout_s: float) -> int:
        """The map's version as soon as it is another than ``version``, or after ``timeout_s``."""

    async def aclose(self) -> None:
        """Let go of connections; the store cannot be used afterwards."""


def token_of(nonce: str, incarnation: str) -> str:
    """The token that a change of owner under ``nonce`` gives to ``incarnation``."""
    return f"{nonce}:{incarnation}"


def holder_of(token: str) -> str:
    """The incarnation that a token was made for."""
    return token.partition(":")[2]


def check_slots(slots: Collection[int]) -> None:
    """Refuse numbers that are no slots.

    Raises:
        ValueError: One is not.
    """
    for slot in slots:
        if not 0 <= slot < NUM_SLOTS:
            raise ValueError(f"slot must be from 0 to {NUM_SLOTS - 1}, not {slot}")
