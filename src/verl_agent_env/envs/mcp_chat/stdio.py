"""The stdio transport: a server process as the pair of streams that the SDK's client speaks through."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from mcp.shared.message import SessionMessage
from mcp.types import jsonrpc_message_adapter

from verl_agent_env.envs.mcp_chat.definition import ServerDefinition
from verl_agent_env.envs.mcp_chat.processes import LauncherClient, ServerProcess

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

logger = logging.getLogger("verl_agent_env.mcp")

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""A server whose message is longer is ended."""

_TAIL_BYTES = 4_096
_DRAIN_S = 0.2
_FLUSH_S = 0.5


class StandardError(asyncio.Protocol):
    """Reads what a server says on standard error: keeps the end of it, logs lines on request."""

    def __init__(self, definition: ServerDefinition) -> None:
        self._definition = definition
        self._kept = b""
        self._line = b""

    def data_received(self, data: bytes) -> None:
        self._kept = (self._kept + data)[-_TAIL_BYTES:]
        if self._definition.log_stderr:
            *lines, self._line = (self._line + data).split(b"\n")
            # A line without end is cut: it would be kept as a whole.
            self._line = self._line[-_TAIL_BYTES:]
            for line in lines:
                said = self._definition.redactor.hide(line.decode("utf-8", "replace"))
                logger.info("%s", said, extra={"mcp_server": self._definition.name})

    def tail(self) -> str:
        """The end of what it said, secrets taken out."""
        kept = self._kept
        if len(kept) == _TAIL_BYTES:
            # The first line is cut: what is left of a secret in it would no longer look like one.
            kept = kept.partition(b"\n")[2]
        return self._definition.redactor.hide(kept.decode("utf-8", "replace")).strip()


@asynccontextmanager
async def stdio_transport(
    definition: ServerDefinition,
    launcher: Callable[[], LauncherClient],
    errors: StandardError,
    on_end: Callable[[], None],
    grace_s: Callable[[], float],
) -> AsyncGenerator[TransportStreams, None]:
    """Run the server as long as the context lasts.

    Args:
        definition: Its command.
        launcher: Gives what runs it.
        errors: Reads its standard error.
        on_end: Called when it has ended, or cannot be spoken with any more.
        grace_s: Seconds that it gets to end by itself, asked for in the end.

    Raises:
        ServerStartError: It cannot be run.
    """
    argv = (definition.command or "", *definition.args)
    process = await launcher().start(argv, definition.env, definition.cwd)
    pipes = await _Pipes.connect(process, errors)
    process.exited.add_done_callback(pipes.end_soon)
    to_session, from_server = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    to_server, from_session = anyio.create_memory_object_stream[SessionMessage](0)
    flushed = anyio.Event()

    async def read() -> None:
        async with to_session:
            try:
                while line := await pipes.reader.readline():
                    message = _parse(line)
                    if message is not None:
                        await to_session.send(message)
            except (anyio.ClosedResourceError, anyio.BrokenResourceError):
                return
            except (ValueError, OSError):
                logger.warning("a message is too long", extra={"mcp_server": definition.name})
            finally:
                on_end()

    async def write() -> None:
        try:
            async with from_session:
                async for sent in from_session:
                    text = sent.message.model_dump_json(by_alias=True, exclude_unset=True)
                    pipes.writer.write(text.encode("utf-8", "replace") + b"\n")
                    await pipes.writer.drain()
        except OSError:
            on_end()
            await to_session.aclose()
        finally:
            flushed.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        tasks.start_soon(write)
        try:
            yield from_server, to_server
        finally:
            # Every wait in here has a limit, so that a cancelled caller leaves neither a process nor waits for one.
            with anyio.CancelScope(shield=True):
                from_server.close()
                to_server.close()
                with anyio.move_on_after(_FLUSH_S):
                    await flushed.wait()
                pipes.writer.close()
                await process.stop(grace_s())
                pipes.close()
                for stream in (from_server, to_server, to_session, from_session):
                    await stream.aclose()
            tasks.cancel_scope.cancel()


class _Input(asyncio.StreamReaderProtocol):
    """Knows whether the pipe that is written to is still there."""

    def __init__(self) -> None:
        super().__init__(asyncio.StreamReader())
        self.is_lost = False

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        super().connection_lost(exc)


class _Pipes:
    """The three pipes to a process, on the event loop."""

    def __init__(self) -> None:
        self.reader = asyncio.StreamReader(MAX_MESSAGE_BYTES)
        self.writer: asyncio.StreamWriter
        self._input = _Input()
        self._transports: list[asyncio.ReadTransport] = []

    @classmethod
    async def connect(cls, process: ServerProcess, errors: StandardError) -> _Pipes:
        loop = asyncio.get_running_loop()
        pipes = cls()
        into, out, err = (
            os.fdopen(descriptor, mode, 0)
            for descriptor, mode in ((process.stdin, "wb"), (process.stdout, "rb"), (process.stderr, "rb"))
        )
        writing, _ = await loop.connect_write_pipe(lambda: pipes._input, into)
        pipes.writer = asyncio.StreamWriter(writing, pipes._input, None, loop)
        output = asyncio.StreamReaderProtocol(pipes.reader)
        pipes._transports = [
            (await loop.connect_read_pipe(lambda: output, out))[0],
            (await loop.connect_read_pipe(lambda: errors, err))[0],
        ]
        return pipes

    def end_soon(self, _: object) -> None:
        """After what the process still had to say, take its output for ended: a process that it left may hold it."""
        asyncio.get_running_loop().call_later(_DRAIN_S, self.close)

    def close(self) -> None:
        """Close them all; closing twice does nothing."""
        if not self._input.is_lost:
            # Not close(): it would wait for a process that does not read.
            self.writer.transport.abort()
        for transport in self._transports:
            transport.close()


def _parse(line: bytes) -> SessionMessage | None:
    """A line as a message; ``None`` for a line that is none, which a server should not write but some do."""
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError:
        return None
