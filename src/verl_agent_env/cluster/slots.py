"""The slot table: the owner of every slot, as one worker knows it at the moment."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Collection, Container, Mapping, Sequence
from typing import Protocol, TypeVar

from verl_agent_env.cluster.leases import LocalLease
from verl_agent_env.errors import WorkerUnreachableError
from verl_agent_env.types import MANY_SLOTS, NUM_SLOTS, new_env_id
from verl_agent_env.wire.event_log import shard_of

T = TypeVar("T")

_FEW_WORKERS = 16
"""So many have a share of a batch's environments, whatever its size: its calls are carried out side by side."""


def share_holders(workers: int, count: int, together: int) -> int:
    """Return the number of workers that get a share of ``count`` new environments.

    The cost of a part of a batch is paid by the environments in it: where there are many workers, as many get one as can have
    ``together`` environments each.
    """
    return min(workers, count, max(_FEW_WORKERS, count // together))


class SlotProofs(Protocol):
    """Proofs of this worker's ownership of a part of the slots, in the log that has them."""

    is_away: bool
    """True while the log does not answer."""

    def token_of(self, slot: int) -> str | None:
        """Return the token of a slot; None as long as there is none."""

    def follow(self, is_of_another: Callable[[int], bool], released: Collection[int]) -> None:
        """Withdraw at once what the table, assigned anew, does not say any more.

        Args:
            is_of_another: Whether the map gives a slot to another worker, dead or alive.
            released: Slots that this worker had given up since the last time: others may have had them meanwhile.
        """


class SlotTable:
    """Owners by slot, and which slots are this worker's own.

    The cluster agent writes it, the router reads it. It can be out of date: a worker that gets a call for a slot of
    another one refuses it with 421 ``moved``, and the caller reads the table again.
    """

    def __init__(self, address: str, lease: LocalLease | None = None, num_slots: int = NUM_SLOTS) -> None:
        """Create a table in which no slot has an owner.

        Args:
            address: Address of this worker, ``host:port``.
            lease: Lease of this worker; while it is over, the worker owns no slot. None for ownership that never ends.
            num_slots: Number of slots.
        """
        self.address = address
        self.num_slots = num_slots
        self._lease = lease
        self._addresses: Sequence[str | None] = [None] * self.num_slots
        # Of ids with more digits than the cluster's, too, which nobody owns.
        self._is_mine = bytearray(MANY_SLOTS)
        self._waiting: list[str] = []
        """Workers that are still to have a share of new environments in this round."""
        self.for_new: Mapping[str, Sequence[int]] = {}
        """Slots in which new environments begin, by the address of the worker that they are for."""
        self._writable_before: tuple[Mapping[str, Sequence[int]], list[bool], Mapping[str, Sequence[int]]] = (
            {},
            [],
            {},
        )
        """Those slots, which logs were away, and the slots of the others, as they were looked for last."""
        self._inherited: Collection[int] = frozenset()
        self.generation = ""
        """The data set in which the worker owns its slots; empty where ownership is not shared through a store."""
        self.tokens: Mapping[int, str] = {}
        """Token of each slot that this worker owns, which proves its ownership to the store; another mapping whenever one of them,
        or the data set, changes."""
        self.version = 0
        """Version of the map that the table was made of."""
        self._foreign: Container[int] = frozenset()
        self._proofs: Sequence[SlotProofs] = ()
        self._released: set[int] = set()
        """Slots that were given up since the last :meth:`assign`."""
        self._unproved: set[int] = set()
        """Slots that are this worker's by the map, and not yet by their log."""
        self._changed = asyncio.Event()

    def require_proofs(self, proofs: Sequence[SlotProofs]) -> None:
        """Own slots only while the log that has them knows it; proof ``n`` is of the slots of shard ``n``."""
        self._proofs = proofs

    def assign(
        self,
        addresses: Sequence[str | None],
        mine: Collection[int],
        *,
        for_new: Mapping[str, Sequence[int]] | None = None,
        inherited: Collection[int] = frozenset(),
        generation: str = "",
        tokens: Mapping[int, str] | None = None,
        foreign: Container[int] = frozenset(),
        is_of_another: Callable[[int], bool] = lambda _: False,
        version: int = 0,
    ) -> None:
        """Replace the whole table.

        Args:
            addresses: Address of each slot's owner; None where it has none.
            mine: Slots that this worker owns.
            for_new: Slots in which new environments begin, by the address of the worker that they are for.
            inherited: Slots in which an earlier worker may have had environments, which are lost.
            generation: The data set in which the worker owns its slots.
            tokens: Token of each slot that this worker owns.
            foreign: Slots that other workers own.
            is_of_another: Whether another worker has a slot, dead or alive.
            version: Version of the map that all of this is taken from.
        """
        is_mine = bytearray(MANY_SLOTS)
        for slot in mine:
            is_mine[slot] = 1
        self._addresses, self._is_mine = addresses, is_mine
        self.for_new = for_new or {}
        self._inherited, self._foreign = inherited, foreign
        if generation != self.generation or (tokens or {}) != self.tokens:
            self.generation, self.tokens = generation, dict(tokens or {})
        self.version = version
        for proof in self._proofs:
            proof.follow(is_of_another, self._released)
        self._released = set()
        self._unproved = {slot for slot in mine if self.token_of(slot) is None} if self._proofs else set()
        for slot in self._unproved:
            is_mine[slot] = 0
        self._notify()

    def release(self, slots: Collection[int]) -> None:
        """Give up ownership of these slots, and place no new environments in them, until the next :meth:`assign`."""
        for slot in slots:
            self._is_mine[slot] = 0
        gone = frozenset(slots)
        self._unproved -= gone
        self._released |= gone
        left = {address: [s for s in found if s not in gone] for address, found in self.for_new.items()}
        self.for_new = {address: found for address, found in left.items() if found}

    def prove(self, slots: Collection[int]) -> None:
        """Own those of these slots that are this worker's by the map: their log knows it now."""
        for slot in self._unproved.intersection(slots):
            self._is_mine[slot] = 1
        self._unproved.difference_update(slots)
        self._notify()

    def doubt(self, slots: Collection[int]) -> None:
        """Own none of these slots until :meth:`prove`: their log may know better."""
        for slot in slots:
            if self._is_mine[slot]:
                self._is_mine[slot] = 0
                self._unproved.add(slot)

    def provable(self) -> Mapping[int, str]:
        """Return the tokens of the slots that this worker may say to be its own: its lease was valid all the time since."""
        if self._lease is not None and not self._lease.valid:
            return {}
        is_mine, unproved = self._is_mine, self._unproved
        return {slot: token for slot, token in self.tokens.items() if is_mine[slot] or slot in unproved}

    def owns(self, slot: int) -> bool:
        """Tell whether this worker may act for the slot now."""
        return bool(self._is_mine[slot]) and (self._lease is None or self._lease.valid)

    def owner_of(self, slot: int) -> str | None:
        """Return the address of the worker that may act for the slot now; None if none is known."""
        if self.owns(slot):
            return self.address
        address = self._addresses[slot]
        return None if address == self.address else address

    def token_of(self, slot: int) -> str | None:
        """Return the token that proves ownership of the slot; None if this worker does not own it at the moment."""
        if self._proofs:
            return self._proofs[shard_of(slot, len(self._proofs))].token_of(slot)
        return self.tokens.get(slot)

    def has(self, slot: int) -> bool:
        """Tell whether the slot is in the table: each is."""
        return True

    def was_refused(self) -> bool:
        """Tell whether the store has more to say about a refused token than the map, which says whose the slot is: no."""
        return False

    def has_gone(self, slot: int) -> bool:
        """Tell whether another worker owns the slot."""
        return slot in self._foreign

    @property
    def is_whole(self) -> bool:
        """True if every slot has a live owner, as far as this worker knows."""
        return not self.generation or all(
            self.owns(slot) or self.has_gone(slot) for slot in range(self.num_slots)
        )

    def is_inherited(self, slot: int) -> bool:
        """Tell whether an earlier worker may have had environments in the slot, which are lost."""
        return slot in self._inherited

    def slots_for_new(self, count: int, together: int = 1) -> list[int]:
        """Choose a slot for each of ``count`` new environments, in equal shares for workers that accept some.

        Shares are contiguous. No worker has its second one before each had its first.

        Args:
            count: Number of environments.
            together: As for :func:`share_holders`.

        Returns:
            The slots; none if no worker accepts any at present.
        """
        accepting = {
            address: found for address, found in self._writable().items() if found and self._can_take(address)
        }
        if not accepting:
            return []
        number = share_holders(len(accepting), count, together)
        shares = [accepting[address] for address in self._next_workers(accepting.keys(), number)]
        return [random.choice(shares[number * position // count]) for position in range(count)]

    def _next_workers(self, accepting: Collection[str], number: int) -> list[str]:
        """Choose the workers that had no share for longest, those of one round in any order."""
        waiting = [address for address in self._waiting if address in accepting]
        chosen, waiting = waiting[:number], waiting[number:]
        if len(chosen) < number:
            following = [*accepting]
            random.shuffle(following)
            others = [address for address in following if address not in chosen][: number - len(chosen)]
            waiting = [address for address in following if address not in others]
            chosen += others
        self._waiting = waiting
        return chosen

    def new_env_id_nearby(self, tag: str) -> str:
        """Make the id of a new environment in a slot of this worker, if it takes any; else in one of all slots."""
        own = self._writable().get(self.address) if self._can_take(self.address) else None
        return self.new_env_id(random.choice(own) if own else random.randrange(self.num_slots), tag)

    def new_env_id(self, slot: int, tag: str = "") -> str:
        """Make the unique id of a new environment in a slot, with the tag of its holder."""
        return new_env_id(slot, tag, self.num_slots)

    def _writable(self) -> Mapping[str, Sequence[int]]:
        """Return the slots in which new environments begin without those whose log is away; looked for anew when either changes."""
        away = [proof.is_away for proof in self._proofs]
        if not any(away):
            return self.for_new
        given, was_away, writable = self._writable_before
        if given is not self.for_new or was_away != away:
            writable = {
                address: [slot for slot in slots if not away[shard_of(slot, len(away))]]
                for address, slots in self.for_new.items()
            }
            self._writable_before = self.for_new, away, writable
        return writable

    def _can_take(self, address: str) -> bool:
        return address != self.address or self._lease is None or self._lease.valid

    async def while_at(self, address: str, slots: Collection[int], call: Awaitable[T]) -> T:
        """Await a call to ``address``, and cancel it when that worker owns none of ``slots`` any more.

        A worker that is stopped or cut off does not answer; the caller then asks the new owners.

        Raises:
            WorkerUnreachableError: The slots have other owners; whether the call was carried out is unknown.
        """
        task = asyncio.ensure_future(call)
        try:
            while True:
                changed = asyncio.ensure_future(self._changed.wait())
                try:
                    await asyncio.wait((task, changed), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changed.cancel()
                if task.done():
                    return task.result()
                if all(self.owner_of(slot) != address for slot in slots):
                    raise WorkerUnreachableError(address, "its slots went to other workers meanwhile")
        finally:
            if not task.done():
                task.cancel()

    def slots_by_address(self) -> dict[str, int]:
        """Count the slots of each address."""
        counts: dict[str, int] = {}
        for slot in range(self.num_slots):
            address = self.owner_of(slot)
            if address is not None:
                counts[address] = counts.get(address, 0) + 1
        return counts

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_for_change(self, timeout_s: float) -> None:
        """Return at the next :meth:`assign` or :meth:`prove`, or after ``timeout_s``."""
        changed = self._changed
        await self.wait_until(changed.is_set, timeout_s)

    async def wait_until(self, holds: Callable[[], bool], timeout_s: float) -> None:
        """Return when ``holds``, which is asked after each :meth:`assign` and :meth:`prove`, or after ``timeout_s``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not holds():
                    await self._changed.wait()
