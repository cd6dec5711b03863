"""How long a call looks for the worker that owns a slot, while slots change hands."""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass

from verl_agent_env.errors import (
    MovedError,
    ShuttingDownError,
    StoreUnavailableError,
    VerlAgentEnvError,
    WorkerUnreachableError,
)

PATIENCE_S = 5.0
"""How long a call looks for an owner; time that a worker was at work on it does not count."""
PAUSE_S = 0.05
"""Until it looks again, if nothing changes before."""
_LONGEST_S = 600.0
"""However long workers were at work on a call, it is not sent again after this time."""


@dataclass(frozen=True, slots=True)
class OwnerSearch:
    """The time that is left, on the event loop's clock."""

    until: float
    never_after: float
    sent_at: float = 0.0

    @classmethod
    def begin(cls) -> OwnerSearch:
        """Begin to look for the owner of a call's slots."""
        now = _now()
        return cls(now + PATIENCE_S, now + _LONGEST_S)

    def sent(self) -> OwnerSearch:
        """Note that the call is sent to a worker now."""
        return dataclasses.replace(self, sent_at=_now())

    def after(self, error: VerlAgentEnvError) -> OwnerSearch:
        """Go on after the call that was sent last failed with ``error``.

        Where a worker had the call, until it died or lost the slot, that time was not spent on looking.
        """
        was_at_work = isinstance(error, MovedError | ShuttingDownError) or (
            isinstance(error, WorkerUnreachableError) and error.may_have_run
        )
        return dataclasses.replace(self, until=self.until + _now() - self.sent_at) if was_at_work else self

    @property
    def is_over(self) -> bool:
        """Whether the call is not sent again."""
        return _now() > min(self.until, self.never_after)


def _now() -> float:
    return asyncio.get_running_loop().time()


def no_owner_error() -> StoreUnavailableError:
    """The error of a call for which no owner was found."""
    return StoreUnavailableError("", "no worker owns the slot at present")
