"""How long a worker may believe in its own lease without asking the store."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

SAFETY = 0.2
"""Share of a lease that its holder gives away, for clocks that run at different speeds."""


def boot_time() -> float:
    """Seconds since the machine started, its sleep included: a suspended worker wakes up with its lease over."""
    return time.clock_gettime(_CLOCK)


# Only Linux has it; elsewhere a suspended laptop may believe in its lease until the next heartbeat.
_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class LocalLease:
    """The holder's view of a lease of ``ttl_s``, always over before the store's is.

    The store counts from when a renewal arrives; the holder counts from before it was sent, less a fifth.
    """

    def __init__(self, ttl_s: float, clock: Callable[[], float] = boot_time) -> None:
        self._valid_s = ttl_s * (1 - SAFETY)
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

    @property
    def remaining_s(self) -> float:
        """Seconds left, 0 when over."""
        return max(0.0, self._valid_until - self._clock())
