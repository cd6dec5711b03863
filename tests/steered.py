"""An event loop whose clock tests put forward: what is to time out does so at once, and nothing else on a slow machine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any


class SteeredLoop(asyncio.SelectorEventLoop):
    """The usual loop, whose time goes on as ever and jumps when it is told to."""

    _ahead_s = 0.0

    def time(self) -> float:
        """Seconds, on the clock of :func:`time.monotonic` and what it was put forward."""
        return super().time() + self._ahead_s

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """As uvloop, which the server runs in, has it: what is due already is no timer."""
        if when <= self.time():
            return self.call_soon(callback, *args, context=context)
        return super().call_at(when, callback, *args, context=context)

    def put_forward(self, seconds: float) -> None:
        """Let so much time have passed: whatever is due by then comes next."""
        self._ahead_s += seconds


async def pass_time(seconds: float) -> None:
    """Let so much time pass, in no time; returns when what was due by then has run.

    To be used where a test of a coroutine runs: its loop is a :class:`SteeredLoop`.
    """
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SteeredLoop), "only tests run in a loop that can be steered"
    loop.put_forward(seconds)
    # Due in the first turn; who waited for it goes on in the second, and who waited for that one in the third.
    for _ in range(3):
        await asyncio.sleep(0)
