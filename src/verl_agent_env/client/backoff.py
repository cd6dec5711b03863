"""How long a call is tried again, and with what pauses."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from verl_agent_env.errors import AtCapacityError, InternalError, RunQuotaExceededError, VerlAgentEnvError

T = TypeVar("T")

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0


class Backoff:
    """The pauses of one call, which grow, until its deadline."""

    __slots__ = ("_pause_s", "deadline")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        """On the clock of :func:`time.monotonic`."""
        self._pause_s = _FIRST_PAUSE_S

    async def pause_after(self, error: VerlAgentEnvError) -> None:
        """Wait before the next attempt.

        Raises:
            VerlAgentEnvError: ``error`` itself, if another attempt does not help, or would come too late.
        """
        if not error.retryable:
            raise error
        # Of ten thousand that failed together, not all come back together.
        pause_s = self._pause_s * random.uniform(0.5, 1.0)
        if isinstance(error, AtCapacityError | RunQuotaExceededError):
            pause_s = max(pause_s, error.retry_after_s * random.uniform(1.0, 1.2))
        if time.monotonic() + pause_s > self.deadline:
            raise error
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        await asyncio.sleep(pause_s)


async def retry(attempt: Callable[[int], Awaitable[T]], deadline: float) -> T:
    """What ``attempt`` gives (it is told how many came before), tried until the deadline.

    Raises:
        VerlAgentEnvError: Of the last attempt.
    """
    backoff, number = Backoff(deadline), 0
    while True:
        try:
            return await attempt(number)
        except VerlAgentEnvError as error:
            await backoff.pause_after(error)
        number += 1


def is_undecided(error: BaseException) -> bool:
    """Whether a call that failed like this may have been carried out all the same."""
    if isinstance(error, VerlAgentEnvError):
        return error.retryable or isinstance(error, InternalError)
    return True
