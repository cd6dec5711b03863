"""Items of a call on their way to the owners of their slots."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import pytest

from tests.sim.virtual_loop import VirtualLoop
from verl_agent_env.cluster.leases import LocalLease
from verl_agent_env.cluster.slots import SlotTable
from verl_agent_env.cluster.timing import Timing
from verl_agent_env.errors import (
    EnvironmentNotFoundError,
    MovedError,
    ShuttingDownError,
    StoreFullError,
    StoreUnavailableError,
    VerlAgentEnvError,
)
from verl_agent_env.server.cluster.owner_search import LONG_PAUSE_S, PAUSE_S
from verl_agent_env.server.cluster.peers import Peers
from verl_agent_env.server.cluster.router import Router
from verl_agent_env.types import NUM_SLOTS
from verl_agent_env.waits import OWNER_S

HERE, B, C = "here:1", "b:2", "c:3"


class Others:
    """Workers that give signs of life."""

    def heard_at(self, address: str) -> float | None:
        return asyncio.get_running_loop().time()


class World:
    """One worker's router, and what was sent to whom."""

    def __init__(self, *owners: str | None) -> None:
        self.table = SlotTable(HERE)
        self.give(*owners)
        self.router = Router(self.table, cast(Peers, Others()), self._refresh)
        self.sent: list[tuple[str, list[int]]] = []
        self.refuse: dict[tuple[str, int], list[VerlAgentEnvError]] = {}
        """Errors of an item at a worker, until they are used up."""
        self.refreshes = 0
        self.on_refresh: Callable[[], Awaitable[None]] = lambda: asyncio.sleep(0)

    def give(self, *owners: str | None) -> None:
        """Have these workers own the first slots; nobody owns the others."""
        addresses = [*owners, *[None] * (NUM_SLOTS - len(owners))]
        self.table.assign(addresses, [slot for slot, owner in enumerate(owners) if owner == HERE])

    async def send(self, address: str, positions: list[int]) -> Sequence[Any]:
        """Carry out items: each gives the address at which that happened."""
        self.sent.append((address, positions))
        return [
            left.pop(0) if (left := self.refuse.get((address, position))) else address
            for position in positions
        ]

    async def _refresh(self) -> None:
        self.refreshes += 1
        await self.on_refresh()


def in_virtual_time(play: Callable[[VirtualLoop], Awaitable[None]]) -> None:
    """Play on a loop on which waiting takes no time."""
    loop = VirtualLoop()

    async def whole() -> None:
        await play(loop)

    try:
        loop.run_until_complete(whole())
    finally:
        loop.end()


async def test_each_owner_gets_its_items_and_results_come_in_order() -> None:
    world = World(B, HERE, C)
    assert await world.router.until_owned([2, 0, 1, 0, 2], world.send) == [C, B, HERE, B, C]
    # The others first: they are at work while this worker does its own part.
    assert sorted(world.sent[:2]) == [(B, [1, 3]), (C, [0, 4])]
    assert world.sent[2:] == [(HERE, [2])]


async def test_only_items_that_may_succeed_elsewhere_are_sent_again() -> None:
    world = World(B, B, B, B)
    unknown = EnvironmentNotFoundError("x")
    full = StoreFullError("store", "full")
    world.refuse = {(B, 0): [MovedError(0)], (B, 1): [unknown], (B, 2): [ShuttingDownError()], (B, 3): [full]}
    assert await world.router.until_owned(range(4), world.send) == [B, unknown, B, full]
    assert world.sent == [(B, [0, 1, 2, 3]), (B, [0, 2])]


async def test_a_worker_that_fails_fails_its_own_items_only() -> None:
    world = World(B, C)

    async def send(address: str, positions: list[int]) -> Sequence[Any]:
        if address == B:
            raise EnvironmentNotFoundError("x")
        return await world.send(address, positions)

    failed, answered = await world.router.until_owned([0, 1], send)
    assert (type(failed), answered) == (EnvironmentNotFoundError, C)


def test_an_item_whose_slot_has_a_new_owner_is_sent_there_without_a_pause() -> None:
    async def play(loop: VirtualLoop) -> None:
        world = World(B)

        async def send(address: str, positions: list[int]) -> Sequence[Any]:
            if address == B:
                world.give(C)
            return [MovedError(0)] if address == B else [address]

        began = loop.time()
        assert await world.router.until_owned([0], send) == [C]
        assert loop.time() == began

    in_virtual_time(play)


def test_an_item_without_an_owner_waits_until_the_search_is_over() -> None:
    async def play(loop: VirtualLoop) -> None:
        world = World(None)
        began = loop.time()
        (error,) = await world.router.until_owned([0], world.send)
        assert isinstance(error, StoreUnavailableError)
        assert OWNER_S <= loop.time() - began < OWNER_S + 1
        assert world.sent == []

    in_virtual_time(play)


def test_a_slot_that_moves_on_and_on_has_no_owner_in_the_end() -> None:
    async def play(loop: VirtualLoop) -> None:
        world = World(B)
        world.refuse = {(B, 0): [MovedError(0) for _ in range(10_000)]}
        (error,) = await world.router.until_owned([0], world.send)
        assert type(error) is StoreUnavailableError

    in_virtual_time(play)


@pytest.mark.parametrize("slots", [[0, 1], [0], [1]])
def test_calls_that_wait_for_owners_do_not_wake_each_other(slots: list[int]) -> None:
    async def play(loop: VirtualLoop) -> None:
        world = World(None, B)
        world.refuse = {
            (B, 0): [MovedError(1) for _ in range(10_000)],
            (B, 1): [MovedError(1) for _ in range(10_000)],
        }

        async def assign_as_it_was() -> None:
            # As an agent does whose plan is not carried out yet.
            await asyncio.sleep(0.001)
            world.give(None, B)

        world.on_refresh = assign_as_it_was
        calls = [world.router.until_owned(slots, world.send) for _ in range(2)]
        for results in await asyncio.gather(*calls):
            assert {type(result) for result in results} == {StoreUnavailableError}
        assert world.refreshes <= 2 * len(slots) * (OWNER_S / PAUSE_S + 1)

    in_virtual_time(play)


def test_call_on_a_slot_without_owner_waits_until_there_is_one() -> None:
    async def play(loop: VirtualLoop) -> None:
        world = World()
        waits_s = 2.345
        loop.call_later(waits_s, world.give, B)
        began = loop.time()
        assert await world.router.until_owned([0], world.send) == [B]
        assert loop.time() - began == pytest.approx(waits_s)
        # Thousands may wait: what each asks for all the while would leave the loop for nothing else.
        assert world.refreshes <= waits_s / LONG_PAUSE_S + 1
        began = loop.time()
        (error,) = await world.router.until_owned([1], world.send)
        assert type(error) is StoreUnavailableError
        assert OWNER_S < loop.time() - began <= OWNER_S + 2 * PAUSE_S

    in_virtual_time(play)


def test_calls_for_new_environments_do_not_wake_each_other() -> None:
    async def play(loop: VirtualLoop) -> None:
        world = World()

        async def assign_as_it_was() -> None:
            await asyncio.sleep(0.001)
            world.give()

        world.on_refresh = assign_as_it_was
        calls = [world.router.slots_for_new(1) for _ in range(2)]
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in errors} == {ShuttingDownError}
        assert world.refreshes <= 2 * (OWNER_S / PAUSE_S + 1)

    in_virtual_time(play)


def test_a_slot_whose_owners_refuse_it_by_turns_is_asked_for_until_the_search_is_over() -> None:
    async def play(loop: VirtualLoop) -> None:
        world = World(B)
        owners = itertools.cycle((C, B))

        async def give_to_the_other() -> None:
            await asyncio.sleep(0.001)
            world.give(next(owners))

        world.on_refresh = give_to_the_other

        async def refuse(address: str, positions: list[int]) -> Sequence[Any]:
            raise StoreUnavailableError("", "it is away")

        (error,) = await world.router.until_owned([0], refuse)
        assert type(error) is StoreUnavailableError
        assert world.refreshes > sys.getrecursionlimit()

    in_virtual_time(play)


def test_a_slot_of_ones_own_is_nobodys_while_the_lease_is_over() -> None:
    async def play(loop: VirtualLoop) -> None:
        world = World()
        lease = LocalLease(Timing(1.0), loop.time)
        table = SlotTable(HERE, lease)
        table.assign([HERE] * NUM_SLOTS, range(NUM_SLOTS))
        router = Router(table, cast(Peers, Others()), world._refresh)
        loop.call_later(2.0, lambda: lease.renewed(lease.sending()))
        assert await router.until_owned([0], world.send) == [HERE]
        assert world.sent == [(HERE, [0])]

    in_virtual_time(play)


@pytest.mark.parametrize("generation", ["", "known"])
def test_new_environments_wait_for_a_worker_that_accepts_them(generation: str) -> None:
    async def play(loop: VirtualLoop) -> None:
        world = World()
        world.table.assign([None] * NUM_SLOTS, (), generation=generation)
        # Where ownership ends, slots without an owner are what is missing; else all workers are about to end.
        with pytest.raises(StoreUnavailableError if generation else ShuttingDownError):
            await world.router.slots_for_new(3)
        loop.call_later(1.0, lambda: world.table.assign([B] * NUM_SLOTS, (), for_new={B: [7]}))
        assert await world.router.slots_for_new(3) == [7, 7, 7]

    in_virtual_time(play)
