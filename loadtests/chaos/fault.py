"""A fault: what is done to a cluster, and what its clients may notice of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from loadtests.chaos.load import Load
from verl_agent_env.cluster.local import LocalCluster

Strike = Callable[[LocalCluster, Load], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong, and what clients may notice of it."""

    name: str
    strike: Strike
    max_stall_s: float
    may_refuse: bool = False
    """Whether tries may fail with a typed error that says to try again."""
    max_added_p99_s: float | None = None
    """How much longer the slowest hundredth of steps may take than without any fault."""
    max_p99_ratio: float | None = None
    """How many times as long it may take as just before and after."""

    def allowing(self, times: float) -> Fault:
        """The fault, with waits that may be so many times as long."""
        added_s, ratio = self.max_added_p99_s, self.max_p99_ratio
        return replace(
            self,
            max_stall_s=times * self.max_stall_s,
            max_added_p99_s=None if added_s is None else times * added_s,
            max_p99_ratio=None if ratio is None else times * ratio,
        )
