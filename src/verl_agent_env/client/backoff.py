"""Retries with exponential backoff, jitter and a deadline."""

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
    """Growing pauses between the attempts of one call, until its deadline."""

    __slots__ = ("_pause_s", "deadline")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        """On the clock of :func:`time.monotonic`."""
        self._pause_s = _FIRST_PAUSE_S

    async def pause_after(self, error: VerlAgentEnvError) -> None:
        """Wait before the next attempt.

        Raises:
            VerlAgentEnvError: ``error`` itself, if it is not retryable or the deadline is too close.
        """
        if not error.retryable:
            raise error
        # Jitter: ten thousand calls that failed together must not retry together.
        pause_s = self._pause_s * random.uniform(0.5, 1.0)
        if isinstance(error, AtCapacityError | RunQuotaExceededError):
            pause_s = max(pause_s, error.retry_after_s * random.uniform(1.0, 1.2))
        if time.monotonic() + pause_s > self.deadline:
            raise error
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        await asyncio.sleep(pause_s)


async def retry(attempt: Callable[[int], Awaitable[T]], deadline: float) -> T:
    """Call ``attempt`` with its number, from 0, until it succeeds or the deadline is reached.

    Raises:
        VerlAgentEnvError: The error of the last attempt.
    """
    backoff, number = Backoff(deadline), 0
    while True:
        try:
            return await attempt(number)
        except VerlAgentEnvError as error:
            await backoff.pause_after(error)
        number += 1


def is_undecided(error: BaseException) -> bool:
    """Tell whether a call that failed with ``error`` may have been carried out nevertheless."""
    if isinstance(error, VerlAgentEnvError):
        return error.retryable or isinstance(error, InternalError)
    return True
