"""What a worker should do about its slots, decided from the cluster's map alone.

No I/O: maps are handed in, plans come out, time is a clock that is given. Every worker runs this over the same map, and
the ring over the ready workers gives each slot to exactly one of them, so no two want the same slot. Where maps
differ for a moment the store decides, and the loser reads it again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from verl_agent_env.cluster.leases import boot_time
from verl_agent_env.cluster.ring import ring_over
from verl_agent_env.cluster.store import ClusterMap, WorkerRecord
from verl_agent_env.types import NUM_SLOTS


@dataclass(frozen=True)
class Plan:
    """What to ask of the store now."""

    claim: tuple[int, ...] = ()
    """Slots without a live owner that are this worker's to take, in ascending order."""
    hand_off: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    """Incarnation to the slots that it should get from this worker, with the present tokens."""


@dataclass(frozen=True)
class MembershipTimes:
    """How patient a worker is."""

    settle_s: float = 1.0
    """How long a worker must have been ready before others hand it slots: one that keeps crashing gets none."""
    grace_s: float = 5.0
    """How long owners of old have the first claim after the store was emptied or away: they still hold the state."""

    def __post_init__(self) -> None:
        if self.settle_s < 0 or self.grace_s < 0:
            raise ValueError("settle_s and grace_s must not be negative")


class Membership:
    """The decisions of the worker ``incarnation``."""

    def __init__(
        self,
        incarnation: str,
        times: MembershipTimes | None = None,
        clock: Callable[[], float] = boot_time,
    ) -> None:
        self.incarnation = incarnation
        self._times = times or MembershipTimes()
        self._clock = clock
        self._map: ClusterMap | None = None
        self._proposals: tuple[str, ...] = ()
        self._ready_since: dict[str, float] = {}
        self._former: dict[int, str] = {}
        self._grace_until = 0.0
        self._was_away = False

    @property
    def cluster(self) -> ClusterMap | None:
        """The map seen last."""
        return self._map

    def came_back(self) -> None:
        """The worker was out of touch, or is new: an owner without a lease may only not have come back yet.

        When the store was away for longer than a lease, all leases are over; who is back first must not take what the
        others still hold.
        """
        self._was_away = True

    def observe(self, cluster: ClusterMap) -> None:
        """Take in a map that was just read."""
        now, last = self._clock(), self._map
        if now >= self._grace_until:
            self._former = {}
        if last is not None and last.generation != cluster.generation:
            # Emptied twice in a row: what the second loss took away is on top of the first.
            self._former |= {s: owner.incarnation for s in last.owners if (owner := last.owner_of(s))}
            self._grace_until = now + self._times.grace_s
        if self._was_away:
            self._was_away = False
            live = cluster.workers
            self._former |= {s: o.incarnation for s, o in cluster.owners.items() if o.incarnation not in live}
            self._grace_until = now + self._times.grace_s
        ready = {incarnation for incarnation, worker in cluster.workers.items() if worker.state == "ready"}
        self._ready_since = {incarnation: self._ready_since.get(incarnation, now) for incarnation in ready}
        if last is None or _listeners(last) != _listeners(cluster):
            self._proposals = _proposals(_listeners(cluster))
        self._map = cluster

    def plan(self) -> Plan:
        """What to do now. Under an unchanged map a later plan can hold more; look again after :meth:`wait_s`."""
        me = None if self._map is None else self._map.workers.get(self.incarnation)
        if self._map is None or me is None:
            return Plan()
        claim: tuple[int, ...] = ()
        if me.state == "ready":
            claim = tuple(
                slot
                for slot in range(NUM_SLOTS)
                if self._map.owner_of(slot) is None and self._proposed(slot) == self.incarnation
            )
        return Plan(claim, self._hand_offs(self._map, leaving=me.state == "draining"))

    def wait_s(self) -> float | None:
        """Seconds until time alone changes the plan, None when it will not."""
        now = self._clock()
        moments = [since + self._times.settle_s for since in self._ready_since.values()]
        if self._former:
            moments.append(self._grace_until)
        return min((moment - now for moment in moments if moment > now), default=None)

    def forward_to(self, slot: int) -> WorkerRecord | None:
        """Who should be asked about ``slot``: its live owner, else whoever is about to claim it, None if nobody is."""
        if self._map is None:
            return None
        owner = self._map.owner_of(slot)
        proposed = self._proposed(slot)
        return owner or (None if proposed is None else self._map.workers.get(proposed))

    def keeps(self, slot: int) -> bool:
        """Whether the ring means the slot for this worker."""
        return self._proposed(slot) == self.incarnation

    def _proposed(self, slot: int) -> str | None:
        """The incarnation that should own ``slot``; it may be dead while the owners of old have precedence."""
        if self._former and slot in self._former and self._clock() < self._grace_until:
            return self._former[slot]
        return self._proposals[slot] if self._proposals else None

    def _hand_offs(self, cluster: ClusterMap, *, leaving: bool) -> dict[str, dict[int, str]]:
        settled_before = self._clock() - self._times.settle_s
        plan: dict[str, dict[int, str]] = {}
        for slot, token in sorted(cluster.tokens_of(self.incarnation).items()):
            target = self._proposed(slot)
            if target is None or target == self.incarnation or target not in self._ready_since:
                continue
            if leaving or self._ready_since[target] <= settled_before:
                plan.setdefault(target, {})[slot] = token
        return plan


def _listeners(cluster: ClusterMap) -> dict[str, str]:
    """Address to incarnation of the workers that are ready; of two under one address, the younger."""
    workers = sorted(cluster.workers.values(), key=lambda worker: (worker.started_at, worker.incarnation))
    return {worker.address: worker.incarnation for worker in workers if worker.state == "ready"}


def _proposals(listeners: Mapping[str, str]) -> tuple[str, ...]:
    """The incarnation that the ring gives each slot to, by slot; empty when nobody is ready.

    A ring over the ready ones alone is the ring of all with the others passed over, as nginx does it.
    """
    if not listeners:
        return ()
    return tuple(listeners[address] for address in ring_over(tuple(sorted(listeners))).assignments)
