"""CPU time that a call may take, on a machine of any speed and however busy."""

from __future__ import annotations

import time
from collections.abc import Callable

_LOOPS = 200_000
_NOMINAL_S = 0.008
"""What the loop takes on the machine for which limits are stated (Python 3.11)."""
_TRIES = 5


def assert_within(limit_s: float, call: Callable[[], object]) -> None:
    """Fail if a call takes more CPU time than ``limit_s`` in each of a few tries.

    The limit is stated for a quiet core of 2023, and raised for a slower one, or one whose caches others use, too.
    """
    tries = []
    for _ in range(_TRIES):
        allowed_s = limit_s * slowness()
        before = time.process_time()
        call()
        tries.append((time.process_time() - before) / allowed_s)
        if tries[-1] < 1:
            return
    raise AssertionError(f"took {min(tries):.1f} times the CPU time that it may")


def slowness() -> float:
    """How many times as much CPU time as stated this machine needs at the moment; at least once as much."""
    before = time.process_time()
    total = 0
    for number in range(_LOOPS):
        total += number & 3
    return max(1.0, (time.process_time() - before) / _NOMINAL_S)
