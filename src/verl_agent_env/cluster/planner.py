"""The rebalance planner: which slots a worker claims and hands over, decided from the cluster's map alone.

There is no I/O: maps go in, plans come out, the clock is an argument. Every worker plans over the same map, and the ring
over the ready workers assigns each slot to exactly one of them, so no two workers claim the same slot. While their maps
differ the store decides, and the loser reads the map again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from verl_agent_env.cluster.leases import boot_time
from verl_agent_env.cluster.ring import ring_over
from verl_agent_env.cluster.store import ClusterMap, Formats, WorkerRecord
from verl_agent_env.cluster.timing import Timing
from verl_agent_env.types import NUM_SLOTS


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
        self._owners: Sequence[WorkerRecord | None] = ()
        """The live owner of each slot in it."""
        self._proposals: tuple[str, ...] = ()
        self._ready_since: dict[str, float] = {}
        self._joined_at: float | None = None
        self._unchanged_since = 0.0
        """Time at which the ring changed last."""
        self._plan = RebalancePlan()
        self._planned_from: tuple[object, ...] | None = None
        """Input of the last plan."""
        self._placement = Placement()
        self._placed_in: tuple[object, ...] | None = None
        """Input of the last placement."""
        self._preferred: dict[int, _Preference] = {}
        self._readers: dict[Formats, tuple[str, ...]] = {}
        self._was_away = False
        self._claims_from = float("-inf")
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
        now, last = self._clock(), self._map
        ready = {incarnation for incarnation, worker in cluster.workers.items() if worker.state == "ready"}
        self._ready_since = {incarnation: self._ready_since.get(incarnation, now) for incarnation in ready}
        if last is None or _listeners(last) != _listeners(cluster):
            self._proposals = self._proposed(_listeners(cluster))
            self._unchanged_since = now
        self._readers = {}
        self._preferred = {slot: who for slot, who in self._preferred.items() if now < who.until}
        if last is not None and last.workers.keys() - cluster.workers.keys():
            self._prefer(self._successors(last, cluster), now)
        if last is not None and last.generation != cluster.generation:
            # Emptied twice in a row: preferences of the second loss override those of the first.
            self._prefer({s: owner.incarnation for s in last.owners if (owner := last.owner_of(s))}, now)
            if self._was_away:
                # Others may have owned its slots meanwhile and hold the later steps: they claim first.
                self._claims_from = now + self._timing.grace_s / 2
        if self._was_away:
            self._was_away = False
            live = cluster.workers
            self._prefer(
                {s: o.incarnation for s, o in cluster.owners.items() if o.incarnation not in live}, now
            )
        if self._joined_at is None and self.incarnation in cluster.workers:
            self._joined_at = now
        self._map, self._owners = cluster, self._live_owners(cluster)

    def _prefer(self, incarnations: Mapping[int, str], now: float) -> None:
        """Give incarnations precedence in their slots for a while; slots that they do not claim go to the ring's workers."""
        until = now + self._timing.grace_s
        self._preferred |= {slot: _Preference(who, until) for slot, who in incarnations.items()}

    def _successors(self, last: ClusterMap, cluster: ClusterMap) -> dict[int, str]:
        """Choose a claimant for each slot whose owner has gone, if not every worker reads the formats of that owner."""
        successors = {}
        for slot in last.owners:
            gone = last.owner_of(slot)
            if gone is None or gone.reads is None or cluster.owner_of(slot) is not None:
                continue
            successor = self._reader_in(cluster, slot, frozenset(gone.reads.items()))
            self._preferred.pop(slot, None)
            if successor is not None and successor != self._proposals[slot]:
                successors[slot] = successor
        return successors

    def reader_of(self, slot: int, formats: Formats) -> str | None:
        """Return the ring's choice for ``slot`` among the ready workers that read these formats, if there are any."""
        return None if self._map is None else self._reader_in(self._map, slot, formats)

    def _reader_in(self, cluster: ClusterMap, slot: int, formats: Formats) -> str | None:
        if formats not in self._readers:
            self._readers[formats] = self._proposed(_listeners(cluster, formats))
        readers = self._readers[formats]
        return readers[slot] if readers else None

    def plan(self) -> RebalancePlan:
        """Return the changes to ask for now; under an unchanged map, ask again after :meth:`wait_s`."""
        me = None if self._map is None else self._map.workers.get(self.incarnation)
        if self._map is None or me is None:
            return RebalancePlan()
        now = self._clock()
        settled = {worker for worker, at in self._takes_from().items() if at <= now}
        may_claim = me.state == "ready" and now >= self._claims_from
        # Every call that finds no owner has the plan made again, mostly from the same input.
        state = (self._map, settled, self._preferences(now), may_claim)
        if self._planned_from != state:
            claim: tuple[int, ...] = ()
            if may_claim:
                claim = tuple(
                    slot
                    for slot, (owner, target) in enumerate(zip(self._owners, self._targets(), strict=True))
                    if owner is None and target == self.incarnation
                )
            takers = self._ready_since.keys() if me.state == "draining" else settled
            self._planned_from, self._plan = state, RebalancePlan(claim, self._hand_offs(self._map, takers))
        return self._plan

    def _takes_from(self) -> dict[str, float]:
        """Return the time from which each ready worker is handed slots: when nobody else has come for a while."""
        timing, since = self._timing, self._ready_since
        all_came = max(since.values(), default=0.0) + timing.settle_s
        return {worker: min(at + timing.gather_s, all_came) for worker, at in since.items()}

    def wait_s(self) -> float | None:
        """Return the seconds until time alone changes the plan; None if it does not."""
        now = self._clock()
        moments = {*self._takes_from().values()}
        moments |= {who.until for who in self._preferred.values()} | {self._claims_from}
        return min((moment - now for moment in moments if moment > now), default=None)

    def forward_to(self) -> list[WorkerRecord | None]:
        """Return the worker to send calls on each slot to: its live owner, else the one that should claim it, if any."""
        if self._map is None:
            return [None] * self._num_slots
        workers = self._map.workers
        return [
            owner or (None if target is None else workers.get(target))
            for owner, target in zip(self._owners, self._targets(), strict=True)
        ]

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
        newcomers = {
            worker for worker, since in self._ready_since.items() if now < since + self._timing.arrive_s
        }
        state = (self._map, newcomers, self._preferences(now))
        if self._placed_in != state:
            self._placed_in, self._placement = state, self._place(self._map, newcomers)
        return self._placement

    def _place(self, cluster: ClusterMap, newcomers: Collection[str]) -> Placement:
        settled: dict[str, list[int]] = {}
        coming: dict[str, list[int]] = {}
        for slot, (owner, target) in enumerate(zip(self._owners, self._targets(), strict=True)):
            if owner is None or target is None:
                continue
            if owner.incarnation == target:
                settled.setdefault(target, []).append(slot)
            elif owner.state == "ready" and target in newcomers:
                coming.setdefault(target, []).append(slot)
        slots = {
            worker.address: found
            for incarnation, worker in cluster.workers.items()
            if worker.state == "ready" and (found := settled.get(incarnation) or coming.get(incarnation))
        }
        is_balanced = (
            not self._preferences(self._clock()) and sum(map(len, settled.values())) == self._num_slots
        )
        return Placement(slots, is_balanced)

    def has_settled(self, pool: Collection[str], nodes: int) -> bool:
        """Tell whether all awaited workers have joined and own their slots, or have been waited for long enough.

        Args:
            pool: Addresses of the workers of this worker's node.
            nodes: Number of expected nodes.
        """
        if self._map is None or self._joined_at is None:
            return False
        now, listeners = self._clock(), _listeners(self._map)
        if now >= self._joined_at + self._timing.arrive_s:
            return True
        present = {self._map.workers[incarnation].node for incarnation in listeners.values()}
        has_all = listeners.keys() >= set(pool) and len(present) >= nodes
        return (
            has_all and self.placement().is_balanced and now >= self._unchanged_since + self._timing.settle_s
        )

    @property
    def has_other_takers(self) -> bool:
        """True if another worker accepts slots."""
        return any(incarnation != self.incarnation for incarnation in self._ready_since)

    def _preferences(self, now: float) -> int:
        """Count the slots in which an incarnation takes precedence over the ring's worker."""
        return sum(now < who.until for who in self._preferred.values())

    def _targets(self) -> Sequence[str | None]:
        """Return the incarnation that should own each slot; one with precedence may be dead."""
        targets: list[str | None] = [*self._proposals] or [None] * self._num_slots
        now = self._clock()
        for slot, preferred in self._preferred.items():
            if now < preferred.until:
                targets[slot] = preferred.incarnation
        return targets

    def _hand_offs(self, cluster: ClusterMap, takers: Collection[str]) -> dict[str, dict[int, str]]:
        """Choose the receivers, among ``takers``, of slots that this worker should not own."""
        plan: dict[str, dict[int, str]] = {}
        targets = self._targets()
        for slot, token in sorted(cluster.tokens_of(self.incarnation).items()):
            target = targets[slot]
            if target is not None and target != self.incarnation and target in takers:
                plan.setdefault(target, {})[slot] = token
        return plan

    def _live_owners(self, cluster: ClusterMap) -> Sequence[WorkerRecord | None]:
        found: list[WorkerRecord | None] = [None] * self._num_slots
        for slot, owner in cluster.owners.items():
            found[slot] = cluster.workers.get(owner.incarnation)
        return found

    def _proposed(self, listeners: Mapping[str, str]) -> tuple[str, ...]:
        """Return the incarnation that the ring assigns each slot to; empty if no worker is ready.

        A ring over the ready workers equals the ring of all workers with the others skipped, as nginx does it.
        """
        if not listeners:
            return ()
        assigned = ring_over(tuple(sorted(listeners)), self._num_slots).assignments
        return tuple(listeners[address] for address in assigned)


def _listeners(cluster: ClusterMap, formats: Formats = frozenset()) -> dict[str, str]:
    """Map address to incarnation of the ready workers that read these formats; of two at one address, the younger."""
    workers = sorted(cluster.workers.values(), key=lambda worker: (worker.started_at, worker.incarnation))
    return {
        worker.address: worker.incarnation
        for worker in workers
        if worker.state == "ready" and worker.can_read(formats)
    }
