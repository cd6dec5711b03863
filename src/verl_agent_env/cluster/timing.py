"""Durations of a worker's part in the cluster, and the relations that must hold between them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from verl_agent_env import waits


@dataclass(frozen=True)
class Timing:
    """Durations in seconds: the lease is an option of the server, the properties follow from it, the rest is fixed."""

    lease_s: float = 5.0
    """How long the store counts a worker as alive after its last heartbeat."""
    settle_s: float = 1.0
    """How long a worker must have been ready before others hand it slots: one that keeps crashing gets none."""
    gather_s: float = 3.0
    """How long a ready worker is given no slots at most while others come after it, each within ``settle_s``: so slots move once,
    to their final owners, when many workers join."""
    grace_s: float = 5.0
    """How long former owners have the first claim after the store was emptied or away, because they still hold the state;
    and those who can read what a dead worker's slots hold, where not all can."""
    arrive_s: float = 15.0
    """How long a worker that has joined is given new environments in slots that are still to be handed over to it, and how
    long it waits for the map to be balanced before it reports itself ready."""
    poll_s: float = 1.0
    """How often the map's version is read at least, because a notification of a change can get lost."""
    pause_s: float = 0.05
    """Time between two reads of the map for which nobody waits: many changes in a moment are read together."""
    hand_over_again_s: float = 3.0
    """How long slots with failed writes are kept before the next attempt to hand them over."""
    drain_poll_s: float = 0.05
    """How often a draining worker checks whether it has slots left."""
    leave_s: float = 2.0
    """How long a stopping worker waits for its last writes, and again for the store to end its lease."""
    heartbeats_per_lease: int = 8
    """Heartbeats per lease, so that some may be lost."""
    safety: float = 0.2
    """Share of a lease that its holder gives away, for clocks that run at different speeds."""

    def __post_init__(self) -> None:
        if min(self.settle_s, self.grace_s, self.arrive_s) < 0:
            raise ValueError("settle_s, grace_s and arrive_s must not be negative")
        if min(self.lease_s, self.poll_s, self.drain_poll_s, self.leave_s) <= 0:
            raise ValueError("lease_s, poll_s, drain_poll_s and leave_s must be above 0")
        if not 0 < self.safety < 1:
            raise ValueError(f"safety must be between 0 and 1, not {self.safety}")
        # Two heartbeats get lost and the next one is retried: the lease must not be over by then.
        if not 3 * self.heartbeat_s + self.retry_s <= self.valid_s:
            raise ValueError(
                "heartbeats_per_lease must be such that two lost heartbeats do not end the lease"
            )
        # Otherwise a new worker would lose its new environments before it gets the slots for them.
        if not self.settle_s <= self.gather_s <= self.arrive_s:
            raise ValueError("gather_s must be from settle_s to arrive_s")
        # Otherwise the same slots would be prepared again without a pause, and could not be used meanwhile.
        if self.hand_over_again_s <= waits.HAND_OVER_S:
            raise ValueError(f"hand_over_again_s must be longer than {waits.HAND_OVER_S:g}")

    @property
    def heartbeat_s(self) -> float:
        """Time from one heartbeat to the next."""
        return self.lease_s / self.heartbeats_per_lease

    @property
    def retry_s(self) -> float:
        """Pause after a failed call to the store."""
        return min(0.25, self.heartbeat_s)

    @property
    def valid_s(self) -> float:
        """Time for which a worker may act as an owner, counted from before the heartbeat was sent."""
        return self.lease_s * (1 - self.safety)

    @property
    def blocked_after_s(self) -> int:
        """Seconds (whole ones) without a sign of life after which a supervisor kills its worker.

        The lease is over by then and others own the slots, so nothing that the worker could still do counts.
        """
        return math.ceil(self.lease_s)

    @property
    def rejoin_s(self) -> float:
        """Time for which a restarted node waits for its own former leases to expire."""
        return self.lease_s + 1.0
