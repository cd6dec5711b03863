"""The rebalance planner: which slots a worker claims and hands over, decided from the cluster's map alone.

There is no I/O: maps go in, plans come out, the clock is an argument. Every worker plans over the same map, and the ring
over the ready workers assigns each slot to exactly one of them, so no two workers claim the same slot. While their maps
differ the store decides, and the loser reads the map again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from verl_agent_env.cluster.leases import boot_time
from verl_agent_env.cluster.ring import ring_over
from verl_agent_env.cluster.store import ClusterMap, Formats, WorkerRecord
from verl_agent_env.cluster.timing import Timing
from verl_agent_env.types import NUM_SLOTS

SlotArray: TypeAlias = npt.NDArray[np.int32]
"""A number for each slot."""


_FEW_NAMES = 256


@dataclass(frozen=True)
class RebalancePlan:
    """Changes of ownership to ask the store for now."""

    claim: tuple[int, ...] = ()
    """Slots without a live owner that this worker should claim, in ascending order."""
    hand_off: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    """Slots that this worker should hand over, with their present tokens, by the receiver's incarnation."""


@dataclass(frozen=True)
class Placement:
    """Slots for new environments, as far as the map tells."""

    slots: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Slots that the ring assigns to each worker that accepts new environments, by its address."""
    is_balanced: bool = False
    """True if the ring's worker owns every slot."""


class SlotSet:
    """A set of slots, as a mask."""

    def __init__(self, mask: npt.NDArray[np.bool_]) -> None:
        self._mask = mask

    def __contains__(self, slot: object) -> bool:
        return isinstance(slot, int) and bool(self._mask[slot])


class _SettledSlots:
    """Slots that are with the worker that they are meant for, by worker; after a change only what has changed is grouped anew."""

    _FEW = 32

    def __init__(self) -> None:
        self._targets: SlotArray | None = None
        self._mask: npt.NDArray[np.bool_] | None = None
        self._found: dict[str, list[int]] = {}

    def update(
        self, targets: SlotArray, mask: npt.NDArray[np.bool_], names: Sequence[str]
    ) -> Mapping[str, Sequence[int]]:
        """Return the slots of the mask, by the names of their targets."""
        changed: set[int] | None = None
        if self._mask is not None and self._targets is targets:
            changed = set(targets[np.flatnonzero(mask != self._mask)].tolist())
        if changed is None or len(changed) > self._FEW:
            self._found = _by_target(targets, mask, names)
        elif changed:
            again = {names[number]: np.flatnonzero(mask & (targets == number)).tolist() for number in changed}
            self._found = {name: found for name, found in {**self._found, **again}.items() if found}
        self._targets, self._mask = targets, mask
        return self._found


def _by_target(targets: SlotArray, mask: npt.NDArray[np.bool_], names: Sequence[str]) -> dict[str, list[int]]:
    """Group the slots of a mask by the names of their targets."""
    slots = np.flatnonzero(mask)
    order = slots[np.argsort(targets[slots], kind="stable")]
    numbers, starts = np.unique(targets[order], return_index=True)
    found, bounds = order.tolist(), [*starts.tolist(), len(order)]
    return {
        names[number]: found[bounds[place] : bounds[place + 1]]
        for place, number in enumerate(numbers.tolist())
    }


class _Preference(NamedTuple):
    """An incarnation that takes precedence over the ring's worker in a slot until a time."""

    incarnation: str
    until: float


class RebalancePlanner:
    """Decides for the worker ``incarnation``."""

    def __init__(
        self,
        incarnation: str,
        timing: Timing | None = None,
        clock: Callable[[], float] = boot_time,
        num_slots: int = NUM_SLOTS,
    ) -> None:
        self.incarnation = incarnation
        self._num_slots = num_slots
        self._timing = timing or Timing()
        self._clock = clock
        self._map: ClusterMap | None = None
        self._numbers: dict[str, int] = {}
        """Number of each incarnation that was seen, in which the arrays name it; -1 stands for none."""
        self._names: list[str] = []
        """The incarnations by number."""
        self._owners = self._nobody()
        """The owner of each slot in the map, alive or dead."""
        self._live = self._nobody()
        """The same without the dead."""
        self._proposals = self._nobody()
        """The worker that the ring assigns each slot to."""
        self._listeners: dict[str, str] = {}
        self._ready_since: dict[str, float] = {}
        self._takes: dict[str, float] = {}
        """Time from which each of them is handed slots."""
        self._last_came = 0.0
        self._joined_at: float | None = None
        self._unchanged_since = 0.0
        """Time at which the ring changed last."""
        self._plan = RebalancePlan()
        self._planned_from: tuple[object, ...] | None = None
        """Input of the last plan."""
        self._placement = Placement()
        self._settled = _SettledSlots()
        self._placed_in: tuple[object, ...] | None = None
        """Input of the last placement."""
        self._preferred: dict[int, _Preference] = {}
        self._readers: dict[Formats, SlotArray] = {}
        self._was_away = False
        self._claims_from = self._emptied_at = float("-inf")
        """Time from which the worker may claim slots, if the store was emptied while its lease was over."""

    @property
    def cluster(self) -> ClusterMap | None:
        """The map that was observed last."""
        return self._map

    def lease_was_over(self) -> None:
        """Note that the worker's lease had expired, or that it has none yet.

        After an outage of the store that is longer than a lease all leases are over. The worker that returns first must
        not take slots whose owners still hold the environments and have only not returned yet.
        """
        self._was_away = True

    def observe(self, cluster: ClusterMap) -> None:
        """Update the state with a map that was just read."""
        now, last, was_live = self._clock(), self._map, self._live
        has_same_workers = last is not None and cluster.workers is last.workers
        self._read_owners(cluster)
        if not has_same_workers:
            ready = {
                incarnation for incarnation, worker in cluster.workers.items() if worker.state == "ready"
            }
            self._ready_since = {
                incarnation: self._ready_since.get(incarnation, now) for incarnation in ready
            }
            self._takes = self._takes_from(self._ready_since)
            self._last_came = max(self._ready_since.values(), default=now)
            listeners = _listeners(cluster)
            if last is None or listeners != self._listeners:
                self._listeners, self._proposals = listeners, self._proposed(listeners)
                self._unchanged_since = now
            self._readers = {}
        self._preferred = {slot: who for slot, who in self._preferred.items() if now < who.until}
        if last is not None and not has_same_workers and last.workers.keys() - cluster.workers.keys():
            lost = np.flatnonzero((was_live >= 0) & (self._live < 0)).tolist()
            self._prefer(self._successors({slot: last.owner_of(slot) for slot in lost}, cluster), now)
        if last is not None and last.generation != cluster.generation:
            # Emptied twice in a row: preferences of the second loss override those of the first.
            self._prefer(self._named(was_live, np.flatnonzero(was_live >= 0)), now)
            self._emptied_at = now
        if self._was_away:
            self._was_away = False
            # If the store was emptied just now, noticed before or after the lease was over: others may have owned its slots
            # meanwhile and hold the later steps. They claim first.
            self._claims_from = self._emptied_at + self._timing.grace_s / 2
            dead = np.flatnonzero((self._owners >= 0) & (self._live < 0))
            self._prefer(self._named(self._owners, dead), now)
        if self._joined_at is None and self.incarnation in cluster.workers:
            self._joined_at = now
        self._map = cluster
        if len(self._names) > 2 * len(cluster.workers) + _FEW_NAMES:
            self._forget_gone()

    def _forget_gone(self) -> None:
        """Number the incarnations anew, without those that are named nowhere any more: each one of a worker that restarts is another."""
        arrays = [self._owners, self._live, self._proposals, *self._readers.values()]
        used = np.unique(np.concatenate(arrays))
        used = used[used >= 0]
        numbers = np.full(len(self._names) + 1, -1, dtype=np.int32)
        numbers[used] = np.arange(len(used), dtype=np.int32)
        self._owners, self._live, self._proposals, *readers = (numbers[array] for array in arrays)
        self._readers = dict(zip(self._readers, readers, strict=True))
        self._names = [self._names[number] for number in used.tolist()]
        self._numbers = {name: number for number, name in enumerate(self._names)}
        self._settled = _SettledSlots()

    def _read_owners(self, cluster: ClusterMap) -> None:
        """Read who owns each slot in a map; of one that was made of the last one only what has changed."""
        last = self._map
        is_next = last is not None and cluster.since == last.version
        slots = cluster.changed if is_next else cluster.owners.keys()
        owners = self._owners.copy() if is_next else self._nobody()
        for slot in slots:
            owner = cluster.owners.get(slot)
            owners[slot] = -1 if owner is None else self._number_of(owner.incarnation)
        is_live = np.array([name in cluster.workers for name in self._names] + [False])
        self._owners, self._live = owners, np.where(is_live[owners], owners, -1).astype(np.int32)

    def _nobody(self) -> SlotArray:
        return np.full(self._num_slots, -1, dtype=np.int32)

    def _number_of(self, incarnation: str) -> int:
        number = self._numbers.setdefault(incarnation, len(self._names))
        if number == len(self._names):
            self._names.append(incarnation)
        return number

    def _named(self, owners: SlotArray, slots: npt.NDArray[np.int64]) -> dict[int, str]:
        return {slot: self._names[owners[slot]] for slot in slots.tolist()}

    def _prefer(self, incarnations: Mapping[int, str], now: float) -> None:
        """Give incarnations precedence in their slots for a while; slots that they do not claim go to the ring's workers."""
        until = now + self._timing.grace_s
        self._preferred |= {slot: _Preference(who, until) for slot, who in incarnations.items()}

    def _successors(self, lost: Mapping[int, WorkerRecord | None], cluster: ClusterMap) -> dict[int, str]:
        """Choose a claimant for each slot whose owner has gone, if not every worker reads the formats of that owner."""
        successors = {}
        for slot, gone in lost.items():
            if gone is None or gone.reads is None:
                continue
            successor = self._reader_in(cluster, slot, frozenset(gone.reads.items()))
            self._preferred.pop(slot, None)
            if successor is not None and self._number_of(successor) != self._proposals[slot]:
                successors[slot] = successor
        return successors

    def reader_of(self, slot: int, formats: Formats) -> str | None:
        """Return the ring's choice for ``slot`` among the ready workers that read these formats, if there are any."""
        return None if self._map is None else self._reader_in(self._map, slot, formats)

    def _reader_in(self, cluster: ClusterMap, slot: int, formats: Formats) -> str | None:
        if formats not in self._readers:
            self._readers[formats] = self._proposed(_listeners(cluster, formats))
        reader = self._readers[formats][slot]
        return None if reader < 0 else self._names[reader]

    def plan(self) -> RebalancePlan:
        """Return the changes to ask for now; under an unchanged map, ask again after :meth:`wait_s`."""
        me = None if self._map is None else self._map.workers.get(self.incarnation)
        if self._map is None or me is None:
            return RebalancePlan()
        now = self._clock()
        settled = {worker for worker, at in self._takes.items() if at <= now}
        may_claim = me.state == "ready" and now >= self._claims_from
        # Every call that finds no owner has the plan made again, mostly from the same input.
        state = (self._map, settled, len(self._present_preferences()), may_claim)
        if self._planned_from != state:
            claim: tuple[int, ...] = ()
            if may_claim:
                is_free = (self._live < 0) & (self._targets() == self._number_of(self.incarnation))
                claim = tuple(np.flatnonzero(is_free).tolist())
            if me.state == "draining":
                hand_off = self._hand_offs(self._ready_since.keys())
            else:
                hand_off = self._hand_offs(settled, self._present_preferences().keys())
            self._planned_from, self._plan = state, RebalancePlan(claim, hand_off)
        return self._plan

    def _takes_from(self, since: Mapping[str, float]) -> dict[str, float]:
        """Return the time from which each ready worker is handed slots: when nobody else has come for a while."""
        all_came = max(since.values(), default=0.0) + self._timing.settle_s
        return {worker: min(at + self._timing.gather_s, all_came) for worker, at in since.items()}

    def wait_s(self) -> float | None:
        """Return the seconds until time alone changes the plan; None if it does not."""
        now = self._clock()
        moments = {*self._takes.values()}
        moments |= {who.until for who in self._preferred.values()} | {self._claims_from}
        return min((moment - now for moment in moments if moment > now), default=None)

    def forward_to(self) -> list[str | None]:
        """Return the address to send calls on each slot to: that of its live owner, else of the one that should claim it, if any."""
        if self._map is None:
            return [None] * self._num_slots
        workers = self._map.workers
        addresses = [workers[name].address if name in workers else None for name in self._names]
        receivers = np.where(self._live >= 0, self._live, self._targets())
        found: list[str | None] = np.array([*addresses, None], dtype=object)[receivers].tolist()
        return found

    def tokens(self) -> dict[int, str]:
        """Return the slots of this worker with their tokens."""
        if self._map is None:
            return {}
        mine = np.flatnonzero(self._owners == self._number_of(self.incarnation)).tolist()
        return {slot: self._map.owners[slot].token for slot in mine}

    def foreign(self) -> SlotSet:
        """Return the slots that other live workers own."""
        return SlotSet((self._live >= 0) & (self._live != self._number_of(self.incarnation)))

    def is_of_another(self, slot: int) -> bool:
        """Tell whether another worker, alive or dead, owns the slot."""
        owner = self._owners[slot]
        return bool(owner >= 0) and self._names[owner] != self.incarnation

    def placement(self) -> Placement:
        """Return the slots for new environments: for each ready worker, slots that the ring assigns to it.

        They are slots that the worker owns. A worker that has just joined owns none: for ``arrive_s`` it gets slots that
        are about to be handed over to it, whose present owner creates and serves the environments until then. A slot that
        stays with another worker for longer, because of environments that exist only there, gets no new ones, so that it
        empties.
        """
        if self._map is None:
            return Placement()
        now = self._clock()
        newcomers: set[str] = set()
        if now < self._last_came + self._timing.arrive_s:
            newcomers = {
                worker for worker, since in self._ready_since.items() if now < since + self._timing.arrive_s
            }
        state = (self._map, newcomers, len(self._present_preferences()))
        if self._placed_in != state:
            self._placed_in, self._placement = state, self._place(self._map, newcomers)
        return self._placement

    def _place(self, cluster: ClusterMap, newcomers: Collection[str]) -> Placement:
        live, targets = self._live, self._targets()
        is_settled = (live == targets) & (targets >= 0)
        settled = self._settled.update(targets, is_settled, self._names)
        coming: Mapping[str, Sequence[int]] = {}
        if newcomers:
            is_ready = np.array([name in self._ready_since for name in self._names] + [False])
            is_new = np.array([name in newcomers for name in self._names] + [False])
            coming = _by_target(targets, is_ready[live] & is_new[targets] & (live != targets), self._names)
        slots = {
            worker.address: found
            for incarnation, found in {**coming, **settled}.items()
            if (worker := cluster.workers[incarnation]).state == "ready"
        }
        is_balanced = not self._present_preferences() and bool(is_settled.all())
        return Placement(slots, is_balanced)

    def has_settled(self, pool: Collection[str], nodes: int) -> bool:
        """Tell whether all awaited workers have joined and own their slots, or have been waited for long enough.

        Args:
            pool: Addresses of the workers of this worker's node.
            nodes: Number of expected nodes.
        """
        if self._map is None or self._joined_at is None:
            return False
        now = self._clock()
        if now >= self._joined_at + self._timing.arrive_s:
            return True
        return not self.awaited(pool, nodes) and now >= self._unchanged_since + self._timing.settle_s

    def awaited(self, pool: Collection[str], nodes: int) -> str:
        """Say what is missing until all awaited workers have joined and own their slots; empty if nothing is.

        Args:
            pool: Addresses of the workers of this worker's node.
            nodes: Number of expected nodes.
        """
        if self._map is None or self._joined_at is None:
            return "its place in the map"
        listeners = self._listeners
        present = {self._map.workers[incarnation].node for incarnation in listeners.values()}
        if len(present) < nodes:
            return f"nodes, of which {len(present)} of {nodes} are there"
        absent = len(set(pool) - listeners.keys())
        if absent:
            return f"workers of its node, of which {absent} of {len(pool)} are not there"
        return "" if self.placement().is_balanced else "slots to be with their workers"

    @property
    def has_other_takers(self) -> bool:
        """True if another worker accepts slots."""
        return any(incarnation != self.incarnation for incarnation in self._ready_since)

    def _present_preferences(self) -> dict[int, str]:
        """Return the slots in which an incarnation takes precedence over the ring's worker, and which one."""
        now = self._clock()
        return {slot: who.incarnation for slot, who in self._preferred.items() if now < who.until}

    def _targets(self) -> SlotArray:
        """Return the incarnation that should own each slot; one with precedence may be dead."""
        preferred = self._present_preferences()
        if not preferred:
            return self._proposals
        targets = self._proposals.copy()
        for slot, incarnation in preferred.items():
            targets[slot] = self._number_of(incarnation)
        return targets

    def _hand_offs(
        self, takers: Collection[str], kept: Collection[int] = frozenset()
    ) -> dict[str, dict[int, str]]:
        """Choose the receivers of slots that the ring assigns to others.

        Args:
            takers: Who may receive any.
            kept: Slots in which somebody takes precedence, and which are not handed over meanwhile, not to that one either:
                workers may see precedence differently, and would hand a slot over to each other by turns.
        """
        plan: dict[str, dict[int, str]] = {}
        for slot, token in self.tokens().items():
            proposal = self._proposals[slot]
            target = self._names[proposal] if proposal >= 0 else self.incarnation
            if target != self.incarnation and target in takers and slot not in kept:
                plan.setdefault(target, {})[slot] = token
        return plan

    def _proposed(self, listeners: Mapping[str, str]) -> SlotArray:
        """Return the incarnation that the ring assigns each slot to; nobody if no worker is ready.

        A ring over the ready workers equals the ring of all workers with the others skipped, as nginx does it.
        """
        if not listeners:
            return self._nobody()
        ring = ring_over(tuple(sorted(listeners)), self._num_slots)
        numbers = np.array(
            [self._number_of(listeners[address]) for address in ring.addresses], dtype=np.int32
        )
        return numbers[ring.choices]


def _listeners(cluster: ClusterMap, formats: Formats = frozenset()) -> dict[str, str]:
    """Map address to incarnation of the ready workers that read these formats; of two at one address, the younger."""
    found: dict[str, WorkerRecord] = {}
    for worker in cluster.workers.values():
        if worker.state != "ready" or (formats and not worker.can_read(formats)):
            continue
        other = found.get(worker.address)
        if other is None or (other.started_at, other.incarnation) < (worker.started_at, worker.incarnation):
            found[worker.address] = worker
    return {address: worker.incarnation for address, worker in found.items()}
