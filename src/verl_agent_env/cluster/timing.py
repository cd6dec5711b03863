"""All durations of a worker's part in the cluster: what follows from the lease, what does not, and how they must relate."""

from __future__ import annotations

import math
from dataclasses import dataclass

from verl_agent_env import waits


@dataclass(frozen=True)
class Timing:
    """Durations in seconds. Two of them are the operator's: the lease, which is an option of the server, and no other."""

    lease_s: float = 5.0
    """How long the store takes a worker for alive after its last heartbeat."""
    settle_s: float = 1.0
    """How long a worker must have been ready before others hand it slots: one that keeps crashing gets none."""
    grace_s: float = 5.0
    """How long former owners have the first claim after the store was emptied or away, because they still hold the state;
    and those who can read what a dead worker's slots hold, where not all can."""
    arrive_s: float = 15.0
    """How long a worker that has joined is given slots for new environments that are still on their way to it, and how
    long it waits for the map to be balanced, before it says that it is ready."""
    poll_s: float = 1.0
    """How often the map is read at least: a notice of its change can get lost."""
    hand_over_again_s: float = 3.0
    """How long slots that could not be written are kept before their hand-over is tried again."""
    drain_poll_s: float = 0.05
    """How often a worker that is drained looks whether it has slots left."""
    leave_s: float = 2.0
    """How long a worker that ends waits for the store, once for its last writes and once to leave."""
    heartbeats_per_lease: int = 8
    """Heartbeats that fit into a lease: some may be lost."""
    safety: float = 0.2
    """Share of a lease that its holder gives away, for clocks that run at different speeds."""

    def __post_init__(self) -> None:
        if min(self.settle_s, self.grace_s, self.arrive_s) < 0:
            raise ValueError("settle_s, grace_s and arrive_s must not be negative")
        if min(self.lease_s, self.poll_s, self.drain_poll_s, self.leave_s) <= 0:
            raise ValueError("lease_s, poll_s, drain_poll_s and leave_s must be above 0")
        if not 0 < self.safety < 1:
            raise ValueError(f"safety must be between 0 and 1, not {self.safety}")
        # Two heartbeats get lost, and the one after them is sent a second time: the lease must not be over by then.
        if not 3 * self.heartbeat_s + self.retry_s <= self.valid_s:
            raise ValueError(
                "heartbeats_per_lease must be such that two lost heartbeats do not end the lease"
            )
        # A worker that has settled later than new environments may begin on it would never get the slots for them.
        if self.settle_s > self.arrive_s:
            raise ValueError("settle_s must not be longer than arrive_s")
        # Else the same slots would wait for the store without a pause, and nobody could use them.
        if self.hand_over_again_s <= waits.HAND_OVER_S:
            raise ValueError(f"hand_over_again_s must be longer than {waits.HAND_OVER_S:g}")

    @property
    def heartbeat_s(self) -> float:
        """Time from one heartbeat to the next."""
        return self.lease_s / self.heartbeats_per_lease

    @property
    def retry_s(self) -> float:
        """Pause after a call of the store that failed."""
        return min(0.25, self.heartbeat_s)

    @property
    def valid_s(self) -> float:
        """How long a worker may believe in its own lease, from before the heartbeat was sent."""
        return self.lease_s * (1 - self.safety)

    @property
    def blocked_after_s(self) -> int:
        """Age of a worker's last sign of life, in whole seconds, at which its supervisor kills it.

        Its lease is over by then and others own its slots, so nothing that it would still do counts.
        """
        return math.ceil(self.lease_s)

    @property
    def rejoin_s(self) -> float:
        """How long a node waits for the leases of its own past, if it crashed and was started again."""
        return self.lease_s + 1.0
