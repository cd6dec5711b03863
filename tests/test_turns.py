"""Places are used in turns."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextvars import copy_context

import pytest

from tests.sim.virtual_loop import VirtualLoop
from verl_agent_env.errors import AtCapacityError
from verl_agent_env.turns import Caller, Tenant, TenantQueue, Turns, current_caller, current_tenant

PATIENCE_S = 8.0


class Clients:
    """Calls that need a place for a while, at made-up times."""

    def __init__(self, loop: VirtualLoop, places: int) -> None:
        self.loop = loop
        self.turns = Turns(places, "threads")
        self.done: list[tuple[str, float]] = []
        self.refused: list[tuple[str, float]] = []
        self.at_work = 0
        self.most = 0

    async def call(self, name: str, takes_s: float, caller: Caller | None = None) -> None:
        current_caller.set(caller or Caller(PATIENCE_S))
        try:
            async with self.turns.place():
                self.at_work += 1
                self.most = max(self.most, self.at_work)
                await asyncio.sleep(takes_s)
                self.at_work -= 1
                self.done.append((name, self.loop.time() - 1000.0))
        except AtCapacityError as full:
            self.refused.append((f"{name}, {full.limit} {full.resource}", self.loop.time() - 1000.0))

    def start(self, name: str, takes_s: float, caller: Caller | None = None) -> asyncio.Task[None]:
        return self.loop.create_task(self.call(name, takes_s, caller))

    def run(self, *calls: asyncio.Task[None]) -> None:
        self.loop.run_until_complete(asyncio.gather(*calls))


@pytest.fixture
def clients() -> Iterator[Clients]:
    loop = VirtualLoop()
    yield Clients(loop, 2)
    loop.end()


def test_no_more_at_work_than_there_are_places(clients: Clients) -> None:
    clients.run(*(clients.start(str(nth), 1.0) for nth in range(7)))
    assert clients.most == 2
    assert [name for name, _ in clients.done] == [str(nth) for nth in range(7)]
    assert clients.done[-1][1] == 4.0


def test_single_calls_do_not_wait_for_all_of_a_batch(clients: Clients) -> None:
    batch = Caller(PATIENCE_S)
    many = [clients.start(f"batch {nth}", 1.0, batch) for nth in range(1000)]
    clients.run(clients.start("single", 1.0))
    assert dict(clients.done)["single"] <= 2.0
    clients.run(*many)
    assert not clients.refused
    # Its own items are what it waited for.
    assert len(clients.done) == 1001


def test_callers_take_turns_and_their_own_calls_come_in_order(clients: Clients) -> None:
    clients.turns = Turns(1, "threads")
    one, other = Caller(PATIENCE_S), Caller(PATIENCE_S)
    calls = [clients.start(f"one {nth}", 1.0, one) for nth in range(3)]
    calls += [clients.start(f"other {nth}", 1.0, other) for nth in range(3)]
    clients.run(*calls)
    assert [name for name, _ in clients.done] == ["one 0", "one 1", "other 0", "one 2", "other 1", "other 2"]


def test_tokens_have_places_in_turn_and_so_have_the_runs_of_each(clients: Clients) -> None:
    clients.turns = Turns(1, "threads")

    def start(tag: str, run_id: str, nth: int) -> asyncio.Task[None]:
        context = copy_context()
        context.run(current_tenant.set, Tenant(tag, run_id))
        return clients.loop.create_task(
            clients.call(f"{tag}/{run_id} {nth}", 1.0, context.run(Caller, 100.0)), context=context
        )

    many = [start("a", run_id, nth) for run_id in ("r", "s") for nth in range(3)]
    clients.run(*many, *(start("b", "r", nth) for nth in range(2)))
    assert [name for name, _ in clients.done] == [
        *("a/r 0", "a/r 1", "b/r 0", "a/s 0", "b/r 1", "a/r 2", "a/s 1", "a/s 2")
    ]


def test_caller_that_was_refused_and_waits_again_has_one_turn_at_a_time(clients: Clients) -> None:
    clients.turns = Turns(1, "threads")
    again, patient = Caller(PATIENCE_S), Caller(None)
    slow = clients.start("slow", 1.5 * PATIENCE_S)
    clients.run(clients.start("again 0", 1.0, again))
    calls = [clients.start(f"again {nth}", 1.0, again) for nth in (1, 2)]
    clients.run(slow, *calls, *(clients.start(f"patient {nth}", 1.0, patient) for nth in (0, 1)))
    assert [name for name, _ in clients.done] == ["slow", "again 1", "patient 0", "again 2", "patient 1"]


def test_queue_of_tenants_is_empty_when_all_was_taken() -> None:
    queue: TenantQueue[int] = TenantQueue()
    assert not queue
    for nth in range(6):
        queue.put(Tenant(str(nth % 2), str(nth % 3)), nth)
    taken = []
    while queue:
        taken.append(queue.pop())
    assert sorted(taken) == list(range(6))
    assert [nth % 2 for nth in taken] == [0, 1] * 3


def test_who_gets_no_place_for_the_whole_patience_is_refused(clients: Clients) -> None:
    slow = [clients.start(f"slow {nth}", 100.0) for nth in range(2)]
    waiting = clients.start("single", 1.0)
    clients.run(waiting)
    assert clients.refused == [("single, 2 threads", PATIENCE_S)]
    batch = Caller(PATIENCE_S)
    clients.run(*(clients.start(f"batch {nth}", 1.0, batch) for nth in range(3)))
    assert {at for _, at in clients.refused[1:]} == {2 * PATIENCE_S}
    patient = clients.start("patient", 1.0, Caller(None))
    clients.run(*slow, patient)
    assert clients.done[-1] == ("patient", 101.0)
    assert clients.turns._free == 2


def test_batch_that_waits_for_its_own_items_is_not_refused(clients: Clients) -> None:
    batch = Caller(PATIENCE_S)
    clients.run(*(clients.start(f"batch {nth}", 3 * PATIENCE_S, batch) for nth in range(6)))
    assert not clients.refused
    assert len(clients.done) == 6


def test_who_goes_away_leaves_the_place_to_the_next(clients: Clients) -> None:
    loop = clients.loop
    slow = [clients.start(f"slow {nth}", 2.0) for nth in range(2)]
    gone, stays = clients.start("gone", 1.0), clients.start("stays", 1.0)
    loop.call_later(1.0, gone.cancel)
    # In the moment in which it gets its place.
    late = clients.start("late", 1.0)
    loop.call_at(loop.time() + 2.0, late.cancel)
    loop.run_until_complete(asyncio.gather(*slow, stays, gone, late, return_exceptions=True))
    clients.run(*(clients.start(f"after {nth}", 1.0) for nth in range(2)))
    assert {name for name, _ in clients.done} >= {"stays", "after 0", "after 1"}
    assert clients.turns._free == 2
