"""Until when calls wait for groups of writes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable

from verl_agent_env.engine.group_commit.groups import Group, OnEnd
from verl_agent_env.errors import VerlAgentEnvError

_LOOK_S = 0.05
"""Waiting calls are looked through at most so often."""


class Deadlines:
    """Lets calls go that have waited long enough for a group; one timer serves all of them."""

    def __init__(
        self,
        groups: Callable[[], Iterable[Group]],
        make_error: Callable[[], VerlAgentEnvError],
        on_wait: Callable[[], None],
    ) -> None:
        """Nobody waits yet.

        Args:
            groups: All groups that somebody may wait for.
            make_error: Says why a group has not ended.
            on_wait: Called when somebody begins to wait.
        """
        self._groups = groups
        self._make_error = make_error
        self._on_wait = on_wait
        self._timer: asyncio.Handle | None = None
        self._due = math.inf
        """When the timer is due."""

    def call_at_end(self, group: Group, deadline: float, on_end: OnEnd) -> None:
        """Have ``on_end`` called at the end of a group, or at the deadline, a time of the event loop's clock."""
        group.waiting.append((deadline, on_end))
        self._on_wait()
        if deadline < self._due:
            self._set_timer(deadline)

    def end_of(self, group: Group, deadline: float) -> asyncio.Future[None]:
        """Make a future that is done at the end of a group, and fails at the deadline."""
        end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_end(error: VerlAgentEnvError | None) -> None:
            if end.done():
                return
            if error is None:
                end.set_result(None)
            else:
                end.set_exception(error)

        self.call_at_end(group, deadline, on_end)
        return end

    def _set_timer(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = asyncio.get_running_loop().call_at(due, self._look)

    def _look(self) -> None:
        """Let those go whose deadline is over."""
        self._timer, self._due = None, math.inf
        now = asyncio.get_running_loop().time()
        due = min(
            (group.expire(now, self._make_error) for group in self._groups() if group.waiting),
            default=math.inf,
        )
        if due < math.inf:
            self._set_timer(max(due, now + _LOOK_S))
