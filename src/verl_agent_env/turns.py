"""A number of places that callers use in turns: who asks for many of them holds up nobody who asks for one."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import Context, ContextVar, copy_context

from verl_agent_env import waits
from verl_agent_env.errors import AtCapacityError
from verl_agent_env.spans import note_wait


class Caller:
    """Caller whose calls alternate with those of other callers, and follow each other among themselves."""

    __slots__ = ("patience_s", "places", "served_at", "timer", "waiting")

    def __init__(self, patience_s: float | None = waits.PLACE_S) -> None:
        """A caller that waits for nothing yet.

        Args:
            patience_s: How long it waits while others have all the places; None for as long as it takes.
        """
        self.patience_s = patience_s
        self.places = 0
        """Places that it has."""
        self.served_at = 0.0
        """When it had a place last, or began to wait for one."""
        self.waiting: deque[asyncio.Future[None]] = deque()
        self.timer: asyncio.TimerHandle | None = None


current_caller: ContextVar[Caller | None] = ContextVar("caller", default=None)
"""On whose behalf the running task waits; None makes each call a caller of its own."""


current_limit: ContextVar[asyncio.Timeout | None] = ContextVar("limit", default=None)
"""Time limit of the running call's own computation; None if it has none."""


@contextmanager
def limit_paused() -> Iterator[None]:
    """Stop the clock of the running call's time limit while it waits for others."""
    limit = current_limit.get()
    due = None if limit is None else limit.when()
    if limit is None or due is None:
        yield
        return
    loop = asyncio.get_running_loop()
    begun = loop.time()
    limit.reschedule(None)
    try:
        yield
    finally:
        limit.reschedule(due + loop.time() - begun)


def patiently() -> Context:
    """A context like this one in which tasks wait for places as long as it takes: nobody waits for them."""
    context = copy_context()
    context.run(current_caller.set, Caller(patience_s=None))
    return context


class Turns:
    """Gives out places; as soon as one is free, to the caller that has waited longest since its last turn."""

    def __init__(self, places: int, resource: str) -> None:
        """Make a number of free places.

        Args:
            places: How many there are.
            resource: What they are called in the error of who waited in vain.
        """
        self._places = places
        self._free = places
        self._resource = resource
        self._waiting: OrderedDict[Caller, None] = OrderedDict()

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold a place.

        Raises:
            AtCapacityError: Others have had all of them for the whole patience of the caller.
        """
        caller = await self.take()
        try:
            yield
        finally:
            self.give_back(caller)

    async def take(self) -> Caller:
        """Take a place until :meth:`give_back`; returns the caller that holds it."""
        caller = current_caller.get() or Caller()
        if self._free:
            self._free -= 1
            caller.places += 1
            return caller
        loop = asyncio.get_running_loop()
        granted: asyncio.Future[None] = loop.create_future()
        if not caller.waiting:
            caller.served_at = loop.time()
            self._waiting[caller] = None
            self._look_later(caller)
        caller.waiting.append(granted)
        began = time.perf_counter()
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled() and granted.exception() is None:
                self.give_back(caller)
            raise
        note_wait("queued", began, self._resource)
        return caller

    def give_back(self, caller: Caller) -> None:
        """Free a place of the caller for whoever is next."""
        caller.places -= 1
        caller.served_at = asyncio.get_running_loop().time()
        while self._waiting:
            following = next(iter(self._waiting))
            granted = self._next_of(following)
            if granted is not None:
                following.places += 1
                following.served_at = caller.served_at
                granted.set_result(None)
                return
        self._free += 1

    def _next_of(self, caller: Caller) -> asyncio.Future[None] | None:
        """Take the caller's next call, which uses up the caller's turn."""
        while caller.waiting:
            granted = caller.waiting.popleft()
            if not granted.done():
                if caller.waiting:
                    self._waiting.move_to_end(caller)
                else:
                    self._forget(caller)
                return granted
        self._forget(caller)
        return None

    def _forget(self, caller: Caller) -> None:
        self._waiting.pop(caller, None)
        if caller.timer is not None:
            caller.timer.cancel()
            caller.timer = None

    def _look_later(self, caller: Caller) -> None:
        if caller.patience_s is not None:
            at = caller.served_at + caller.patience_s
            caller.timer = asyncio.get_running_loop().call_at(at, self._look, caller, caller.patience_s)

    def _look(self, caller: Caller, patience_s: float) -> None:
        """Send the caller's calls away if others have had all places for so long."""
        now = asyncio.get_running_loop().time()
        if caller.places:
            # Its own calls have them.
            caller.served_at = now
        if now < caller.served_at + patience_s:
            self._look_later(caller)
            return
        self._forget(caller)
        while caller.waiting:
            granted = caller.waiting.popleft()
            if not granted.done():
                granted.set_exception(AtCapacityError(self._resource, self._places))
