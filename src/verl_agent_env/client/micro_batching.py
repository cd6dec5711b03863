"""The micro-batcher: concurrent calls share requests.

The first call is sent at once. Calls that arrive while it is pending are sent together afterwards, so the size of batches
adapts to the load: a single call never waits, ten thousand share a few requests. A slow request does not block the
others: they wait at most ``max_delay_s`` for one pending request, twice as long for two, and so on.
"""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import Context, copy_context
from typing import Generic, Protocol, TypeVar

from verl_agent_env.client.errors import ClientClosedError
from verl_agent_env.errors import RequestError, UnauthorizedError, VerlAgentEnvError


class Item(Protocol):
    """A call that can be part of a batch."""

    sent: bool
    """True once it was sent, so that it may have been carried out."""
    retries: int
    """Number of times it was sent again."""


ItemT = TypeVar("ItemT", bound=Item)
ResultT = TypeVar("ResultT")

_Waiting = tuple[ItemT, "asyncio.Future[ResultT]", Context]
"""A call, its result, and the context that it was made in: the first of a batch gives the request its own."""

_MAX_FULL_BATCHES = 4
"""Number of full batches that may be pending before others wait."""


class MicroBatcher(Generic[ItemT, ResultT]):
    """Batches calls of one kind to one URL; belongs to the event loop in which it is used."""

    def __init__(
        self,
        send: Callable[[list[ItemT]], Awaitable[Sequence[ResultT | VerlAgentEnvError]]],
        *,
        max_batch: int,
        linger_s: float,
        max_delay_s: float,
        on_unclaimed: Callable[[ResultT], None] | None = None,
    ) -> None:
        """Create a batcher without calls.

        Args:
            send: Sends a batch; returns a result or an error for each item.
            max_batch: Largest number of items in a batch.
            linger_s: Seconds that the first item waits for others to join it.
            max_delay_s: Seconds that an item waits for a pending batch.
            on_unclaimed: Called with the result of an item whose caller was cancelled.
        """
        self._send = send
        self._max_batch = max_batch
        self._linger_s = linger_s
        self._max_delay_s = max_delay_s
        self._on_unclaimed = on_unclaimed
        self._waiting: deque[_Waiting[ItemT, ResultT]] = deque()
        self._under_way: set[asyncio.Task[None]] = set()
        self._timer: asyncio.Handle | None = None
        self._is_urgent = False
        self._closed = False

    def submit(self, item: ItemT) -> asyncio.Future[ResultT]:
        """Send ``item`` with others; if the future is cancelled before that, the item is never sent."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[ResultT] = loop.create_future()
        if self._closed:
            future.set_exception(ClientClosedError())
            return future
        self._waiting.append((item, future, copy_context()))
        if self._timer is None or (not self._is_urgent and self._may_send()):
            self._plan(loop)
        return future

    @property
    def is_idle(self) -> bool:
        """True if no call waits and no request is pending."""
        return not self._waiting and not self._under_way

    async def close(self) -> None:
        """Cancel pending requests and waiting calls."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        _give_up(self._waiting)
        self._waiting.clear()
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _may_send(self) -> bool:
        if not self._under_way:
            return True
        return len(self._waiting) >= self._max_batch and len(self._under_way) < _MAX_FULL_BATCHES

    def _plan(self, loop: asyncio.AbstractEventLoop) -> None:
        """Schedule the sending of the waiting calls."""
        if self._timer is not None:
            self._timer.cancel()
        self._is_urgent = self._may_send()
        if not self._is_urgent:
            self._timer = loop.call_later(self._max_delay_s * len(self._under_way), self._go)
        elif self._linger_s and len(self._waiting) < self._max_batch:
            self._timer = loop.call_later(self._linger_s, self._go)
        else:
            # Not here: calls of the same turn of the event loop still join.
            self._timer = loop.call_soon(self._go)

    def _go(self) -> None:
        self._timer, self._is_urgent = None, False
        loop = asyncio.get_running_loop()
        while True:
            batch = self._take()
            if not batch:
                return
            task = loop.create_task(self._carry_out(batch), context=batch[0][2])
            self._under_way.add(task)
            task.add_done_callback(self._done)
            if not self._may_send():
                break
        if self._waiting:
            self._plan(loop)

    def _take(self) -> list[_Waiting[ItemT, ResultT]]:
        batch: list[_Waiting[ItemT, ResultT]] = []
        while self._waiting and len(batch) < self._max_batch:
            item, future, context = self._waiting.popleft()
            if not future.done():
                item.sent = True
                batch.append((item, future, context))
        return batch

    def _done(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if self._waiting and not self._is_urgent:
            self._plan(task.get_loop())

    async def _carry_out(self, batch: list[_Waiting[ItemT, ResultT]]) -> None:
        results: Sequence[ResultT | BaseException]
        try:
            results = await self._send([item for item, _, _ in batch])
        except RequestError as refused:
            if len(batch) > 1 and not isinstance(refused, UnauthorizedError):
                # One item makes the request invalid, or there are too many of them: try the halves.
                middle = len(batch) // 2
                await asyncio.gather(self._carry_out(batch[:middle]), self._carry_out(batch[middle:]))
                return
            results = [refused] * len(batch)
        except asyncio.CancelledError:
            _give_up(batch)
            raise
        except Exception as failure:  # noqa: BLE001 - every caller gets the error
            results = [failure] * len(batch)
        for (_, future, _), result in zip(batch, results, strict=True):
            if isinstance(result, BaseException):
                if not future.done():
                    # A copy for each caller: an error that is raised in many places collects all their tracebacks.
                    future.set_exception(copy.copy(result))
            elif not future.done():
                future.set_result(result)
            elif self._on_unclaimed is not None:
                self._on_unclaimed(result)


def _give_up(batch: Iterable[_Waiting[ItemT, ResultT]]) -> None:
    for _, future, _ in batch:
        if not future.done():
            future.set_exception(ClientClosedError())
