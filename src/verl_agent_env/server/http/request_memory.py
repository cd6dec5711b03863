"""One account of the memory that large requests take: their bodies, what is made of them, and their answers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from verl_agent_env import waits
from verl_agent_env.errors import AtCapacityError
from verl_agent_env.turns import Tenant, TenantQueue
from verl_agent_env.wire.codec import MAX_BYTES_AT_ONCE, count_sign

UNCOUNTED_BYTES = 65_536
"""A body or an answer up to this size is not counted: nearly every one is much shorter."""
_BODY_PART = 3
"""One in so many bytes is for bodies, the others for what is made of them."""
_PARSER_COPIES = 4
"""What orjson takes to parse a text, and what it makes of it, in multiples of the text."""
_OBJECT_BYTES = {ord("{"): 232, ord("["): 88, ord(","): 64}
"""About what a value takes in CPython, by the sign that announces it."""
_COUNTED_BYTES = 1024 * 1024
"""Values are counted in so much of a body, and taken to be as many in the rest: counting all of it would take long."""
_LARGE_BYTES = 32 * 1024 * 1024
"""From so many bytes on it is worth giving memory back to the system afterwards."""
_HOLDER_PART = 4
"""The bodies of one token's holder take so many times what is free at most: there is always room for others' bodies."""
_RESOURCE = "memory for requests"


class RequestMemory:
    """Counts the bytes of large requests; whoever would be too much waits, or is told to come back."""

    def __init__(
        self, max_bytes: int, max_body_bytes: int, on_idle: Callable[[], None] = lambda: None
    ) -> None:
        """Nothing is under way.

        Args:
            max_bytes: Of all requests together.
            max_body_bytes: Of one body, for which there is room in any case.
            on_idle: Called when they took much, and nothing any more.
        """
        self._max_received = max(max_bytes // _BODY_PART, max_body_bytes)
        self._max_bytes = max(max_bytes, self._max_received)
        self._on_idle = on_idle
        self._received = 0
        self._used = 0
        """Bytes of all kinds, received ones included."""
        self._most = 0
        """The most that they were since nothing was used."""
        self._received_of: Counter[str] = Counter()
        """Bytes of bodies by the tag of the token's holder."""
        self._waiting: TenantQueue[_Waiting] = TenantQueue()
        self._next: _Waiting | None = None
        """Whose turn it is, as soon as there is room."""

    @property
    def used(self) -> int:
        """Bytes that requests take at present."""
        return self._used

    def share(self) -> Share:
        """Begin to count what one request takes, until it is answered."""
        return Share(self)

    def receive(self, size: int, received: int = 0, tag: str = "") -> None:
        """Count bytes of a body.

        Args:
            size: How many.
            received: Those of the same body that were counted before.
            tag: Of the token's holder; those of many tokens leave room for each other.

        Raises:
            AtCapacityError: They are too many, with those of others, or with the holder's other bodies.
        """
        free = self._max_received - self._received - size
        others = self._received_of[tag] - received if tag else 0
        if (
            free < 0
            or self._used + size > self._max_bytes
            or (others and others + received + size > _HOLDER_PART * free)
        ):
            raise AtCapacityError(_RESOURCE, self._max_received)
        self._received += size
        self._used += size
        if tag:
            self._received_of[tag] += size

    def use(self, size: int) -> None:
        """Count bytes that are there already: they cannot be refused."""
        self._used += size

    def free(self, size: int, received: int = 0, tag: str = "") -> None:
        """Count bytes no more, ``received`` of them of a body of this holder."""
        self._most = max(self._most, self._used)
        self._received -= received
        if received and tag:
            self._received_of[tag] -= received
            if not self._received_of[tag]:
                del self._received_of[tag]
        self._used -= size
        self._grant()
        if self._used == 0:
            if self._most > _LARGE_BYTES:
                self._on_idle()
            self._most = 0

    def require(self) -> None:
        """Raise when requests take all that there is.

        Raises:
            AtCapacityError: They do.
        """
        if self._used >= self._max_bytes:
            raise AtCapacityError(_RESOURCE, self._max_bytes)

    async def take(self, size: int, tag: str = "") -> int:
        """Wait until there are so many bytes, or all that bodies leave; the holders of tokens are served in turn.

        Args:
            size: How many bytes.
            tag: Of the token's holder.

        Returns:
            How many were taken.

        Raises:
            AtCapacityError: Others have held them for too long.
        """
        size = min(size, self._max_bytes - self._max_received)
        if self._next is None and self._used + size <= self._max_bytes:
            self._used += size
            return size
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.put(Tenant(tag), _Waiting(size, granted))
        self._grant()
        try:
            async with asyncio.timeout(waits.PLACE_S):
                await granted
        except BaseException as left:
            if granted.done() and not granted.cancelled():
                self._used -= size
            self._grant()
            if isinstance(left, TimeoutError):
                raise AtCapacityError(_RESOURCE, self._max_bytes) from None
            raise
        return size

    def _grant(self) -> None:
        while self._next is not None or self._waiting:
            self._next = self._next or self._waiting.pop()
            size, granted = self._next
            if not granted.done():
                if self._used + size > self._max_bytes:
                    # Nobody passes by: a large one would wait for ever.
                    return
                self._used += size
                granted.set_result(None)
            self._next = None


class _Waiting(NamedTuple):
    """Request for which there is no room yet."""

    size: int
    granted: asyncio.Future[None]


class Share:
    """Memory that one request is charged for."""

    # Every request that does not take the fast path has one.
    __slots__ = ("_memory", "_received", "_used", "tag")

    def __init__(self, memory: RequestMemory) -> None:
        self._memory = memory
        self.tag = ""
        """Of the token's holder whose request it is."""
        self._received = 0
        self._used = 0

    def receive(self, size: int) -> None:
        """Count bytes of the body that have arrived.

        Raises:
            AtCapacityError: They are too many, with those of others.
        """
        self._memory.receive(size, self._received, self.tag)
        self._received += size

    @asynccontextmanager
    async def working_on(self, body: bytes, *, waits_for_room: bool = True) -> AsyncIterator[None]:
        """Hold what it takes to work on a body; one that takes all there is gets it alone.

        Args:
            body: The body.
            waits_for_room: Whether it may be made to wait; else it is counted all the same.

        Raises:
            AtCapacityError: Others have held it for too long.
        """
        size = size_of(body)
        if waits_for_room:
            size = await self._memory.take(size, self.tag)
        else:
            self._memory.use(size)
        try:
            yield
        finally:
            self._memory.free(size)

    def require(self) -> None:
        """Raise when there is no room for more of an answer.

        Raises:
            AtCapacityError: Requests take all that there is.
        """
        self._memory.require()

    def answer(self, size: int) -> None:
        """Count bytes of the answer, which are there already."""
        self._memory.use(size)
        self._used += size

    def free_body(self) -> None:
        """Count the body no more."""
        if self._received:
            received, self._received = self._received, 0
            self._memory.free(received, received, self.tag)

    def close(self) -> None:
        """Count nothing of this request any more."""
        self.free_body()
        if self._used:
            used, self._used = self._used, 0
            self._memory.free(used)


def size_of(body: bytes) -> int:
    """About how many bytes it takes to work on a body, besides its own."""
    counted = min(len(body), _COUNTED_BYTES)
    objects = sum(size * count_sign(body, sign, 0, counted) for sign, size in _OBJECT_BYTES.items())
    return _PARSER_COPIES * min(len(body), MAX_BYTES_AT_ONCE) + objects * len(body) // max(counted, 1)
