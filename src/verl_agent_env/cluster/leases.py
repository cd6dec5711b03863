"""How long a worker may believe in its own lease without asking the store."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from verl_agent_env.cluster.timing import Timing


def boot_time() -> float:
    """Seconds since the machine started, its sleep included: a suspended worker wakes up with its lease over."""
    return time.clock_gettime(_CLOCK)


# Only Linux has it; elsewhere a suspended laptop may believe in its lease until the next heartbeat.
_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class LocalLease:
    """The holder's view of its lease, which is over before the store's view of the same lease.

    The store counts from when a renewal arrives; the holder counts from before it was sent, and counts less
    (:attr:`Timing.valid_s`).
    """

    def __init__(self, timing: Timing, clock: Callable[[], float] = boot_time) -> None:
        self._valid_s = timing.valid_s
        self._clock = clock
        self._valid_until = -math.inf
        self._lost_at = -math.inf

    def sending(self) -> float:
        """The moment to hand to :meth:`renewed`; take it before the renewal is sent."""
        return self._clock()

    def renewed(self, sent_at: float) -> None:
        """Count from ``sent_at``, now that the store has answered. Answers may come in any order."""
        if sent_at > self._lost_at:
            self._valid_until = max(self._valid_until, sent_at + self._valid_s)

    def expire(self) -> None:
        """The store said that the lease is over; the answer to a renewal sent earlier does not revive it."""
        self._lost_at = self._clock()
        self._valid_until = -math.inf

    @property
    def valid(self) -> bool:
        """Whether the holder may act as the owner."""
        return self._clock() < self._valid_until
