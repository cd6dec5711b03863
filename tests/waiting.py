"""How long tests wait: until it is so, however busy the machine. One bound only, beyond which something hangs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

HANG_S = 120.0
"""Seconds after which a wait is taken for a hang. What is tested takes a small part of it."""
NEVER_S = 3600.0
"""A time that no test reaches: whatever waits for it hangs. For what must not be waited for."""
_FIRST_LOOK_S = 0.001
_LONGEST_LOOK_S = 0.05
_RARELY = 0.1
"""Of the time that was waited already, how long to wait before the next look: many looks make the awaited thing late."""


def eventually(condition: Callable[[], bool], timeout_s: float = HANG_S, what: str = "it") -> float:
    """Look again and again until ``condition`` holds; returns the seconds that it took.

    Raises:
        AssertionError: It still did not hold after ``timeout_s``.
    """
    began, pause_s = time.monotonic(), _FIRST_LOOK_S
    while not condition():
        waited_s = time.monotonic() - began
        assert waited_s < timeout_s, f"{what} did not come about within {timeout_s:g} s"
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, max(_LONGEST_LOOK_S, _RARELY * waited_s))
    return time.monotonic() - began


async def until(condition: Callable[[], bool], what: str = "it") -> None:
    """As :func:`eventually`, with the loop going on meanwhile.

    Raises:
        AssertionError: It still did not hold after :data:`HANG_S`.
    """
    loop, pause_s = asyncio.get_running_loop(), _FIRST_LOOK_S
    end = loop.time() + HANG_S
    while not condition():
        assert loop.time() < end, f"{what} did not come about within {HANG_S:g} s"
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_LOOK_S)


def no_hang() -> asyncio.Timeout:
    """Bound what is awaited within it by :data:`HANG_S`."""
    return asyncio.timeout(HANG_S)
