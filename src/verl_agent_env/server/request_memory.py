"""What all large requests together may take of a worker's memory: their bodies, and what is made of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from verl_agent_env import waits
from verl_agent_env.errors import AtCapacityError
from verl_agent_env.wire.codec import SMALL_BYTES, count_values

UNCOUNTED_BYTES = 65_536
"""A body up to this size is not counted: nearly every one is much shorter."""
_BODY_PART = 3
"""One in so many bytes is for bodies, the others for what is made of them."""
_COPIES = 3
"""How often a body's bytes are there while it is worked on: as they came, cut into items, and on their way to others."""
_VALUE_BYTES = 80
_RESOURCE = "memory for requests"


class RequestMemory:
    """Counts bytes of large requests under way; who would be too much waits, or is told to come back."""

    def __init__(self, max_bytes: int, max_body_bytes: int) -> None:
        """Nothing is under way.

        Args:
            max_bytes: Of all of them together.
            max_body_bytes: Of one body, for which there is room in any case.
        """
        self._max_received = max(max_bytes // _BODY_PART, max_body_bytes)
        self._max_worked_on = max(0, max_bytes - self._max_received)
        self._received = 0
        self._worked_on = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def receiving(self) -> Arrival:
        """Begin to count the bytes of a body, while they arrive and until the request is answered."""
        return Arrival(self)

    def receive(self, size: int) -> None:
        """Count bytes that have arrived; see :meth:`Arrival.count`."""
        if self._received + size > self._max_received:
            raise AtCapacityError(_RESOURCE, self._max_received)
        self._received += size

    def drop(self, size: int) -> None:
        """Count bytes no more."""
        self._received -= size

    @asynccontextmanager
    async def room_for(self, body: bytes) -> AsyncIterator[None]:
        """Hold what it takes to work on a body; first come, first served. A body that takes all there is gets it alone.

        Raises:
            AtCapacityError: Others have held it for too long.
        """
        size = min(_size_of(body), self._max_worked_on)
        await self._take(size)
        try:
            yield
        finally:
            self._worked_on -= size
            self._grant()

    async def _take(self, size: int) -> None:
        if not self._waiting and self._worked_on + size <= self._max_worked_on:
            self._worked_on += size
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, granted))
        try:
            async with asyncio.timeout(waits.PLACE_S):
                await granted
        except BaseException as left:
            if granted.done() and not granted.cancelled():
                self._worked_on -= size
            self._grant()
            if isinstance(left, TimeoutError):
                raise AtCapacityError(_RESOURCE, self._max_worked_on) from None
            raise

    def _grant(self) -> None:
        while self._waiting:
            size, granted = self._waiting[0]
            if not granted.done():
                if self._worked_on + size > self._max_worked_on:
                    return
                self._worked_on += size
                granted.set_result(None)
            self._waiting.popleft()


class Arrival:
    """Bytes of one body; a context at whose end they are counted no more."""

    # Every request that goes the long way has one: a generator would cost three times as much.
    __slots__ = ("_memory", "_total")

    def __init__(self, memory: RequestMemory) -> None:
        self._memory = memory
        self._total = 0

    def __enter__(self) -> Callable[[int], None]:
        return self.count

    def __exit__(self, *_: object) -> None:
        self._memory.drop(self._total)

    def count(self, size: int) -> None:
        """Count some more.

        Raises:
            AtCapacityError: They are too many, with those of others.
        """
        self._memory.receive(size)
        self._total += size


def _size_of(body: bytes) -> int:
    """About how many bytes it takes to work on a body."""
    # What a long one holds is counted later, a piece at a time; it is bounded as well.
    values = count_values(body, 0, len(body)) if len(body) <= SMALL_BYTES else len(body) // _COPIES // 4
    return _COPIES * len(body) + _VALUE_BYTES * values
