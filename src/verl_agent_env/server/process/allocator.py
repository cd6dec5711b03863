"""Has the C library keep little of what large requests took: freed memory goes back to the system.

glibc keeps an arena for every few threads and raises, with each large buffer that is freed, the size up to which it keeps
freed ones. A worker that was asked for much once would look as if it needed that much for good. Other C libraries have
none of these settings; there nothing is done.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Parameters of ``mallopt(3)``."""
_LARGE_BYTES = 4 * 1024 * 1024
"""Buffers from this size on are the system's again as soon as they are freed."""
_MAX_ARENAS = 2
"""One for the event loop's thread and one for all others, which take turns with it anyway."""
_EVERY_S = 30.0
_PAUSE_S = 1.0


def keep_little() -> None:
    """Set the C library so that it keeps little of what is freed."""
    mallopt = _function("mallopt")
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2 * _LARGE_BYTES)
        mallopt(_M_ARENA_MAX, _MAX_ARENAS)


class MemoryReturn:
    """Gives freed memory back to the system from time to time, and soon after large requests."""

    def __init__(self) -> None:
        self._due = asyncio.Event()

    def soon(self) -> None:
        """Do it before long."""
        self._due.set()

    async def run(self) -> None:
        """Go on until cancelled."""
        trim = _function("malloc_trim")
        while trim is not None:
            try:
                async with asyncio.timeout(_EVERY_S):
                    await self._due.wait()
            except TimeoutError:
                pass
            # Off the loop: it takes milliseconds for each hundred megabytes.
            await asyncio.to_thread(trim, 0)
            self._due.clear()
            await asyncio.sleep(_PAUSE_S)
        await asyncio.Event().wait()


def _function(name: str) -> Callable[..., Any] | None:
    """A function of the C library, if it has it."""
    try:
        found: Callable[..., Any] = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
    return found
