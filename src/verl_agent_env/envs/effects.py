"""Recorded effects: the outcomes of an episode's calls to the outside, kept with the step that made them.

A model that is asked, a program that is run, a tool of another server: what it answers is no function of seed and actions.
An environment that makes each such call through :meth:`~verl_agent_env.envs.base.ChatEnv.outcome_of` can be replayed all the
same: the outcomes are written with the step, and a replay reads them and calls nobody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias, TypeVar

import orjson

Outcomes: TypeAlias = Mapping[str, Any]
"""Outcomes of one step or reset, as JSON values: by the number of the action's call, and how many calls to the outside that
had made before: ``1.0``. Those that belong to no call of the action have the number 0."""

T = TypeVar("T")

_call_number: ContextVar[int] = ContextVar("call_number", default=0)


class OutcomeMissingError(RuntimeError):
    """A replay calls the outside where the recorded step did not: the environment's code has changed."""


class Effects:
    """Calls to the outside of the step or the reset that is running."""

    __slots__ = ("_begun", "_given", "made")

    def __init__(self, given: Outcomes | None = None) -> None:
        """Begin a step.

        Args:
            given: Outcomes to give in place of calls; None makes the calls.
        """
        self._given = given
        self._begun: Counter[int] = Counter()
        self.made: dict[str, Any] = {}
        """Outcomes of the calls that were made."""

    @property
    def are_given(self) -> bool:
        """True in a replay: nothing outside may be called, prepared or waited for."""
        return self._given is not None

    async def outcome_of(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Make a call and keep its outcome; in a replay give the outcome that was kept.

        Raises:
            OutcomeMissingError: None was kept.
            TypeError: The outcome is not JSON.
        """
        key = self._next_key()
        if self._given is not None:
            kept: T = self._kept(key)
            return kept
        return self._keep(key, await call())

    def outcome_of_blocking(self, call: Callable[[], T]) -> T:
        """Make a call that blocks the thread, as :meth:`outcome_of`."""
        key = self._next_key()
        if self._given is not None:
            kept: T = self._kept(key)
            return kept
        return self._keep(key, call())

    def _next_key(self) -> str:
        # Calls of one action run concurrently: each counts for itself, so that a replay finds the same numbers.
        number = _call_number.get()
        self._begun[number] += 1
        return f"{number}.{self._begun[number] - 1}"

    def _keep(self, key: str, outcome: T) -> T:
        # As a replay will see it: a tuple comes back as a list.
        written: T = orjson.loads(orjson.dumps(outcome))
        self.made[key] = written
        return written

    def _kept(self, key: str) -> Any:
        if self._given is None or key not in self._given:
            raise OutcomeMissingError(f"the outcome {key} of a call to the outside was not recorded")
        return self._given[key]


@contextmanager
def carrying_out(number: int) -> Iterator[None]:
    """Count what is called meanwhile as made by the call of this number, from 1, of the action."""
    before = _call_number.set(number)
    try:
        yield
    finally:
        _call_number.reset(before)
