"""Divides the event loop's time among long works: each goes on for one slice at a time, in its turn."""

from __future__ import annotations

import asyncio
import time

from verl_agent_env.turns import TenantQueue, current_tenant


class Slices:
    """Lets one work at a time go on, and everything else that is ready in between.

    If each work merely yielded to the loop, all of them would run a slice before anybody else's turn came: the more
    batches were under way, the longer would a single step wait. So between two slices, of whatever works, the loop comes
    round once. Slices are given to tokens in turn, and to the runs of each: who has twenty batches under way does not slow
    another's down more than who has one.
    """

    def __init__(self) -> None:
        self._waiting: TenantQueue[asyncio.Future[None]] = TenantQueue()
        self._is_granting = False

    async def turn(self) -> None:
        """Return when it is the turn of this work, which is its tenant's (:data:`~verl_agent_env.turns.current_tenant`)."""
        loop = asyncio.get_running_loop()
        granted: asyncio.Future[None] = loop.create_future()
        self._waiting.put(current_tenant.get(), granted)
        if not self._is_granting:
            self._is_granting = True
            loop.call_soon(self._grant, loop)
        await granted

    def pace(self, yield_after_s: float) -> Pace:
        """Begin a work of many parts that has a slice at present."""
        return Pace(self, yield_after_s)

    def _grant(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._waiting:
            granted = self._waiting.pop()
            if not granted.done():
                granted.set_result(None)
                # The work runs in the next round of the loop, and what comes here in the one after that.
                loop.call_soon(loop.call_soon, self._grant, loop)
                return
        self._is_granting = False


class Pace:
    """Work of many parts, which goes on for one slice and then waits for its turn."""

    __slots__ = ("_end", "_slices", "_yield_after_s")

    def __init__(self, slices: Slices, yield_after_s: float) -> None:
        """Begin the first slice.

        Args:
            slices: Where it waits.
            yield_after_s: How long a slice is.
        """
        self._slices = slices
        self._yield_after_s = yield_after_s
        self._end = time.perf_counter() + yield_after_s

    async def keep(self) -> None:
        """Wait for the next turn, between two parts, if the slice is over."""
        if time.perf_counter() > self._end:
            await self._slices.turn()
            self._end = time.perf_counter() + self._yield_after_s
