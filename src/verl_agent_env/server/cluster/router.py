"""Routes the items of a call to the workers that own their slots, while slots change hands."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from verl_agent_env.cluster.slots import SlotTable
from verl_agent_env.errors import MovedError, ShuttingDownError, StoreUnavailableError, VerlAgentEnvError
from verl_agent_env.server.cluster.owner_search import LONG_PAUSE_S, PAUSE_S, OwnerSearch
from verl_agent_env.server.cluster.peers import Peers

Send = Callable[[str, list[int]], Awaitable[Sequence[Any]]]
"""Carries out the items at these positions at the worker with this address. Gives a result or an error for each of them, or
raises the error of all."""


class Router:
    """Finds the owner of each slot of a call, and goes on looking for as long as another try may succeed.

    A call may be sent more than once: each of its items must have an id by which a worker knows it again.
    """

    def __init__(self, table: SlotTable, peers: Peers, refresh: Callable[[], Awaitable[None]]) -> None:
        """Route by ``table``.

        Args:
            table: Who owns each slot.
            peers: The other workers.
            refresh: Brings the table up to date after a worker refused a slot.
        """
        self.table = table
        self._peers = peers
        self._refresh = refresh

    async def until_owned(self, slots: Sequence[int], send: Send, *, has_moved: bool = False) -> list[Any]:
        """Have the owner of each slot carry out the item at its position, all owners side by side.

        Items whose slot is changing hands, and those of a worker that died or whose answer got lost, are sent again until
        their owner answers or the search is over. A worker that fails fails its own items only.

        Args:
            slots: One for each item of the call.
            send: Carries out items.
            has_moved: Whether this worker had the call already, until it lost the slot.

        Returns:
            A result or an error for each item, in order.
        """
        call = _Call(slots, send, [None] * len(slots))
        await self._route(call, range(len(slots)), OwnerSearch.begin(has_moved=has_moved))
        return call.results

    async def slots_for_new(self, count: int, together: int = 1) -> list[int]:
        """Choose a slot for each of ``count`` new environments, as soon as some worker accepts them.

        Shares are as :meth:`~verl_agent_env.cluster.slots.SlotTable.slots_for_new` has them.

        Raises:
            StoreUnavailableError: No worker owns some slot at present.
            ShuttingDownError: All workers are about to end.
        """
        search = OwnerSearch.begin()
        while not (slots := self.table.slots_for_new(count, together)):
            if search.is_over:
                raise ShuttingDownError if self.table.is_whole else _no_owner_error()
            await self._refresh()
            await self._until_others_accept()
        return slots

    async def _until_others_accept(self) -> None:
        """Return when new environments begin in other slots, or after a pause."""
        before = self.table.for_new
        await self.table.wait_until(lambda: self.table.for_new != before, PAUSE_S)

    async def _route(self, call: _Call, positions: Sequence[int], search: OwnerSearch) -> None:
        """Put the results of these positions into the call's results."""
        while positions:
            parts = self._by_owner(call.slots, positions)
            if len(parts) > 1:
                order = sorted(parts, key=lambda owner: owner == self.table.address)
                await asyncio.gather(*(self._follow(call, owner, parts[owner], search) for owner in order))
                return
            ((owner, part),) = parts.items()
            positions, search = await self._settle(call, owner, part, search)

    async def _follow(
        self, call: _Call, owner: str | None, positions: list[int], search: OwnerSearch
    ) -> None:
        """Have one worker carry out its items; route those again that may succeed elsewhere."""
        await self._route(call, *await self._settle(call, owner, positions, search))

    async def _settle(
        self, call: _Call, owner: str | None, positions: list[int], search: OwnerSearch
    ) -> tuple[list[int], OwnerSearch]:
        """Have one worker carry out its items, and wait until those that may succeed elsewhere can be routed again.

        Returns:
            The positions to route again, and the search that goes on with them.
        """
        search = search.sent()
        again: list[int] = []
        passing: dict[type, VerlAgentEnvError] = {}
        results = call.results
        for position, result in zip(positions, await self._at(owner, call, positions), strict=True):
            results[position] = result
            if not isinstance(result, VerlAgentEnvError):
                continue
            if search.may_pass(result):
                again.append(position)
                passing[type(result)] = result
            if isinstance(result, MovedError):
                # The owner is looked for until the search is over: to the client, a moved slot has none by then.
                results[position] = _no_owner_error()
        if not again:
            return [], search
        heard_at = None if owner is None else self._peers.heard_at(owner)
        search = max(
            (search.after(error, heard_at) for error in passing.values()),
            key=lambda after: (after.until, after.has_moved),
        )
        if search.is_over:
            return [], search
        await self._refresh()
        # Of a slot without an owner nothing is to be heard but that it has one; the table says so by itself.
        pause_s = PAUSE_S if owner is not None else max(PAUSE_S, min(LONG_PAUSE_S, search.left_s))
        await self._until_others_own({call.slots[position] for position in again}, owner, pause_s)
        return again, search

    async def _until_others_own(self, slots: Collection[int], owner: str | None, pause_s: float) -> None:
        """Return when one of these slots is another worker's than ``owner``'s, or after a pause.

        A table that is assigned again with the same owners is no reason to ask again: what is asked here has it assigned.
        """
        owner_of = self.table.owner_of
        before = {slot: owner_of(slot) for slot in slots}
        if all(found in (owner, None) for found in before.values()):
            await self.table.wait_until(
                lambda: any(owner_of(slot) not in (found, None) for slot, found in before.items()), pause_s
            )

    async def _at(self, owner: str | None, call: _Call, positions: list[int]) -> Sequence[Any]:
        """Carry out items at one worker; its error in place of each if it fails."""
        if owner is None:
            return [_no_owner_error()] * len(positions)
        try:
            if owner == self.table.address:
                if len(positions) < len(call.slots):
                    # What others get is on its way before this worker is at work on its own part.
                    await asyncio.sleep(0)
                return await call.send(owner, positions)
            slots = {call.slots[position] for position in positions}
            return await self.table.while_at(owner, slots, call.send(owner, positions))
        except VerlAgentEnvError as error:
            return [error.as_result()] * len(positions)

    def _by_owner(self, slots: Sequence[int], positions: Iterable[int]) -> dict[str | None, list[int]]:
        """Group positions by the owner of their slots; None for slots that nobody may act for."""
        parts: dict[str | None, list[int]] = {}
        part_of: dict[int, list[int]] = {}
        for position in positions:
            slot = slots[position]
            part = part_of.get(slot)
            if part is None:
                part = part_of[slot] = parts.setdefault(self.table.owner_of(slot), [])
            part.append(position)
        return parts


@dataclass(frozen=True, slots=True)
class _Call:
    """A call whose items are routed, and what has become of them."""

    slots: Sequence[int]
    send: Send
    results: list[Any]


def _no_owner_error() -> StoreUnavailableError:
    return StoreUnavailableError("", "no worker owns the slot at present")
