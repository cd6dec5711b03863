"""Divides the event loop's time among long works: each goes on for one slice at a time, in its turn."""

from __future__ import annotations

import asyncio

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

    def _grant(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._waiting:
            granted = self._waiting.pop()
            if not granted.done():
                granted.set_result(None)
                # The work runs in the next round of the loop, and what comes here in the one after that.
                loop.call_soon(loop.call_soon, self._grant, loop)
                return
        self._is_granting = False
