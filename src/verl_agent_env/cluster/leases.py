"""The lease as its holder sees it, without asking the store."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from verl_agent_env.cluster.timing import Timing


def boot_time() -> float:
    """Return the seconds since the machine started, suspension included: a lease is over after it."""
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
        """Return the time to hand to :meth:`renewed`; call it before the renewal is sent."""
        return self._clock()

    def renewed(self, sent_at: float) -> None:
        """Extend the lease from ``sent_at``, after the store has confirmed it; answers may come in any order."""
        if sent_at > self._lost_at:
            self._valid_until = max(self._valid_until, sent_at + self._valid_s)

    def expire(self) -> None:
        """End the lease, as the store has; the answer to a renewal sent earlier does not revive it."""
        self._lost_at = self._clock()
        self._valid_until = -math.inf

    @property
    def valid(self) -> bool:
        """True if the holder may act as the owner."""
        return self._clock() < self._valid_until
