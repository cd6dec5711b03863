"""Sees to it that a worker which has calls of this one under way is still there.

A call may take long, and its connection does not tell whether the other worker still runs: a network that is
cut, or a process that is stopped, closes none. So a worker that was not heard of while a call has lasted is asked for
a sign of life; if none comes, all its calls are given up together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from verl_agent_env import waits

# A call may begin right after one look, and lasts too long at the next but one.
ANSWER_S = waits.PEER_SILENCE_S - 2 * waits.PEER_LOOK_S
"""How long a sign of life may take that was asked for."""
_FORGOTTEN_S = 60.0
"""A worker that was not called for so long is not watched any more."""


class PeerWatch:
    """Watches one worker, as long as it has calls that last."""

    def __init__(self, ask: Callable[[], Awaitable[bool]]) -> None:
        """Make a watch that :meth:`run` carries out.

        Args:
            ask: Asks for a sign of life: whether one came. Raises nothing, and takes :data:`ANSWER_S` at most.
        """
        self.heard_at: float | None = None
        """When the worker was heard of last, on the event loop's clock."""
        self._ask = ask
        self._calls: dict[asyncio.Timeout, float] = {}
        self._used_at = _loop_time()

    @contextmanager
    def during(self, limit: asyncio.Timeout) -> Iterator[None]:
        """Let ``limit`` expire when the worker falls silent; a call that ends here without an error was a sign of life."""
        self._used_at = self._calls[limit] = _loop_time()
        try:
            yield
            self.heard_at = _loop_time()
        finally:
            del self._calls[limit]

    async def run(self) -> None:
        """Look at the worker now and then; return when it was not called for long."""
        while self._calls or _loop_time() - self._used_at < _FORGOTTEN_S:
            await asyncio.sleep(waits.PEER_LOOK_S)
            asked_at = _loop_time()
            if not self._lasting(asked_at):
                continue
            if await self._ask():
                self.heard_at = _loop_time()
            elif self.heard_at is None or self.heard_at < asked_at:
                for limit in self._lasting(asked_at):
                    # One that was given up already may still be at its end.
                    if limit.when() is None:
                        limit.reschedule(_loop_time())

    def _lasting(self, now: float) -> list[asyncio.Timeout]:
        """Calls that had begun one look earlier, if the worker was not heard of since."""
        if self.heard_at is not None and self.heard_at > now - waits.PEER_LOOK_S:
            return []
        return [limit for limit, began in self._calls.items() if began <= now - waits.PEER_LOOK_S]


def _loop_time() -> float:
    return asyncio.get_running_loop().time()
