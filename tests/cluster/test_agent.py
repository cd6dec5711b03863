"""A worker's life in the cluster, on a clock that the tests turn: nothing is lost, and no two act for one slot."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from typing import Any, cast

import pytest

from tests.cluster.workers import worker
from tests.sim.virtual_loop import VirtualLoop
from tests.waiting import NEVER_S, no_hang
from verl_agent_env.cluster import agent
from verl_agent_env.cluster.agent import ClusterAgent
from verl_agent_env.cluster.leases import LocalLease
from verl_agent_env.cluster.memory.store import MemoryStore
from verl_agent_env.cluster.ring import Ring
from verl_agent_env.cluster.slots import SlotTable
from verl_agent_env.cluster.store import Formats, Store, WorkerRecord
from verl_agent_env.cluster.timing import Timing
from verl_agent_env.errors import StoreUnavailableError
from verl_agent_env.wire.suspicions import Suspicion

# Timers are due at once, and leases end by the tests' clock alone.
pytestmark = pytest.mark.virtual_time
LEASE_S = 0.08
LONGEST_PAUSE_S = 0.1
"""On the loop's clock, which runs free; leases end by the tests' own."""
TIMES = Timing(LEASE_S, settle_s=1.0, grace_s=5.0, arrive_s=15.0)
NUM_SLOTS = 512
"""Fewer than a server has: the store and the planner look at each of them after each change."""
ALL = frozenset(range(NUM_SLOTS))


class Clock:
    """Stands still but for a trifle: no two moments are the same."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        self.now += 1e-12
        return self.now


class CountedEnvironments:
    """Environments that are only counted."""

    def __init__(self) -> None:
        self.in_slot: Counter[int] = Counter()
        self.bound: Counter[int] = Counter()
        """Those of them that would be lost elsewhere."""
        self.evicted: list[int] = []
        self.forgotten: set[int] = set()
        """Slots of which nothing is remembered any more."""
        self.hand_overs = 0
        self.installed: dict[str, str] = {}
        """Kinds, and the formats of their states."""
        self.known: set[str] = set()
        """Those of them that were asked for."""
        self.made: defaultdict[int, set[str]] = defaultdict(set)
        """Kinds of the environments in each slot."""
        self.cold: set[int] = set()
        """Slots of which it is not known yet what is in them."""
        self.written_as = "1"
        """Format of their states."""
        self.left: dict[int, set[tuple[str, str]]] = {}
        """Slots with environments that cannot go on here, and what one has to read for them."""
        self.unwritten: set[int] = set()
        """Slots of which something is not written yet."""
        self.told: Mapping[str, Suspicion] = {}
        """Suspicions that they know of."""

    def count(self) -> int:
        return self.in_slot.total()

    def slots_in_use(self) -> Collection[int]:
        return [slot for slot, count in self.in_slot.items() if count]

    def count_not_durable(self, slot: int) -> int:
        return self.bound[slot]

    async def prepare_hand_over(self, slots: Collection[int]) -> Collection[int]:
        self.hand_overs += 1
        return [slot for slot in slots if slot not in self.unwritten]

    def reads(self) -> Mapping[str, str]:
        return {name: self.installed[name] for name in self.known}

    async def load_kinds(self, names: Collection[str]) -> None:
        self.known.update(self.installed.keys() & set(names))

    def unreadable_slots(self) -> frozenset[int]:
        return frozenset(self.left)

    def formats_in(self, slots: Collection[int]) -> Mapping[int, Formats]:
        return {
            slot: frozenset(
                {(name, self.written_as) for name in self.made[slot]}
                | self.left.get(slot, set())
                | (self.reads().items() if slot in self.cold else set())
            )
            for slot in slots
        }

    def bind(self, *slots: int) -> None:
        """Make environments that are nowhere else."""
        self.in_slot.update(slots)
        self.bound.update(slots)

    def evict(self, slots: Collection[int], *, keep_not_durable: bool = False) -> int:
        gone = [
            slot for slot in slots for _ in range(self.in_slot[slot] - keep_not_durable * self.bound[slot])
        ]
        self.in_slot.subtract(gone)
        self.forgotten.update(slots)
        if not keep_not_durable:
            for slot in slots:
                del self.bound[slot]
        self.evicted += gone
        return len(gone)

    def update_suspicions(self, told: Mapping[str, Suspicion]) -> None:
        self.told = told


class Wire:
    """One worker's way to the store, which can be cut, held up, or break."""

    def __init__(self, store: MemoryStore) -> None:
        self.is_cut = False
        self.held: set[str] = set()
        """Calls whose answers do not come; they are carried out all the same."""
        self.broken: list[str] = []
        """Calls that fail once each, in a way that nobody foresaw."""
        self.calls: Counter[str] = Counter()
        self.waiting: Counter[str] = Counter()
        self._store = store

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        call = getattr(self._store, name)

        async def through(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            if name in self.broken:
                self.broken.remove(name)
                raise RuntimeError("a defect of the store")
            if self.is_cut:
                await asyncio.sleep(0.001)
                raise StoreUnavailableError("", "cut")
            answer = await call(*args, **kwargs)
            self.waiting[name] += 1
            while name in self.held:  # noqa: ASYNC110 - a set has no event
                await asyncio.sleep(0.001)
            self.waiting[name] -= 1
            if self.is_cut:
                raise StoreUnavailableError("", "cut")
            return answer

        return through


class Node:
    """A member with all that belongs to it."""

    def __init__(self, rig: Rig, record: WorkerRecord, **awaited: Any) -> None:
        self.wire = Wire(rig.store)
        self.lease = LocalLease(TIMES, rig.clock)
        self.table = SlotTable(record.address, self.lease, NUM_SLOTS)
        self.environments = CountedEnvironments()
        self.address = record.address
        self.member = ClusterAgent(
            record,
            cast(Store, self.wire),
            self.table,
            self.lease,
            self.environments,
            timing=TIMES,
            clock=rig.clock,
            **awaited,
        )
        self.member.start()

    @property
    def owned(self) -> frozenset[int]:
        """Slots that it would act for."""
        return frozenset(slot for slot in range(NUM_SLOTS) if self.table.owns(slot))

    @property
    def open(self) -> frozenset[int]:
        """Slots in which new environments begin for it, as it knows."""
        return frozenset(self.table.for_new.get(self.address, ()))


class Rig:
    """A cluster in one process."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(clock=self.clock)
        self.nodes: list[Node] = []

    def join(self, record: WorkerRecord | None = None, **awaited: Any) -> Node:
        """Another worker."""
        self.nodes.append(Node(self, record or worker(), **awaited))
        return self.nodes[-1]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let everybody act until ``condition`` holds: the longer it takes, the longer between two looks."""
        pause_s = 0.002
        async with no_hang():
            while not condition():
                for node in self.nodes:
                    await node.member.refresh(0.05)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def beats(self, node: Node, number: int = 2) -> None:
        """Let so many heartbeats of a node begin and one of them end; looks take place meanwhile."""
        before = node.wire.calls["heartbeat"]
        await self.until(lambda: node.wire.calls["heartbeat"] >= before + number)

    async def pass_time(self, seconds: float) -> None:
        """Let time go by with everybody's heartbeats in it, so that no lease ends."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now = min(end, self.clock.now + LEASE_S / 4)
            for node in self.nodes:
                if node.lease.valid and not node.wire.is_cut:
                    await node.member._beat()

    async def pair(self) -> tuple[Node, Node]:
        """Two workers with their shares."""
        a = self.join()
        await self.until(lambda: a.owned == ALL)
        b = self.join()
        await self.until(lambda: a.member.cluster is not None and len(a.member.cluster.workers) == 2)
        await self.pass_time(TIMES.settle_s)
        await self.until(lambda: self.is_balanced(a, b))
        return a, b

    def is_balanced(self, *nodes: Node) -> bool:
        """Whether each owns exactly what the ring over them gives it."""
        return all(node.owned == share_of(node, *nodes) for node in nodes)


def share_of(node: Node, *nodes: Node) -> frozenset[int]:
    """Slots that the ring over ``nodes`` gives to ``node``."""
    owners = Ring([other.address for other in nodes]).assignments
    return frozenset(slot for slot in range(NUM_SLOTS) if owners[slot] == node.address)


def open_at(seen_by: Node, node: Node) -> frozenset[int]:
    """Slots in which new environments begin for ``node``, as another one knows."""
    return frozenset(seen_by.table.for_new.get(node.address, ()))


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    yield made
    for node in made.nodes:
        node.wire.held.clear()
        with contextlib.suppress(TimeoutError):
            async with no_hang():
                await node.member.leave()


# --- joining -----------------------------------------------------------------------------------------------


async def test_the_first_worker_takes_everything_and_opens_it(rig: Rig) -> None:
    node = rig.join()
    assert not node.member.has_joined
    assert not node.open
    await rig.until(lambda: node.owned == ALL)
    assert node.member.has_joined
    assert node.open == ALL


async def test_another_worker_gets_its_share_once_it_has_settled(rig: Rig) -> None:
    a = rig.join()
    await rig.until(lambda: a.owned == ALL)
    b = rig.join()
    await rig.until(lambda: a.member.cluster is not None and len(a.member.cluster.workers) == 2)
    await rig.pass_time(TIMES.settle_s * 0.9)
    await rig.beats(a)
    assert a.owned == ALL
    assert not b.owned
    # New environments are for both already: those of the newcomer are in slots on their way to it.
    assert (a.open, open_at(a, b)) == (share_of(a, a, b), share_of(b, a, b))
    await rig.pass_time(TIMES.settle_s * 0.2)
    await rig.until(lambda: rig.is_balanced(a, b))
    assert b.table.owner_of(min(a.owned)) == a.address
    assert a.table.owner_of(min(b.owned)) == b.address
    for node in (a, b):
        await rig.until(lambda node=node: open_at(node, a) | open_at(node, b) == ALL)  # type: ignore[misc]


async def test_slots_move_once_the_other_worker_knows_what_is_in_them(rig: Rig) -> None:
    a = rig.join()
    await rig.until(lambda: a.owned == ALL)
    a.environments.installed, a.environments.known = {"road": "1"}, {"road"}
    a.environments.made.update({slot: {"road"} for slot in range(NUM_SLOTS)})
    b = rig.join()
    b.environments.installed = {"road": "1", "sea": "1"}
    await rig.until(lambda: a.member.cluster is not None and len(a.member.cluster.workers) == 2)
    await rig.pass_time(TIMES.settle_s)
    await rig.until(lambda: rig.is_balanced(a, b))
    assert b.environments.known == {"road"}


@pytest.mark.parametrize("installed", [{}, {"road": "2"}], ids=["not installed", "another version"])
async def test_slots_with_what_the_other_worker_cannot_read_stay(rig: Rig, installed: dict[str, str]) -> None:
    a = rig.join()
    await rig.until(lambda: a.owned == ALL)
    a.environments.installed, a.environments.known = {"road": "1"}, {"road"}
    b_record = worker()
    owners = Ring([a.address, b_record.address]).assignments
    full = [slot for slot in range(NUM_SLOTS) if owners[slot] == b_record.address][:3]
    a.environments.made.update({slot: {"road"} for slot in full})
    b = rig.join(b_record)
    b.environments.installed = installed
    await rig.until(lambda: a.member.cluster is not None and len(a.member.cluster.workers) == 2)
    await rig.pass_time(TIMES.settle_s)
    await rig.until(lambda: b.owned == share_of(b, a, b) - set(full))
    await rig.beats(a)
    assert a.owned == share_of(a, a, b) | set(full)
    # They are gone: the slots may go as well.
    a.environments.made.clear()
    await rig.until(lambda: rig.is_balanced(a, b))


async def test_what_cannot_go_on_here_goes_where_it_can(rig: Rig) -> None:
    a, b = await rig.pair()
    for node, state_format in ((a, "1"), (b, "2")):
        node.environments.installed, node.environments.known = {"road": state_format}, {"road"}
    # As if a worker of the older version had died before the first one came.
    slot, other = sorted(b.owned)[:2]
    b.environments.left = {slot: {("road", "1")}, other: {("road", "1"), ("road", "2")}}
    a.environments.cold = {slot}
    await rig.until(lambda: slot in a.owned)
    b.environments.left.pop(slot)
    a.environments.made[slot], a.environments.cold = {"road"}, set()
    await rig.beats(a)
    await rig.beats(b)
    assert slot in a.owned
    assert other in b.owned


@pytest.mark.parametrize("has_reader", [True, False])
async def test_who_drains_gives_slots_to_those_who_can_read_them_and_keeps_none(
    rig: Rig, has_reader: bool
) -> None:
    a, b = await rig.pair()
    nodes = [a, b, *([rig.join()] if has_reader else [])]
    await rig.until(
        lambda: all(n.member.cluster and len(n.member.cluster.workers) == len(nodes) for n in nodes)
    )
    await rig.pass_time(TIMES.settle_s)
    await rig.until(lambda: rig.is_balanced(*nodes))
    for node, state_format in zip(nodes, "121", strict=False):
        node.environments.installed, node.environments.known = {"road": state_format}, {"road"}
    full = sorted(a.owned)[:3]
    reader = nodes[-1]
    for node in (a, reader):
        node.environments.made.update({slot: {"road"} for slot in full})
    for node in nodes:
        await rig.beats(node)
    await a.member.drain(timeout_s=NEVER_S)
    assert not a.owned
    await rig.until(lambda: reader.owned >= set(full))
    assert sum(len(node.owned) for node in nodes) == NUM_SLOTS


async def test_slots_with_environments_that_are_nowhere_else_stay_and_take_no_new_ones(rig: Rig) -> None:
    a = rig.join()
    await rig.until(lambda: a.owned == ALL)
    b_record = worker()
    owners = Ring([a.address, b_record.address]).assignments
    full = [slot for slot in range(NUM_SLOTS) if owners[slot] == b_record.address][:3]
    a.environments.bind(*full)
    b = rig.join(b_record)
    await rig.until(lambda: a.member.cluster is not None and len(a.member.cluster.workers) == 2)
    # Not handed over yet, but closed for new environments already.
    assert a.owned == ALL
    assert a.open == share_of(a, a, b)
    await rig.pass_time(TIMES.settle_s)
    await rig.until(lambda: b.owned == share_of(b, a, b) - set(full))
    await rig.beats(a)
    assert a.owned == share_of(a, a, b) | set(full)
    assert a.open == share_of(a, a, b)
    assert a.environments.evicted == []
    a.environments.bound.clear()
    # Still there, but no longer bound: the others bring them back, and here they are let go.
    await rig.until(lambda: rig.is_balanced(a, b))
    assert sorted(a.environments.evicted) == sorted(full)
    assert a.environments.hand_overs > 0


async def test_slots_are_handed_over_when_all_that_is_known_of_them_is_written(rig: Rig) -> None:
    a = rig.join()
    await rig.until(lambda: a.owned == ALL)
    b_record = worker()
    owners = Ring([a.address, b_record.address]).assignments
    held = [slot for slot in range(NUM_SLOTS) if owners[slot] == b_record.address][:3]
    a.environments.unwritten.update(held)
    b = rig.join(b_record)
    await rig.until(lambda: a.member.cluster is not None and len(a.member.cluster.workers) == 2)
    await rig.pass_time(TIMES.settle_s)
    await rig.until(lambda: b.owned == share_of(b, a, b) - set(held))
    await rig.until(lambda: a.owned == share_of(a, a, b) | set(held))
    a.environments.unwritten.clear()
    await rig.until(lambda: rig.is_balanced(a, b))


async def test_a_worker_that_does_not_get_its_slots_is_given_no_new_environments_in_the_end(rig: Rig) -> None:
    a = rig.join()
    await rig.until(lambda: a.owned == ALL)
    b_record = worker()
    owners = Ring([a.address, b_record.address]).assignments
    a.environments.bind(*(slot for slot in range(NUM_SLOTS) if owners[slot] == b_record.address))
    b = rig.join(b_record)
    # For a while they may be on their way. What is full stays full if new ones come all the time.
    await rig.until(lambda: open_at(a, b) == share_of(b, a, b))
    await rig.pass_time(TIMES.arrive_s)
    await rig.until(lambda: not open_at(a, b) and not open_at(b, b))
    assert open_at(a, a) == open_at(b, a) == share_of(a, a, b)


async def test_slots_without_environments_go_at_once_and_the_others_a_few_at_a_time(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "_HAND_OVER_AT_ONCE", 2)
    a, b_record = rig.join(), worker()
    await rig.until(lambda: a.owned == ALL)
    owners = Ring([a.address, b_record.address]).assignments
    wanted = [slot for slot in range(NUM_SLOTS) if owners[slot] == b_record.address]
    a.environments.in_slot.update(wanted[:5])
    b = rig.join(b_record)
    await rig.until(lambda: a.member.cluster is not None and len(a.member.cluster.workers) == 2)
    await rig.pass_time(TIMES.settle_s)
    await rig.until(lambda: rig.is_balanced(a, b))
    assert a.environments.hand_overs == 3


async def test_a_worker_alone_is_settled_when_nobody_else_came_for_a_moment(rig: Rig) -> None:
    node = rig.join()
    await rig.until(lambda: node.owned == ALL)
    assert not node.member.has_settled
    assert node.member.unready_reason == "it waits for the cluster to stay as it is for a moment"
    await rig.pass_time(TIMES.settle_s)
    await rig.until(lambda: node.member.has_settled)


async def test_nobody_is_settled_while_the_first_one_holds_what_is_meant_for_the_others(rig: Rig) -> None:
    a = rig.join()
    await rig.until(lambda: a.owned == ALL)
    b = rig.join()
    await rig.until(lambda: a.member.cluster is not None and len(a.member.cluster.workers) == 2)
    a.wire.broken += ["hand_off"] * 1000
    await rig.pass_time(TIMES.settle_s * 2)
    await rig.beats(b)
    assert not a.member.has_settled
    assert not b.member.has_settled
    assert b.member.unready_reason == "it waits for slots to be with their workers"
    a.wire.broken.clear()
    await rig.until(lambda: rig.is_balanced(a, b) and a.member.has_settled and b.member.has_settled)


@pytest.mark.parametrize(
    ("awaited", "reason"),
    [
        ({"expected_nodes": 2}, "it waits for nodes, of which 1 of 2 are there"),
        ({"pool": ["127.0.0.1:1"]}, "it waits for workers of its node, of which 1 of 1 are not there"),
    ],
)
async def test_whoever_is_awaited_and_does_not_come_is_waited_for_for_a_while(
    rig: Rig, awaited: dict[str, Any], reason: str
) -> None:
    node = rig.join(**awaited)
    await rig.until(lambda: node.owned == ALL)
    await rig.pass_time(TIMES.arrive_s * 0.9)
    await rig.beats(node)
    assert not node.member.has_settled
    assert node.member.unready_reason == reason
    await rig.pass_time(TIMES.arrive_s * 0.2)
    await rig.until(lambda: node.member.has_settled)
    assert node.member.unready_reason == ""
    await node.member.drain(0.0)
    assert node.member.unready_reason == "it is being drained"


async def test_a_worker_whose_heartbeats_fail_says_so_without_saying_where_the_store_is(rig: Rig) -> None:
    node = rig.join()
    node.wire.is_cut = True
    await rig.until(lambda: "heartbeats" in node.member.unready_reason)
    assert node.member.unready_reason == "its heartbeats fail (store_unavailable); its log says more"


async def test_settled_is_settled_whoever_comes_later(rig: Rig) -> None:
    a, _ = await rig.pair()
    await rig.pass_time(TIMES.settle_s)
    await rig.until(lambda: a.member.has_settled)
    rig.join()
    await rig.until(lambda: a.member.cluster is not None and len(a.member.cluster.workers) == 3)
    assert a.member.has_settled


async def test_a_taken_name_keeps_a_worker_out_until_it_is_free(rig: Rig) -> None:
    first = rig.join(worker(name="node-a:1"))
    await rig.until(lambda: first.owned == ALL)
    second = rig.join(worker(name="node-a:1", supervisor="another"))
    await rig.beats(second)
    assert not second.member.has_joined
    assert not second.owned
    assert first.owned == ALL
    await first.member.leave()
    await rig.until(lambda: second.owned == ALL)


# --- leaving -----------------------------------------------------------------------------------------------


async def test_whoever_leaves_frees_name_and_slots_at_once(rig: Rig) -> None:
    a, b = await rig.pair()
    await b.member.leave()
    assert not b.owned
    cluster = await rig.store.read_map()
    assert set(cluster.workers) == {a.member.record.incarnation}
    # Without a tick of the clock.
    await rig.until(lambda: a.owned == ALL)


async def test_leaving_ends_with_the_store_away(rig: Rig) -> None:
    node = rig.join()
    await rig.until(lambda: node.owned == ALL)
    node.wire.is_cut = True
    async with no_hang():
        await node.member.leave()
    assert not node.owned


async def test_draining_gives_away_all_that_is_empty_and_begins_nothing_new(rig: Rig) -> None:
    a, b = await rig.pair()
    kept = min(a.owned)
    a.environments.bind(kept)
    await a.member.drain()
    await rig.until(lambda: b.owned == ALL - {kept})
    assert a.owned == {kept}
    for node in (a, b):
        await rig.until(lambda node=node: node.table.for_new.keys() == {b.address})  # type: ignore[misc]


async def test_draining_ends_at_once_where_the_store_is_away(rig: Rig) -> None:
    a, _ = await rig.pair()
    a.wire.is_cut = True
    async with no_hang():
        await a.member.drain(timeout_s=NEVER_S)


async def test_after_draining_a_worker_can_be_taken_back(rig: Rig) -> None:
    a, b = await rig.pair()
    await a.member.drain()
    await rig.until(lambda: b.owned == ALL)
    await a.member.undrain()
    await rig.until(lambda: a.member.record.state == "ready" and b.member.cluster is not None)
    await rig.beats(b)
    await rig.pass_time(TIMES.settle_s)
    await rig.until(lambda: rig.is_balanced(a, b))


async def test_a_killed_worker_s_slots_are_taken_over_when_its_lease_is_over(rig: Rig) -> None:
    a, b = await rig.pair()
    for task in b.member._tasks:
        task.cancel()
    rig.nodes.remove(b)
    await rig.beats(a)
    assert rig.is_balanced(a, b)
    await rig.pass_time(LEASE_S * 1.1)
    await rig.until(lambda: a.owned == ALL)


# --- the lease ---------------------------------------------------------------------------------------------


async def test_with_the_store_away_slots_are_owned_until_the_lease_is_over_and_again_when_it_is_back(
    rig: Rig,
) -> None:
    node = rig.join()
    await rig.until(lambda: node.owned == ALL)
    node.environments.in_slot[7] = 1
    node.wire.is_cut = True
    await rig.beats(node)
    assert node.owned == ALL
    rig.clock.now += LEASE_S
    assert not node.owned
    assert node.table.slots_for_new(1) == []
    await rig.beats(node)
    assert not node.owned
    node.wire.is_cut = False
    await rig.until(lambda: node.owned == ALL)
    assert node.open == ALL
    assert node.environments.evicted == []


async def test_a_worker_that_was_away_acts_for_nothing_before_it_has_read_the_map(rig: Rig) -> None:
    a, b = await rig.pair()
    b.environments.in_slot[min(b.owned)] = 1
    b.wire.is_cut = True
    await rig.beats(b)
    rig.clock.now += LEASE_S * 0.7
    await a.member._beat()
    rig.clock.now += LEASE_S * 0.5
    await rig.until(lambda: a.owned == ALL)
    b.wire.held.add("read_map")
    b.wire.is_cut = False
    await rig.until(lambda: b.lease.valid and b.wire.waiting["read_map"] > 0)
    assert not b.owned
    assert not b.open
    b.wire.held.clear()
    await rig.until(lambda: b.environments.evicted != [])


async def test_a_map_that_was_read_before_the_lease_ended_is_not_believed_afterwards(rig: Rig) -> None:
    a, b = await rig.pair()
    b.wire.held.add("read_map")
    b.member._read_again()
    await rig.until(lambda: b.wire.waiting["read_map"] > 0)
    for task in b.member._tasks:
        # As if the process had been stopped: its heartbeats are late.
        assert not task.done()
    b.wire.held.add("heartbeat")
    await rig.until(lambda: b.wire.waiting["heartbeat"] > 0)
    rig.clock.now += LEASE_S * 0.7
    await a.member._beat()
    rig.clock.now += LEASE_S * 0.5
    await rig.until(lambda: a.owned == ALL)
    b.wire.held.remove("heartbeat")
    await rig.beats(b)
    assert b.lease.valid
    reads = b.wire.calls["read_map"]
    overlaps: list[frozenset[int]] = []
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.after_turn = lambda: overlaps.append(a.owned & b.owned)
    b.wire.held.clear()
    await rig.until(lambda: b.wire.calls["read_map"] > reads)
    assert overlaps
    assert not any(overlaps)


async def test_when_all_leases_ended_the_first_one_back_leaves_the_others_what_they_hold(rig: Rig) -> None:
    a, b = await rig.pair()
    held = min(b.owned)
    b.environments.in_slot[held] = 1
    for node in (a, b):
        node.wire.is_cut = True
    rig.clock.now += 10 * LEASE_S
    a.wire.is_cut = False
    await rig.until(lambda: a.owned == share_of(a, a, b))
    await rig.beats(a, 4)
    assert a.owned == share_of(a, a, b)
    assert a.table.owner_of(held) is None
    b.wire.is_cut = False
    await rig.until(lambda: rig.is_balanced(a, b))
    assert b.environments.evicted == []
    assert b.environments.in_slot[held] == 1


async def test_a_newcomer_leaves_to_the_silent_what_they_may_still_hold_for_a_while(rig: Rig) -> None:
    a = rig.join()
    await rig.until(lambda: a.owned == ALL)
    a.wire.is_cut = True
    await rig.beats(a)
    rig.clock.now += 10 * LEASE_S
    b = rig.join()
    await rig.until(lambda: b.member.has_joined)
    await rig.beats(b, 4)
    assert not b.owned
    await rig.pass_time(TIMES.grace_s)
    await rig.until(lambda: b.owned == ALL)


# --- taken for dead ----------------------------------------------------------------------------------------


async def test_taken_for_dead_a_worker_joins_again_under_another_incarnation(rig: Rig) -> None:
    node = rig.join()
    await rig.until(lambda: node.owned == ALL)
    node.environments.bind(7)
    node.environments.in_slot[8] = 1
    before = node.member.record.incarnation
    await rig.store.leave(before)
    await rig.until(lambda: node.owned == ALL and node.member.record.incarnation != before)
    cluster = await rig.store.read_map()
    assert set(cluster.workers) == {node.member.record.incarnation}
    # Another worker may have had the slots meanwhile: what is kept in the store is read from there again.
    assert node.environments.evicted == [8]
    assert node.environments.bound[7] == 1


async def test_taken_for_dead_a_worker_lets_go_of_what_others_have_taken(rig: Rig) -> None:
    a, b = await rig.pair()
    held = min(b.owned)
    b.environments.in_slot[held] = 1
    b.wire.held.add("heartbeat")
    await rig.until(lambda: b.wire.waiting["heartbeat"] > 0)
    await rig.store.leave(b.member.record.incarnation)
    await rig.until(lambda: a.owned == ALL)
    b.wire.held.add("read_map")
    b.wire.held.remove("heartbeat")
    before = b.member.record.incarnation
    await rig.until(lambda: b.member.record.incarnation != before and b.lease.valid)
    assert not b.owned
    b.wire.held.clear()
    await rig.until(lambda: b.environments.evicted == [held])


# --- an emptied store --------------------------------------------------------------------------------------


async def test_a_slot_that_went_and_came_back_is_read_from_the_store_again(rig: Rig) -> None:
    a, b = await rig.pair()
    held, bound = sorted(b.owned)[:2]
    b.environments.in_slot[held] = 1
    b.environments.bind(bound)
    cluster = await rig.store.read_map()
    tokens = {slot: cluster.owners[slot].token for slot in (held, bound)}
    # There and back before it looks.
    there = await rig.store.hand_off({a.member.record.incarnation: tokens})
    await rig.store.hand_off({b.member.record.incarnation: there})
    await rig.until(lambda: b.environments.evicted != [])
    assert b.environments.evicted == [held]
    assert b.environments.bound[bound] == 1
    assert b.environments.forgotten == {held, bound}
    assert rig.is_balanced(a, b)


async def test_what_is_remembered_of_an_empty_slot_is_forgotten_as_well_when_it_went_to_another_worker(
    rig: Rig,
) -> None:
    a, b = await rig.pair()
    share = share_of(b, a, b)
    assert b.environments.forgotten.isdisjoint(share)
    b.wire.is_cut = True
    await rig.beats(b)
    await rig.pass_time(LEASE_S * 1.1)
    await rig.until(lambda: a.owned == ALL)
    b.wire.is_cut = False
    await rig.until(lambda: share <= b.environments.forgotten)


async def test_after_the_store_was_emptied_everybody_takes_back_what_it_had(rig: Rig) -> None:
    a, b = await rig.pair()
    for node in (a, b):
        node.environments.in_slot[min(node.owned)] = 1
    rig.store.clear()
    generation = await rig.store.generation()
    await rig.until(
        lambda: rig.is_balanced(a, b)
        and all(n.member.cluster is not None and n.member.cluster.generation == generation for n in (a, b))
    )
    assert a.environments.evicted == b.environments.evicted == []


async def test_environments_whose_slots_were_given_away_while_the_store_was_empty_are_evicted(
    rig: Rig,
) -> None:
    a, b = await rig.pair()
    held = min(b.owned)
    b.environments.in_slot[held] = 1
    # It sees the empty store, but cannot claim: its slots are nobody's when it looks, and another one's later.
    b.wire.broken += ["claim"] * 100
    rig.store.clear()
    await rig.until(lambda: a.owned == share_of(a, a, b) and not b.owned)
    a.environments.bind(held)
    await rig.store.claim(a.member.record.incarnation, [held])
    b.wire.broken.clear()
    await rig.until(lambda: b.environments.evicted == [held])


# --- handing over ------------------------------------------------------------------------------------------


async def test_a_slot_is_released_before_the_other_worker_has_it(rig: Rig) -> None:
    a = rig.join()
    await rig.until(lambda: a.owned == ALL)
    b = rig.join()
    await rig.until(lambda: a.member.cluster is not None and len(a.member.cluster.workers) == 2)
    a.wire.held.add("hand_off")
    await rig.pass_time(TIMES.settle_s)
    await rig.until(lambda: a.wire.waiting["hand_off"] > 0 and bool(b.owned))
    assert not a.owned & b.owned
    a.wire.held.clear()
    await rig.until(lambda: rig.is_balanced(a, b))


@pytest.mark.parametrize("fault", ["cut", "broken"])
async def test_a_hand_over_that_failed_leaves_the_slots_with_their_owner(rig: Rig, fault: str) -> None:
    a = rig.join()
    await rig.until(lambda: a.owned == ALL)
    b = rig.join()
    await rig.until(lambda: a.member.cluster is not None and len(a.member.cluster.workers) == 2)
    if fault == "broken":
        a.wire.broken.append("hand_off")
    else:
        # The receiver ends just then.
        a.wire.held.add("read_map")
    await rig.pass_time(TIMES.settle_s)
    if fault == "cut":
        await b.member.leave()
        rig.nodes.remove(b)
        a.wire.held.clear()
        await rig.until(lambda: a.owned == ALL)
    else:
        await rig.until(lambda: not a.wire.broken)
        await rig.until(lambda: rig.is_balanced(a, b))


async def test_where_new_environments_begin_follows_a_plan_that_only_time_has_changed(rig: Rig) -> None:
    a = rig.join()
    await rig.until(lambda: a.owned == ALL)
    b = rig.join()
    await rig.until(lambda: a.member.cluster is not None and len(a.member.cluster.workers) == 2)
    # All that the other one should get is bound, so nothing else will make this one look at the map.
    a.environments.bind(*share_of(b, a, b))
    rig.store.clear()
    generation = await rig.store.generation()
    # Its own of old come first for a while, and are open again.
    await rig.until(lambda: a.open == ALL and a.table.generation == generation)
    await rig.pass_time(TIMES.grace_s)
    await rig.until(lambda: a.open == share_of(a, a, b))
    assert a.owned == ALL


# --- trouble -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["heartbeat", "read_map", "wait_for_change", "claim"])
async def test_a_defect_in_one_call_ends_neither_heartbeats_nor_looks(rig: Rig, call: str) -> None:
    node = rig.join()
    if call != "claim":
        await rig.until(lambda: node.owned == ALL)
    node.wire.broken.append(call)
    node.member._read_again()
    await rig.until(lambda: call not in node.wire.broken)
    await rig.until(lambda: node.owned == ALL)
    rig.join()
    await rig.until(lambda: node.member.cluster is not None and len(node.member.cluster.workers) == 2)
    beats = node.wire.calls["heartbeat"]
    await rig.until(lambda: node.wire.calls["heartbeat"] > beats + 1)


async def test_a_defect_in_the_first_heartbeat_does_not_keep_a_worker_out(rig: Rig) -> None:
    node = rig.join()
    node.wire.broken.append("heartbeat")
    await rig.until(lambda: node.owned == ALL)
    assert node.wire.broken == []


async def test_a_map_that_has_not_changed_is_not_read_again(rig: Rig) -> None:
    node = rig.join()
    await rig.until(lambda: node.owned == ALL)
    await rig.beats(node)
    reads = node.wire.calls["read_map"]
    for _ in range(20):
        await node.member.refresh()
    assert node.wire.calls["read_map"] == reads
    await rig.store.heartbeat(worker(), 10)
    await node.member.refresh()
    await node.member.refresh()
    assert node.wire.calls["read_map"] > reads


async def test_asking_for_a_look_ends_in_time_with_the_store_away(rig: Rig) -> None:
    node = rig.join()
    node.wire.is_cut = True
    async with no_hang():
        await node.member.refresh(0.05)


async def test_live_environments_are_told_with_the_heartbeats(rig: Rig) -> None:
    node = rig.join()
    await rig.until(lambda: node.owned == ALL)
    node.environments.in_slot.update([1, 1, 2])
    await rig.beats(node)
    (record,) = (await rig.store.read_map()).workers.values()
    assert record.live_envs == 3
