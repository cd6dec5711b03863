"""The slot table: who is asked, what is one's own, and that neither outlives the lease."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Collection

from tests.waiting import HANG_S, NEVER_S, no_hang
from verl_agent_env.cluster.leases import LocalLease
from verl_agent_env.cluster.slots import SlotTable
from verl_agent_env.cluster.timing import Timing
from verl_agent_env.types import NUM_SLOTS
from verl_agent_env.wire.event_log import shard_of

HERE, THERE = "here:1", "there:2"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def halves() -> list[str | None]:
    """Even slots here, odd ones there."""
    return [HERE if slot % 2 == 0 else THERE for slot in range(NUM_SLOTS)]


def test_nobody_owns_anything_in_a_new_table() -> None:
    table = SlotTable(HERE)
    assert not any(map(table.owns, range(NUM_SLOTS)))
    assert {table.owner_of(slot) for slot in range(NUM_SLOTS)} == {None}
    assert table.slots_by_address() == {}
    assert table.slots_for_new(3) == []


def test_own_slots_are_owned_and_others_are_asked_for() -> None:
    table = SlotTable(HERE)
    table.assign(halves(), range(0, NUM_SLOTS, 2))
    assert [slot for slot in range(NUM_SLOTS) if table.owns(slot)] == list(range(0, NUM_SLOTS, 2))
    assert (table.owner_of(2), table.owner_of(3)) == (HERE, THERE)
    assert table.slots_by_address() == {HERE: NUM_SLOTS // 2, THERE: NUM_SLOTS // 2}


def test_a_slot_of_ones_own_is_found_here_whatever_the_addresses_say() -> None:
    table = SlotTable(HERE)
    table.assign([THERE] * NUM_SLOTS, [7])
    assert (table.owner_of(7), table.owner_of(8)) == (HERE, THERE)


def test_another_picture_takes_the_place_of_the_last_one_altogether() -> None:
    table = SlotTable(HERE)
    table.assign(halves(), [0, 2], for_new={HERE: [0], THERE: [1]}, inherited={2})
    table.assign([None] * NUM_SLOTS, [4])
    assert [slot for slot in range(NUM_SLOTS) if table.owns(slot)] == [4]
    assert table.slots_for_new(1) == []
    assert not table.is_inherited(2)


def test_new_environments_begin_in_equal_shares_whoever_owns_the_slots() -> None:
    table = SlotTable(HERE)
    # All slots are here at present; half of them are on their way.
    table.assign([HERE] * NUM_SLOTS, range(NUM_SLOTS), for_new={HERE: [1, 3, 5], THERE: [2, 4]})
    chosen = table.slots_for_new(1000)
    assert Counter(slot % 2 for slot in chosen) == {0: 500, 1: 500}
    assert set(chosen) == {1, 2, 3, 4, 5}
    # Neighbours stay together.
    assert sum(a % 2 != b % 2 for a, b in itertools.pairwise(chosen)) == 1


def test_a_share_has_so_many_environments_at_least_and_every_worker_its_turn() -> None:
    table = SlotTable(HERE)
    for_new = {f"w:{number}": [number] for number in range(50)}
    table.assign([HERE] * NUM_SLOTS, range(NUM_SLOTS), for_new=for_new)
    rounds = [table.slots_for_new(64 * 20, 64) for _ in range(5)]
    for chosen in rounds:
        assert [*Counter(chosen).values()] == [64] * 20
        assert sum(a != b for a, b in itertools.pairwise(chosen)) == 19
    # Twenty at a time, of fifty: after five batches each was chosen as often.
    assert Counter(slot for chosen in rounds for slot in set(chosen)) == dict.fromkeys(range(50), 2)
    assert Counter(table.slots_for_new(5000, 64)) == dict.fromkeys(range(50), 100)
    # A few workers have a share, whatever its size; none where there is nothing for them.
    assert len(set(table.slots_for_new(32, 64))) == 16
    assert len(set(table.slots_for_new(5, 64))) == 5
    # One that takes no more is not waited for.
    table.assign([HERE] * NUM_SLOTS, range(NUM_SLOTS), for_new={"w:1": [1], "w:2": [2]})
    assert set(table.slots_for_new(500, 64)) == {1, 2}


def test_new_environments_one_by_one_begin_on_all_workers() -> None:
    table = SlotTable(HERE)
    table.assign(halves(), range(0, NUM_SLOTS, 2), for_new={HERE: [0], THERE: [1], "third:3": [2]})
    chosen = Counter(table.slots_for_new(1)[0] for _ in range(3000))
    assert set(chosen.values()) == {1000}
    assert len(chosen) == 3


class Proofs:
    """Proofs of nothing."""

    def __init__(self) -> None:
        self.is_away = False

    def token_of(self, slot: int) -> str | None:
        return None

    def follow(self, is_of_another: Callable[[int], bool], released: Collection[int]) -> None:
        """Do nothing."""


def test_no_new_environments_begin_in_slots_whose_log_is_away_however_that_changes() -> None:
    table, logs = SlotTable(HERE), [Proofs(), Proofs()]
    table.require_proofs(logs)
    first, second = ([slot for slot in range(40) if shard_of(slot, 2) == number] for number in range(2))
    for slots in ([first[0], second[0]], [first[1], second[1]], [first[2]]):
        table.assign(halves(), [], for_new={THERE: slots})
        for away in ([1], [0], [0, 1], [], [1]):
            for number, log in enumerate(logs):
                log.is_away = number in away
            left = {slot for slot in slots if shard_of(slot, 2) not in away}
            for _ in range(2):
                assert set(table.slots_for_new(50)) == left
    table.release([first[2]])
    assert table.slots_for_new(1) == []


def test_a_released_slot_is_neither_owned_nor_for_new_ones_until_the_next_picture() -> None:
    table = SlotTable(HERE)
    table.assign(halves(), [0, 2, 4], for_new={HERE: [0, 2], THERE: [4]})
    table.release([2, 3, 4])
    assert [slot for slot in range(6) if table.owns(slot)] == [0]
    assert table.for_new == {HERE: [0]}
    table.assign(halves(), [0, 2, 4], for_new={HERE: [0, 2, 4]})
    assert table.owns(2)
    assert table.for_new == {HERE: [0, 2, 4]}


def test_nothing_is_ones_own_after_the_lease_and_everything_again_when_it_is_renewed() -> None:
    clock = Clock()
    lease = LocalLease(Timing(5.0), clock)
    table = SlotTable(HERE, lease)
    table.assign(halves(), [0], for_new={HERE: [0], THERE: [1]})
    assert not table.owns(0)
    lease.renewed(lease.sending())
    assert table.owns(0)
    assert set(table.slots_for_new(10)) == {0, 1}
    clock.now += 4.1
    assert not table.owns(0)
    assert set(table.slots_for_new(10)) == {1}
    assert table.owner_of(0) is None
    lease.renewed(lease.sending())
    assert table.owns(0)


def test_inherited_slots_are_known_as_such() -> None:
    table = SlotTable(HERE)
    table.assign(halves(), [0, 1], inherited={1})
    assert [table.is_inherited(slot) for slot in (0, 1)] == [False, True]


async def test_whoever_waits_for_a_change_is_woken_by_it() -> None:
    table = SlotTable(HERE)
    waiting = [asyncio.create_task(table.wait_for_change(NEVER_S)) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    table.assign(halves(), [0])
    async with no_hang():
        await asyncio.gather(*waiting)


async def test_waiting_for_a_change_ends_in_time_without_one() -> None:
    async with no_hang():
        await SlotTable(HERE).wait_for_change(0.01)


def test_table_is_whole_when_every_slot_has_an_owner() -> None:
    table = SlotTable(HERE)
    assert table.is_whole
    table.assign(halves(), [0], generation="g", foreign=frozenset(range(1, NUM_SLOTS - 1)))
    assert not table.is_whole
    table.assign(halves(), [0], generation="g", foreign=frozenset(range(1, NUM_SLOTS)))
    assert table.is_whole
    table.release([0])
    assert not table.is_whole


async def test_call_that_is_given_up_leaves_nothing_behind() -> None:
    table = SlotTable(HERE)
    table.assign(halves(), [])
    before = asyncio.all_tasks()
    called = asyncio.Event()

    async def call() -> None:
        called.set()
        await asyncio.Event().wait()

    waiting = asyncio.create_task(table.while_at(THERE, [1], call()))
    await called.wait()
    waiting.cancel()
    await asyncio.wait([waiting])
    left = asyncio.all_tasks() - before
    if left:
        await asyncio.wait(left, timeout=HANG_S)
    assert asyncio.all_tasks() == before
