"""A fault: what is done to a cluster, and what its clients may notice of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

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
