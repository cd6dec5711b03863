"""Where every slot lives, as one worker knows it at the moment: what the dispatch of a call asks."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Sequence

from verl_agent_env.cluster.leases import LocalLease
from verl_agent_env.types import NUM_SLOTS


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
        self.peers: tuple[str, ...] = ()
        """Addresses of the other workers that take new environments."""
        self._lease = lease
        self._addresses: Sequence[str | None] = [None] * NUM_SLOTS
        self._is_mine = bytearray(NUM_SLOTS)
        self._open: Sequence[int] = ()
        self._inherited: Collection[int] = frozenset()
        self._changed = asyncio.Event()

    def assign(
        self,
        addresses: Sequence[str | None],
        mine: Collection[int],
        *,
        open_slots: Sequence[int] | None = None,
        peers: Sequence[str] = (),
        inherited: Collection[int] = frozenset(),
    ) -> None:
        """Take in a new picture.

        Args:
            addresses: Whom to ask, by slot; None where nobody is known.
            mine: Slots that this worker owns.
            open_slots: Those of them in which new environments may begin; all of them if not given.
            peers: The other workers that take new environments.
            inherited: Slots in which another worker may have had environments that are gone now.
        """
        is_mine = bytearray(NUM_SLOTS)
        for slot in mine:
            is_mine[slot] = 1
        self._addresses, self._is_mine = addresses, is_mine
        self._open = tuple(mine if open_slots is None else open_slots)
        self.peers = tuple(peers)
        self._inherited = inherited
        self._changed.set()
        self._changed = asyncio.Event()

    def owns(self, slot: int) -> bool:
        """Whether this worker may act for the slot now."""
        return bool(self._is_mine[slot]) and (self._lease is None or self._lease.valid)

    def address_of(self, slot: int) -> str | None:
        """Who should be asked about the slot; None if nobody is known."""
        return self.address if self._is_mine[slot] else self._addresses[slot]

    def is_inherited(self, slot: int) -> bool:
        """Whether another worker may have had environments in the slot that are gone now."""
        return slot in self._inherited

    @property
    def can_create(self) -> bool:
        """Whether new environments may begin here."""
        return bool(self._open) and (self._lease is None or self._lease.valid)

    def pick_slot(self, choose: Callable[[Sequence[int]], int] = random.choice) -> int:
        """A slot for a new environment.

        Raises:
            LookupError: There is none; see :attr:`can_create`.
        """
        if not self._open:
            raise LookupError("this worker has no slot for new environments")
        return choose(self._open)

    def slots_by_address(self) -> dict[str, int]:
        """How many slots each address has."""
        counts: dict[str, int] = {}
        for slot in range(NUM_SLOTS):
            address = self.address_of(slot)
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
