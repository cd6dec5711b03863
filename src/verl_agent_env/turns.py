"""A number of places that callers use in turns: who asks for many of them holds up nobody who asks for one."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import Context, ContextVar, copy_context
from typing import Generic, NamedTuple, TypeVar

from verl_agent_env import waits
from verl_agent_env.errors import AtCapacityError
from verl_agent_env.spans import note_wait
from verl_agent_env.types import tag_of

T = TypeVar("T")


class Tenant(NamedTuple):
    """Token and run on whose behalf something is done; tokens alternate with each other, and so do the runs of one token."""

    tag: str = ""
    """Of the token's holder; empty without one."""
    run_id: str = ""
    """Of the environments; empty for those without a run."""


NOBODY = Tenant()
"""On whose behalf things are done that nobody asked for, or somebody without a token and a run."""

current_tenant: ContextVar[Tenant] = ContextVar("tenant", default=NOBODY)
"""On whose behalf the running task works."""


def tenant_of(env_id: str, run_id: str | None) -> Tenant:
    """Return on whose behalf something is done with an environment."""
    return Tenant(tag_of(env_id), run_id or "")


class TenantQueue(Generic[T]):
    """Queue from which tokens are served in turn, and the runs of each token in turn; within a run, first come, first served."""

    def __init__(self) -> None:
        """A queue in which nothing waits."""
        self._tokens: dict[str, dict[str, deque[T]]] = {}

    def __bool__(self) -> bool:
        return bool(self._tokens)

    def put(self, tenant: Tenant, item: T) -> None:
        """Have ``item`` wait behind all others of the same run."""
        self._tokens.setdefault(tenant.tag, {}).setdefault(tenant.run_id, deque()).append(item)

    def pop(self) -> T:
        """Take what is next, where something waits; its run, and its token, are then the last in turn."""
        tag, runs = next(iter(self._tokens.items()))
        run_id, items = next(iter(runs.items()))
        item = items.popleft()
        # What is put back into a dict is behind all others.
        del runs[run_id], self._tokens[tag]
        if items:
            runs[run_id] = items
        if runs:
            self._tokens[tag] = runs
        return item


class Caller:
    """Caller whose calls alternate with those of other callers, and follow each other among themselves."""

    __slots__ = ("is_queued", "patience_s", "places", "served_at", "tenant", "timer", "waiting")

    def __init__(self, patience_s: float | None = waits.PLACE_S) -> None:
        """A caller that waits for nothing yet.

        Args:
            patience_s: How long it waits while others have all the places; None for as long as it takes.
        """
        self.patience_s = patience_s
        self.tenant = current_tenant.get()
        """On whose behalf it calls."""
        self.places = 0
        """Places that it has."""
        self.served_at = 0.0
        """When it had a place last, or began to wait for one."""
        self.waiting: deque[asyncio.Future[None]] = deque()
        self.is_queued = False
        """Whether it is among those that a place is given to."""
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
    """Gives out places; as soon as one is free, to the next token, its next run, and there to the next caller."""

    def __init__(self, places: int, resource: str) -> None:
        """Make a number of free places.

        Args:
            places: How many there are.
            resource: What they are called in the error of who waited in vain.
        """
        self._places = places
        self._free = places
        self._resource = resource
        self._waiting: TenantQueue[Caller] = TenantQueue()

    @asynccontextmanager
    async def place(self, caller: Caller | None = None) -> AsyncIterator[None]:
        """Hold a place, of the ``caller`` or else of the running task's.

        Raises:
            AtCapacityError: Others have had all of them for the whole patience of the caller.
        """
        caller = await self.take(caller)
        try:
            yield
        finally:
            self.give_back(caller)

    async def take(self, caller: Caller | None = None) -> Caller:
        """Take a place until :meth:`give_back`; returns the caller that holds it."""
        caller = caller or current_caller.get() or Caller()
        if self._free:
            self._free -= 1
            caller.places += 1
            return caller
        loop = asyncio.get_running_loop()
        granted: asyncio.Future[None] = loop.create_future()
        if not caller.waiting:
            caller.served_at = loop.time()
            self._enqueue(caller)
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
            following = self._waiting.pop()
            following.is_queued = False
            granted = self._next_of(following)
            if granted is not None:
                following.places += 1
                following.served_at = caller.served_at
                granted.set_result(None)
                return
        self._free += 1

    def _enqueue(self, caller: Caller) -> None:
        if not caller.is_queued:
            caller.is_queued = True
            self._waiting.put(caller.tenant, caller)

    def _next_of(self, caller: Caller) -> asyncio.Future[None] | None:
        """Take the caller's next call, which uses up the caller's turn."""
        while caller.waiting:
            granted = caller.waiting.popleft()
            if not granted.done():
                if caller.waiting:
                    self._enqueue(caller)
                else:
                    _forget(caller)
                return granted
        _forget(caller)
        return None

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
        _forget(caller)
        while caller.waiting:
            granted = caller.waiting.popleft()
            if not granted.done():
                granted.set_exception(AtCapacityError(self._resource, self._places))


def _forget(caller: Caller) -> None:
    """Wait no longer for the caller's patience to end: none of its calls waits."""
    if caller.timer is not None:
        caller.timer.cancel()
        caller.timer = None
