"""Plans of workers: disjoint, complete, patient where they should be, and in the end what the ring says."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cluster.workers import worker
from tests.depth import examples
from verl_agent_env.cluster import planner
from verl_agent_env.cluster.memory.store import MemoryStore
from verl_agent_env.cluster.planner import RebalancePlan, RebalancePlanner
from verl_agent_env.cluster.ring import Ring
from verl_agent_env.cluster.store import ClusterMap, Ownership, WorkerRecord
from verl_agent_env.cluster.timing import Timing
from verl_agent_env.types import NUM_SLOTS

A, B, C, D = (worker(name) for name in ("a", "b", "c", "d"))
TIMES = Timing(settle_s=1.0, grace_s=5.0)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def seen(
    *workers: WorkerRecord, owners: Mapping[int, str] | None = None, generation: str = "g1"
) -> ClusterMap:
    """A map of these workers; the token of a slot is ``t:<owner>``."""
    owned = {slot: Ownership(f"t:{owner}", owner) for slot, owner in (owners or {}).items()}
    return ClusterMap(generation, 1, owned, {record.incarnation: record for record in workers})


def member(incarnation: str, clock: Clock | None = None) -> RebalancePlanner:
    return RebalancePlanner(incarnation, TIMES, clock or Clock())


def slots_of(record: WorkerRecord, *workers: WorkerRecord) -> list[int]:
    """Slots that the ring over ``workers`` gives to ``record``."""
    ring = Ring([other.address for other in workers])
    return [slot for slot, address in enumerate(ring.assignments) if address == record.address]


def as_state(record: WorkerRecord, state: str) -> WorkerRecord:
    return dataclasses.replace(record, state=state)  # type: ignore[arg-type]


# --- claims ------------------------------------------------------------------------------------------------


def test_nothing_is_planned_before_the_first_map_or_without_a_lease() -> None:
    core = member("a")
    assert core.plan() == RebalancePlan()
    assert core.forward_to()[1] is None
    assert core.wait_s() is None
    core.observe(seen(B))
    assert core.plan() == RebalancePlan()


def test_workers_claim_all_free_slots_and_none_twice() -> None:
    claimed: list[int] = []
    for record in (A, B, C):
        core = member(record.incarnation)
        core.observe(seen(A, B, C))
        assert list(core.plan().claim) == slots_of(record, A, B, C)
        claimed += core.plan().claim
    assert sorted(claimed) == list(range(NUM_SLOTS))


def test_slots_of_the_dead_are_claimed_by_those_who_can_read_what_was_theirs() -> None:
    old, other_old, new, newer = (
        dataclasses.replace(record, reads={"road": state_format, **more})
        for record, state_format, more in ((A, "1", {}), (B, "1", {"sea": "1"}), (C, "2", {}), (D, "2", {}))
    )
    owners = dict.fromkeys(range(NUM_SLOTS), "a")
    claims = {}
    for record in (other_old, new, newer):
        core = member(record.incarnation)
        core.observe(seen(old, other_old, new, newer, owners=owners))
        core.observe(seen(other_old, new, newer, owners=owners))
        claims[record.incarnation] = core.plan().claim
        assert core.forward_to()[7] == other_old.address
    assert claims == {"b": tuple(range(NUM_SLOTS)), "c": (), "d": ()}


def test_slots_of_the_dead_go_by_the_ring_where_nobody_or_everybody_can_read_what_was_theirs() -> None:
    old, also_old, new, newer = (
        dataclasses.replace(record, reads={"road": state_format})
        for record, state_format in ((A, "1"), (B, "1"), (C, "2"), (D, "2"))
    )
    owners = dict.fromkeys(range(NUM_SLOTS), "a")
    core = member("d")
    core.observe(seen(old, new, newer, owners=owners))
    core.observe(seen(new, newer, owners=owners))
    assert list(core.plan().claim) == slots_of(newer, new, newer)
    core = member("b")
    core.observe(seen(old, also_old, owners=owners))
    core.observe(seen(also_old, owners=owners))
    assert len(core.plan().claim) == NUM_SLOTS
    # Nobody has precedence who would hold up anything.
    assert core.wait_s() == TIMES.settle_s


@pytest.mark.parametrize("how", ["never saw the owner", "died as well"])
def test_slots_of_the_dead_are_not_left_to_a_reader_that_does_not_claim_them(how: str) -> None:
    old, reader, new = (
        dataclasses.replace(record, reads={"road": state_format})
        for record, state_format in ((A, "1"), (B, "1"), (C, "2"))
    )
    owners = dict.fromkeys(range(NUM_SLOTS), "a")
    clock = Clock()
    core, late = member("c", clock), member("b", clock)
    core.observe(seen(old, new, owners=owners))
    after = seen(reader, new, owners=owners)
    core.observe(after)
    late.observe(after)
    assert core.plan().claim == ()
    if how == "died as well":
        # The slots had come to it.
        core.observe(seen(reader, new, owners=dict.fromkeys(range(NUM_SLOTS), "b")))
        core.observe(seen(new, owners=dict.fromkeys(range(NUM_SLOTS), "b")))
        assert len(core.plan().claim) == NUM_SLOTS
        return
    wait_s = core.wait_s()
    assert wait_s is not None
    clock.now += TIMES.grace_s
    assert sorted(core.plan().claim + late.plan().claim) == list(range(NUM_SLOTS))


def test_who_does_not_say_what_it_can_read_can_read_everything() -> None:
    old, new = dataclasses.replace(A, reads={"road": "1"}), dataclasses.replace(C, reads={"road": "2"})
    owners = dict.fromkeys(range(NUM_SLOTS), "a")
    core = member("b")
    core.observe(seen(old, B, new, owners=owners))
    core.observe(seen(B, new, owners=owners))
    assert len(core.plan().claim) == NUM_SLOTS
    core = member("b")
    core.observe(seen(B, new, owners=dict.fromkeys(range(NUM_SLOTS), "unknown")))
    assert list(core.plan().claim) == slots_of(B, B, new)


def test_reader_is_found_among_those_who_are_ready() -> None:
    old, new = dataclasses.replace(A, reads={"road": "1"}), dataclasses.replace(B, reads={"road": "2"})
    core = member("b")
    assert core.reader_of(7, frozenset({("road", "1")})) is None
    core.observe(seen(old, new))
    assert core.reader_of(7, frozenset({("road", "1")})) == "a"
    assert core.reader_of(7, frozenset({("road", "1"), ("sea", "1")})) is None
    core.observe(seen(as_state(old, "draining"), new))
    assert core.reader_of(7, frozenset({("road", "1")})) is None


def test_plan_is_made_once_for_a_map_until_time_changes_it() -> None:
    clock = Clock()
    core = member("a", clock)
    core.observe(seen(A, B, owners=dict.fromkeys(range(NUM_SLOTS), "a")))
    early = core.plan()
    assert core.plan() is early
    assert not early.hand_off
    clock.now += TIMES.settle_s
    late = core.plan()
    assert core.plan() is late
    assert list(late.hand_off["b"]) == slots_of(B, A, B)


def test_slots_of_the_living_are_not_claimed_those_of_the_dead_are() -> None:
    core = member("a")
    core.observe(seen(A, owners={1: "a", 2: "dead", 3: "dead"}))
    assert core.plan().claim == tuple(slot for slot in range(NUM_SLOTS) if slot != 1)
    core.observe(seen(A, as_state(B, "draining"), owners={2: "b", 3: "dead"}))
    assert core.plan().claim == tuple(slot for slot in range(NUM_SLOTS) if slot != 2)


@pytest.mark.parametrize("state", ["starting", "draining"])
def test_only_the_ready_claim_and_are_claimed_for(state: str) -> None:
    core = member("a")
    core.observe(seen(as_state(A, state), B))
    assert core.plan().claim == ()
    other = member("b")
    other.observe(seen(as_state(A, state), B))
    assert other.plan().claim == tuple(range(NUM_SLOTS))


def test_of_two_under_one_address_the_younger_counts() -> None:
    older, younger = worker("old", address="x:1"), worker("new", address="x:1")
    for records in ((older, younger), (younger, older)):
        core = member("new")
        core.observe(seen(*records))
        assert len(core.plan().claim) == NUM_SLOTS


# --- hand-offs ---------------------------------------------------------------------------------------------


def test_newcomer_gets_its_slots_once_it_has_settled() -> None:
    clock = Clock()
    core = member("a", clock)
    mine = dict.fromkeys(range(NUM_SLOTS), "a")
    core.observe(seen(A, owners=mine))
    clock.now += 10
    core.observe(seen(A, B, owners=mine))
    assert core.plan() == RebalancePlan()
    assert core.wait_s() == pytest.approx(TIMES.settle_s)
    clock.now += TIMES.settle_s
    assert core.plan().hand_off == {"b": dict.fromkeys(slots_of(B, A, B), "t:a")}
    assert core.wait_s() is None


def test_slots_wait_until_nobody_else_has_come_for_a_while() -> None:
    """So each of them moves once, to its owner on the ring over all."""
    clock = Clock()
    core = member("a", clock)
    mine = dict.fromkeys(range(NUM_SLOTS), "a")
    core.observe(seen(A, owners=mine))
    clock.now += 10
    core.observe(seen(A, B, owners=mine))
    clock.now += 0.9 * TIMES.settle_s
    core.observe(seen(A, B, C, owners=mine))
    clock.now += 0.9 * TIMES.settle_s
    assert core.plan().hand_off == {}
    clock.now += 0.1 * TIMES.settle_s
    assert core.plan().hand_off == {
        "b": dict.fromkeys(slots_of(B, A, B, C), "t:a"),
        "c": dict.fromkeys(slots_of(C, A, B, C), "t:a"),
    }
    assert core.wait_s() is None


def test_workers_that_keep_coming_hold_nobody_up_for_long() -> None:
    clock = Clock()
    core = member("a", clock)
    mine = dict.fromkeys(range(NUM_SLOTS), "a")
    core.observe(seen(A, owners=mine))
    clock.now += 10
    came = clock.now
    others = [B]
    core.observe(seen(A, *others, owners=mine))
    while not core.plan().hand_off:
        assert clock.now < came + TIMES.gather_s
        clock.now += min(core.wait_s() or 0.0, 0.5 * TIMES.settle_s)
        if clock.now < came + TIMES.gather_s:
            others.append(worker())
            core.observe(seen(A, *others, owners=mine))
    assert clock.now == came + TIMES.gather_s
    # Who has just come may crash again at once.
    assert core.plan().hand_off.keys() == {"b"}


def test_newcomer_that_crashed_in_between_settles_anew() -> None:
    clock = Clock()
    core = member("a", clock)
    mine = dict.fromkeys(range(NUM_SLOTS), "a")
    core.observe(seen(A, B, owners=mine))
    clock.now += 0.9
    core.observe(seen(A, owners=mine))
    core.observe(seen(A, B, owners=mine))
    clock.now += 0.9
    assert core.plan().hand_off == {}


def test_draining_worker_gives_everything_away_at_once() -> None:
    core = member("a")
    core.observe(seen(as_state(A, "draining"), B, C, owners=dict.fromkeys(range(NUM_SLOTS), "a")))
    assert core.plan().hand_off == {
        "b": dict.fromkeys(slots_of(B, B, C), "t:a"),
        "c": dict.fromkeys(slots_of(C, B, C), "t:a"),
    }


def test_last_worker_keeps_its_slots_while_it_drains() -> None:
    core = member("a")
    core.observe(seen(as_state(A, "draining"), owners={1: "a"}))
    assert core.plan() == RebalancePlan()
    assert core.forward_to()[1] == A.address


# --- forwarding --------------------------------------------------------------------------------------------


def test_requests_go_to_the_live_owner_else_to_whom_the_ring_proposes() -> None:
    core = member("a")
    mine, others = slots_of(A, A, B)[0], slots_of(B, A, B)[0]
    core.observe(seen(A, B, owners={mine: "b", others: "dead"}))
    assert core.forward_to()[mine] == B.address
    assert core.forward_to()[others] == B.address
    core.observe(seen(A, B))
    assert core.forward_to()[mine] == A.address
    core.observe(seen(as_state(A, "starting")))
    assert core.forward_to()[mine] is None


# --- an emptied store --------------------------------------------------------------------------------------


def test_owners_of_old_come_first_after_the_store_was_emptied() -> None:
    clock = Clock()
    a, b = member("a", clock), member("b", clock)
    everything = dict.fromkeys(range(NUM_SLOTS), "a")
    for core in (a, b):
        core.observe(seen(A, B, owners=everything))
        core.observe(seen(A, B, generation="g2"))
    assert a.plan().claim == tuple(range(NUM_SLOTS))
    assert b.plan().claim == ()
    assert b.forward_to()[slots_of(B, A, B)[0]] == A.address
    assert b.wait_s() == pytest.approx(TIMES.settle_s)
    clock.now += TIMES.settle_s
    assert b.wait_s() == pytest.approx(TIMES.grace_s - TIMES.settle_s)
    clock.now += TIMES.grace_s
    assert list(b.plan().claim) == slots_of(B, A, B)
    b.observe(seen(A, B, generation="g2"))
    assert b.wait_s() is None


@pytest.mark.parametrize("state", ["ready", "draining"])
def test_slots_are_handed_to_the_ring_s_worker_and_not_to_who_takes_precedence(state: str) -> None:
    """Each of two workers may take the other one for the owner of old."""
    clock = Clock()
    core, me = member("b", clock), as_state(B, state)
    own, others = slots_of(B, B, C)[0], slots_of(C, B, C)[0]
    core.observe(seen(B, C, owners={own: "c", others: "c"}))
    clock.now += TIMES.settle_s
    core.observe(seen(me, C, owners={own: "b", others: "b"}, generation="g2"))
    if state == "draining":
        assert core.plan().hand_off == {"c": {own: "t:b", others: "t:b"}}
        return
    assert core.plan().hand_off == {}
    clock.now += TIMES.grace_s
    assert core.plan().hand_off == {"c": {others: "t:b"}}


def test_who_was_away_when_the_store_was_emptied_lets_the_others_claim_first() -> None:
    clock = Clock()
    away, there = member("a", clock), member("b", clock)
    for core, owner in ((away, "a"), (there, "b")):
        core.observe(seen(A, B, owners={1: owner}))
    away.lease_was_over()
    for core in (away, there):
        core.observe(seen(A, B, generation="g2"))
    assert away.plan().claim == ()
    assert 1 in there.plan().claim
    wait_s = away.wait_s()
    assert wait_s is not None
    clock.now += max(wait_s, TIMES.grace_s / 2)
    # Nobody has claimed it: what is here of it is the best that is left.
    assert 1 in away.plan().claim


def test_slots_of_those_long_dead_need_no_grace() -> None:
    core = member("a")
    core.observe(seen(A, owners={1: "dead"}))
    core.observe(seen(A, generation="g2"))
    assert 1 in core.plan().claim


def test_slots_of_an_owner_that_did_not_come_back_wait_for_the_grace() -> None:
    clock = Clock()
    core = member("a", clock)
    core.observe(seen(A, B, owners={1: "b"}))
    core.observe(seen(A, generation="g2"))
    assert 1 not in core.plan().claim
    assert core.forward_to()[1] is None
    clock.now += TIMES.grace_s
    assert 1 in core.plan().claim


# --- all together ------------------------------------------------------------------------------------------


class Cluster:
    """Workers that follow their plans over one memory store, with one clock for all."""

    TTL_S = 5.0

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(clock=self.clock)
        self.alive: dict[str, tuple[WorkerRecord, RebalancePlanner]] = {}

    def join(self) -> None:
        record = worker()
        self.alive[record.incarnation] = (record, RebalancePlanner(record.incarnation, TIMES, self.clock))

    def kill(self, incarnation: str) -> None:
        """It stops without a word."""
        del self.alive[incarnation]

    def drain(self, incarnation: str) -> None:
        record, core = self.alive[incarnation]
        self.alive[incarnation] = (as_state(record, "draining"), core)

    async def act(self, incarnation: str) -> bool:
        """One turn of a worker: a heartbeat, a look, and what it plans; whether it did anything."""
        record, core = self.alive[incarnation]
        await self.store.heartbeat(record, self.TTL_S)
        core.observe(await self.store.read_map())
        plan = core.plan()
        if plan.claim:
            await self.store.claim(incarnation, plan.claim)
        for target, tokens in plan.hand_off.items():
            # The receiver may have died since the map was read.
            if target in (await self.store.read_map()).workers:
                await self.store.hand_off({target: tokens})
        return plan != RebalancePlan()

    async def settle(self) -> None:
        """Let everything time out and everybody act until nobody wants to."""
        for _ in range(12):
            self.clock.now += 1.25
            busy = [await self.act(incarnation) for incarnation in list(self.alive)]
        assert not any(busy)


steps = st.lists(
    st.tuples(st.sampled_from(["join", "kill", "drain", "act", "act", "tick", "empty"]), st.integers(0, 7)),
    max_size=12,
)


@settings(max_examples=examples(8, at_most=1000))
@given(steps)
def test_any_history_ends_with_every_slot_where_the_ring_has_it(history: list[tuple[str, int]]) -> None:
    async def play() -> None:
        cluster = Cluster()
        cluster.join()
        for action, number in history:
            names = sorted(cluster.alive, key=lambda name: cluster.alive[name][0].started_at)
            chosen = names[number % len(names)] if names else ""
            if action == "join" and len(names) < 6:
                cluster.join()
            elif action == "tick":
                cluster.clock.now += number / 4
            elif action == "empty":
                cluster.store.clear()
            elif action in ("kill", "drain") and len(names) > 1:
                getattr(cluster, action)(chosen)
            elif action == "act":
                await cluster.act(chosen)
        await cluster.settle()
        ready = [record for record, _ in cluster.alive.values() if record.state == "ready"]
        final = await cluster.store.read_map()
        if ready:
            wanted = Ring([record.address for record in ready]).assignments
            held = [final.owner_of(slot) for slot in range(NUM_SLOTS)]
            assert [owner and owner.address for owner in held] == list(wanted)

    asyncio.run(play())


def test_workers_that_restart_again_and_again_are_forgotten() -> None:
    clock = Clock()
    core = member("a", clock)
    for number in range(1000):
        restarted = worker(f"b-{number}")
        core.observe(seen(A, restarted, owners={0: "a", 1: restarted.incarnation}))
        core.plan()
    assert len(core._names) < 300
    fresh = member("a", clock)
    fresh.observe(seen(A, C, owners={0: "a", 1: "c", 2: "gone"}))
    core.observe(seen(A, C, owners={0: "a", 1: "c", 2: "gone"}))
    clock.now += 2 * TIMES.grace_s
    assert core.plan() == fresh.plan()
    assert core.forward_to() == fresh.forward_to()


@pytest.mark.parametrize("few", [0, 256])
@pytest.mark.parametrize("seed", range(6))
async def test_plans_over_what_has_changed_are_those_over_whole_maps(
    seed: int, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With none to spare, incarnations are numbered anew all the time.
    monkeypatch.setattr(planner, "_FEW_NAMES", few)
    chance, clock = random.Random(seed), Clock()
    store = MemoryStore(clock=clock)
    by_changes, by_wholes = member("a", clock), member("a", clock)
    others = [worker(f"w{number}") for number in range(8)]
    for record in [A, *others[:3]]:
        await store.heartbeat(record, 1000.0)
    for _ in range(80):
        clock.now += chance.choice([0.0, 0.1, 1.0, 4.0])
        cluster = await store.read_map(by_changes.cluster)
        by_changes.observe(cluster)
        by_wholes.observe(await store.read_map())
        plan = by_changes.plan()
        assert plan == by_wholes.plan()
        assert by_changes.placement() == by_wholes.placement()
        ready = {o.address for o in cluster.workers.values() if o.state == "ready"}
        ring = Ring(sorted(ready)).assignments if ready else ()
        at_home: dict[str, list[int]] = {}
        for slot, address in enumerate(ring):
            if (owner := cluster.owner_of(slot)) is not None and owner.address == address:
                at_home.setdefault(address, []).append(slot)
        given = by_changes.placement().slots
        assert at_home == {address: given[address] for address in at_home}
        assert by_changes.forward_to() == by_wholes.forward_to()
        assert by_changes.tokens() == by_wholes.tokens() == cluster.tokens_of("a")
        held = by_changes.foreign()
        foreign = {slot for slot in range(NUM_SLOTS) if slot in held}
        assert foreign == {s for s in cluster.owners if (o := cluster.owner_of(s)) is not None and o != A}
        happening, record = chance.randrange(6), chance.choice(others)
        if happening == 0:
            await store.heartbeat(as_state(record, chance.choice(["ready", "draining"])), 1000.0)
        elif happening == 1:
            store._end(record.incarnation)
            store._ended.clear()
        elif happening == 2 and record.incarnation in cluster.workers:
            await store.claim(record.incarnation, chance.sample(range(NUM_SLOTS), 300))
        elif happening == 3:
            await store.claim("a", plan.claim[:500])
        elif happening == 4:
            for target, tokens in plan.hand_off.items():
                await store.hand_off({target: dict(chance.sample(sorted(tokens.items()), len(tokens) // 2))})
