"""Where every slot lives, as one worker knows it at the moment: what the dispatch of a call asks."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Collection, Mapping, Sequence
from typing import TypeVar

from verl_agent_env.cluster.leases import LocalLease
from verl_agent_env.errors import WorkerUnreachableError
from verl_agent_env.types import NUM_SLOTS

T = TypeVar("T")


class SlotTable:
    """Owners by slot, and which slots are this worker's own.

    Others write it, dispatch reads it. It can be out of date: a worker that is asked for a slot that is not its own
    says so, and the asker looks again.
    """

    def __init__(self, address: str, lease: LocalLease | None = None) -> None:
        """A table in which nobody owns anything.

        Args:
            address: Where this worker listens.
            lease: While it is over, no slot counts as the worker's own; None for ownership that never ends.
        """
        self.address = address
        self._lease = lease
        self._addresses: Sequence[str | None] = [None] * NUM_SLOTS
        self._is_mine = bytearray(NUM_SLOTS)
        self.for_new: Mapping[str, Sequence[int]] = {}
        """Slots in which new environments begin, by the address of the worker that they are for."""
        self._inherited: Collection[int] = frozenset()
        self.generation = ""
        """The data set in which the worker owns its slots; empty where ownership is not shared through a store."""
        self.tokens: Mapping[int, str] = {}
        """What proves that this worker owns its slots."""
        self._foreign: Collection[int] = frozenset()
        self._changed = asyncio.Event()

    def assign(
        self,
        addresses: Sequence[str | None],
        mine: Collection[int],
        *,
        for_new: Mapping[str, Sequence[int]] | None = None,
        inherited: Collection[int] = frozenset(),
        generation: str = "",
        tokens: Mapping[int, str] | None = None,
        foreign: Collection[int] = frozenset(),
    ) -> None:
        """Take in a new picture.

        Args:
            addresses: Whom to ask, by slot; None where nobody is known.
            mine: Slots that this worker owns.
            for_new: Slots in which new environments begin, by the address of the worker that they are for.
            inherited: Slots in which another worker may have had environments that are gone now.
            generation: The data set in which the worker owns its slots.
            tokens: What proves that it does.
            foreign: Slots that other workers own.
        """
        is_mine = bytearray(NUM_SLOTS)
        for slot in mine:
            is_mine[slot] = 1
        self._addresses, self._is_mine = addresses, is_mine
        self.for_new = for_new or {}
        self._inherited = inherited
        self.generation, self.tokens, self._foreign = generation, tokens or {}, foreign
        self._changed.set()
        self._changed = asyncio.Event()

    def release(self, slots: Collection[int]) -> None:
        """Act for these slots no more, and begin no environments in them, until the next :meth:`assign`."""
        for slot in slots:
            self._is_mine[slot] = 0
        gone = frozenset(slots)
        left = {address: [s for s in found if s not in gone] for address, found in self.for_new.items()}
        self.for_new = {address: found for address, found in left.items() if found}

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
        """What proves that this worker owns the slot; None if it does not, or not at the moment."""
        return self.tokens.get(slot)

    def has_gone(self, slot: int) -> bool:
        """Whether another worker owns the slot."""
        return slot in self._foreign

    @property
    def is_whole(self) -> bool:
        """Whether every slot has an owner that lives, as far as this worker knows."""
        return not self.generation or all(self.owns(slot) or self.has_gone(slot) for slot in range(NUM_SLOTS))

    def is_inherited(self, slot: int) -> bool:
        """Whether another worker may have had environments in the slot that are gone now."""
        return slot in self._inherited

    def slots_for_new(self, count: int) -> list[int]:
        """Choose a slot for each of ``count`` new environments: equal shares for all workers that take some.

        Shares are contiguous: neighbours stay together. Empty when nobody takes any at present.
        """
        shares = [found for address, found in sorted(self.for_new.items()) if self._can_take(address)]
        if not shares:
            return []
        # Few new ones must not all go to the first workers.
        first = random.randrange(len(shares))
        return [
            random.choice(shares[(first + len(shares) * position // count) % len(shares)])
            for position in range(count)
        ]

    def _can_take(self, address: str) -> bool:
        return address != self.address or self._lease is None or self._lease.valid

    async def while_at(self, address: str, slots: Collection[int], call: Awaitable[T]) -> T:
        """The result of a call to ``address``, given up as soon as all of ``slots`` have gone from there.

        A worker that is stopped, or cut off, does not answer; what it was asked is then asked of its successors.

        Raises:
            WorkerUnreachableError: They have; whether the call is carried out is unknown.
        """
        task = asyncio.ensure_future(call)
        try:
            while True:
                changed = asyncio.ensure_future(self._changed.wait())
                await asyncio.wait((task, changed), return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                if task.done():
                    return task.result()
                if all(self.owner_of(slot) != address for slot in slots):
                    raise WorkerUnreachableError(address, "its slots went to other workers meanwhile")
        finally:
            if not task.done():
                task.cancel()

    def slots_by_address(self) -> dict[str, int]:
        """How many slots each address has."""
        counts: dict[str, int] = {}
        for slot in range(NUM_SLOTS):
            address = self.owner_of(slot)
            if address is not None:
                counts[address] = counts.get(address, 0) + 1
        return counts

    async def wait_for_change(self, timeout_s: float) -> None:
        """Return at the next :meth:`assign`, or after ``timeout_s``."""
        changed = self._changed
        try:
            async with asyncio.timeout(timeout_s):
                await changed.wait()
        except TimeoutError:
            return
