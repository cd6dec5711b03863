"""A keep-alive HTTP client that costs little: for measuring servers, not for use.

It sends requests that were written beforehand and reads as much as ``Content-Length`` says.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson


def post(path: str, body: bytes, key: str = "") -> bytes:
    """A whole POST request, with an ``Idempotency-Key`` if one is given."""
    more = f"Idempotency-Key: {key}\r\n" if key else ""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


class Connection(asyncio.Protocol):
    """One connection with one request outstanding."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._transport: asyncio.WriteTransport | None = None
        self._buffer = bytearray()
        self._needed = -1
        self._waiter: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(exc or ConnectionResetError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._needed < 0:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._buffer[:end]).lower()
            length = head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]
            self._needed = end + 4 + int(length)
        if len(self._buffer) >= self._needed and self._waiter is not None:
            answer, self._buffer, self._needed = bytes(self._buffer), bytearray(), -1
            waiter, self._waiter = self._waiter, None
            waiter.set_result(answer)

    async def open(self) -> asyncio.WriteTransport:
        """Connect to the server, on the loopback."""
        self._buffer, self._needed = bytearray(), -1
        transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: self, "127.0.0.1", self._port
        )
        return transport

    async def send(self, request: bytes) -> bytes:
        """The whole answer to ``request``, head and body.

        A connection that the server has closed, as it does to those that are idle for long, is opened again.

        Raises:
            ConnectionResetError: The server closes it before it has answered.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            transport = await self.open()
        self._waiter = asyncio.get_running_loop().create_future()
        transport.write(request)
        return await self._waiter

    async def call(self, path: str, document: Any) -> Any:
        """The JSON answer to a JSON body.

        Raises:
            RuntimeError: The status is not 200.
        """
        answer = await self.send(post(path, orjson.dumps(document)))
        head, _, body = answer.partition(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n", 1)[0]:
            raise RuntimeError(body[:500].decode())
        return orjson.loads(body)

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()


async def connect(port: int) -> Connection:
    """A connection to a server on the loopback."""
    connection = Connection(port)
    await connection.open()
    return connection
