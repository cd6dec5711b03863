"""Limits how long a call looks for the worker that owns a slot, while slots change hands."""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass

from verl_agent_env import waits
from verl_agent_env.errors import (
    MovedError,
    SequenceGapError,
    ShuttingDownError,
    StoreFullError,
    StoreUnavailableError,
    VerlAgentEnvError,
    WorkerUnreachableError,
)

PAUSE_S = 0.05
"""Until it looks again, if nothing changes before."""
LONG_PAUSE_S = 1.0
"""The same where no worker can be asked: thousands of calls may wait for a slot that changes hands."""
_LONGEST_S = 600.0
"""However long workers were at work on a call, it is not sent again after this time."""


_PASSING = (StoreUnavailableError, WorkerUnreachableError, MovedError, ShuttingDownError)
"""Errors of calls that may succeed with the next owner; who shuts down gives its environments away."""


@dataclass(frozen=True, slots=True)
class OwnerSearch:
    """The time that is left, on the event loop's clock."""

    until: float
    never_after: float
    silence_left_s: float
    """How long workers may still be silent while they have the call, without that counting as looking."""
    sent_at: float = 0.0
    has_moved: bool = False
    """Whether a worker had the call, and died or lost the slot. What waited there before the call is on its way as well."""

    @classmethod
    def begin(cls, *, has_moved: bool = False) -> OwnerSearch:
        """Begin to look for the owner of a call's slots."""
        now = _loop_time()
        return cls(now + waits.OWNER_S, now + _LONGEST_S, waits.PEER_SILENCE_S, has_moved=has_moved)

    def sent(self) -> OwnerSearch:
        """Note that the call is sent to a worker now."""
        return dataclasses.replace(self, sent_at=_loop_time())

    def after(self, error: VerlAgentEnvError, heard_at: float | None = None) -> OwnerSearch:
        """Go on after the call that was sent last failed with ``error``.

        Where a worker had the call, until it died or lost the slot, that time was not spent on looking. Of a worker that
        fell silent it is known only until it was heard of last.

        Args:
            error: Why nothing came of it.
            heard_at: When the worker was heard of last.
        """
        now, silent_s = _loop_time(), 0.0
        if isinstance(error, WorkerUnreachableError) and error.may_have_run:
            heard_at = self.sent_at if heard_at is None else min(max(heard_at, self.sent_at), now)
            silent_s = min(now - heard_at, self.silence_left_s)
            at_work_s = heard_at - self.sent_at + silent_s
        elif isinstance(error, MovedError | ShuttingDownError):
            at_work_s = now - self.sent_at
        else:
            return self
        return dataclasses.replace(
            self,
            until=self.until + at_work_s,
            silence_left_s=self.silence_left_s - silent_s,
            has_moved=True,
        )

    def may_pass(self, error: VerlAgentEnvError) -> bool:
        """Tell whether the call may succeed when it is sent again.

        Steps that waited for each other at the last owner come to the next one in any order: what is missing before a step
        that moved is on its way as well.
        """
        if isinstance(error, SequenceGapError):
            return self.has_moved
        # A full store is not one that is back in a moment.
        return isinstance(error, _PASSING) and not isinstance(error, StoreFullError)

    @property
    def left_s(self) -> float:
        """Seconds in which the call is sent again."""
        return min(self.until, self.never_after) - _loop_time()

    @property
    def is_over(self) -> bool:
        """True if the call is not sent again."""
        return self.left_s < 0


def _loop_time() -> float:
    return asyncio.get_running_loop().time()
