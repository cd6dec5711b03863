"""A pipelined connection to Redis for the hot path: commands are sent at once, answers arrive in order.

A general client takes a connection from a pool, arms timers and creates tasks for each command, which costs ten times as
much as the exchange itself. Commits are few kinds of commands, many per second, from one place.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, cast

import hiredis
from redis.exceptions import AuthenticationError, BusyLoadingError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError


@dataclass(frozen=True)
class Endpoint:
    """Address of Redis, with the credentials."""

    host: str = "localhost"
    port: int = 6379
    path: str = ""
    """Path of a Unix socket, instead of host and port."""
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    db: int = 0
    tls: ssl.SSLContext | None = None


Send = Callable[[bytes], Awaitable[Any]]
"""Sends a packed command, and returns its answer."""


def pack(*command: Any) -> bytes:
    """Encode a command in Redis' protocol."""
    packed: bytes = hiredis.pack_command(cast("Any", command))
    return packed


class RedisPipe:
    """A connection that opens at its first use, and again after it broke."""

    def __init__(
        self,
        endpoint: Endpoint,
        connect_s: float,
        locate: Callable[[], Awaitable[tuple[str, int]]] | None = None,
        greet: Callable[[Send], Awaitable[None]] | None = None,
    ) -> None:
        """Create a pipe without a connection.

        Args:
            endpoint: Address to connect to.
            connect_s: Seconds until a connection must be established.
            locate: Finds host and port for each connection, if they are not those of the endpoint.
            greet: Says first what each connection begins with, if anything.
        """
        self._endpoint = endpoint
        self._connect_s = connect_s
        self._locate = locate
        self._greet = greet
        self._link: _Link | None = None
        self._connecting = asyncio.Lock()

    async def call(self, packed: bytes) -> Any:
        """Send a command that :func:`pack` encoded, and wait for its answer.

        Raises:
            redis.exceptions.ConnectionError: The connection broke; whether the command ran is unknown.
            redis.exceptions.ResponseError: Redis refused the command.
            OSError, TimeoutError: No connection could be opened.
        """
        link = self._link
        if link is None or link.is_lost:
            # Looked at here as well, because a coroutine costs more than the look.
            link = await self._connected()
        return await link.send(packed)

    async def call_and_wait(self, packed: bytes, replicas: int, timeout_s: float) -> tuple[Any, int]:
        """Send a command as :meth:`call` does, and wait until replicas have what it wrote.

        Args:
            packed: The command.
            replicas: How many to wait for.
            timeout_s: For how long at most.

        Returns:
            The answer, and how many replicas have it.
        """
        link = await self._connected()
        answer = link.send(packed)
        waited = link.send(pack("WAIT", replicas, max(1, round(timeout_s * 1000))))
        try:
            return await answer, int(await waited)
        finally:
            waited.cancel()

    def close(self) -> None:
        """Close the connection; pending commands fail."""
        if self._link is not None:
            self._link.close()
            self._link = None

    async def _connected(self) -> _Link:
        async with self._connecting:
            if self._link is None or self._link.is_lost:
                async with asyncio.timeout(self._connect_s):
                    self._link = await self._open()
            return self._link

    async def _open(self) -> _Link:
        loop, endpoint = asyncio.get_running_loop(), self._endpoint
        link: _Link
        if endpoint.path:
            _, link = await loop.create_unix_connection(_Link, endpoint.path)
        else:
            located = None if self._locate is None else await self._locate()
            host, port = located or (endpoint.host, endpoint.port)
            _, link = await loop.create_connection(_Link, host, port, ssl=endpoint.tls)
        try:
            if endpoint.password:
                credentials = filter(None, (endpoint.username, endpoint.password))
                await link.send(pack("AUTH", *credentials))
            if endpoint.db:
                await link.send(pack("SELECT", endpoint.db))
            if self._greet is not None:
                await self._greet(link.send)
        except BaseException:
            link.close()
            raise
        return link


class _Link(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self.is_lost = False
        self._reader = hiredis.Reader(encoding="utf-8", replyError=_error_of)
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # The transport of create_connection can write, but uvloop's is no subclass of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while True:
            try:
                answer = self._reader.gets()
            except hiredis.ProtocolError as malformed:
                self._fail(malformed)
                self.close()
                return
            if answer is False:
                return
            self._resolve(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._fail(exc)

    def send(self, packed: bytes) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._transport is None or self.is_lost:
            answer.set_exception(RedisConnectionError("the connection is closed"))
            return answer
        self._waiting.append(answer)
        self._transport.write(packed)
        return answer

    def close(self) -> None:
        self.is_lost = True
        if self._transport is not None:
            self._transport.abort()

    def _resolve(self, answer: Any) -> None:
        waiting = self._waiting.popleft()
        # The caller may have been cancelled.
        if waiting.done():
            return
        if isinstance(answer, Exception):
            waiting.set_exception(answer)
        else:
            waiting.set_result(answer)

    def _fail(self, cause: Exception | None) -> None:
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_exception(
                    RedisConnectionError(f"the connection broke: {cause or 'closed by Redis'}")
                )


def _error_of(text: str) -> Exception:
    """Return redis-py's exception for an error message."""
    known: dict[str, Callable[[str], Exception]] = {
        "NOSCRIPT": NoScriptError,
        "LOADING": BusyLoadingError,
        "WRONGPASS": AuthenticationError,
    }
    return known.get(text.partition(" ")[0], ResponseError)(text)
