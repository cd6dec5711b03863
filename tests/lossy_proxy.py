"""A TCP proxy that loses, delays or swallows what it should carry, as networks, proxies and dying servers do."""

from __future__ import annotations

import asyncio
import random
from types import TracebackType
from typing import Self

_CHUNK_BYTES = 1 << 16


class LossyProxy:
    """Carries bytes to a server and back; by the rates it is given, it cuts connections instead."""

    def __init__(self, port: int, *, lose_requests: float = 0.0, lose_answers: float = 0.0) -> None:
        """A proxy that does not listen yet.

        Args:
            port: Of the server, on the loopback.
            lose_requests: Share of the chunks from the client at which the connection is cut: nothing arrives.
            lose_answers: Share of the chunks from the server at which it is cut: what was asked is done, and unknown.
        """
        self.lose_requests = lose_requests
        self.lose_answers = lose_answers
        self.lost_requests = 0
        self.lost_answers = 0
        self.delay_s = 0.0
        """How long each chunk takes."""
        self.connections = 0
        """Open at present."""
        self.most_connections = 0
        self._port = port
        self._random = random.Random(11)
        self._tasks: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._server: asyncio.Server | None = None
        self._closed = False

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    def freeze(self) -> None:
        """Carry nothing any more, and close nothing: connections are open, and nobody is at the other end."""
        self._flows.clear()

    def thaw(self) -> None:
        """Carry again, what was held back as well."""
        self._flows.set()

    def cut(self) -> None:
        """Break all connections that there are."""
        for task in self._tasks:
            task.cancel()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._closed = True
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Begin to carry for a client.

        A coroutine here would run in a task of the stream's, and one that is cancelled before its first step closes
        nothing: the connection would stay open.
        """
        if self._closed:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._end(task, writer))
        self.connections += 1
        self.most_connections = max(self.most_connections, self.connections)

    def _end(self, task: asyncio.Task[None], writer: asyncio.StreamWriter) -> None:
        self._tasks.discard(task)
        self.connections -= 1
        writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answers, upstream = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return
        there = asyncio.ensure_future(self._carry(reader, upstream, is_answer=False))
        back = asyncio.ensure_future(self._carry(answers, writer, is_answer=True))
        try:
            await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # At once: whoever cancels this task a second time would keep it from what stands after an await.
            upstream.transport.abort()
            there.cancel()
            back.cancel()
            await asyncio.gather(there, back, return_exceptions=True)

    async def _carry(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, is_answer: bool
    ) -> None:
        """Carry until one side ends, or the dice say so."""
        while chunk := await source.read(_CHUNK_BYTES):
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            await self._flows.wait()
            if is_answer and self._random.random() < self.lose_answers:
                self.lost_answers += 1
                # Half an answer is worse than none: it must not be taken for a whole one.
                target.write(chunk[: len(chunk) // 2])
                await target.drain()
                return
            if not is_answer and self._random.random() < self.lose_requests:
                self.lost_requests += 1
                return
            target.write(chunk)
            await target.drain()
