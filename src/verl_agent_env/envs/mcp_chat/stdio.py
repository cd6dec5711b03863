"""Stdio transport: a server process as the pair of streams of the SDK's client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from mcp.shared.message import SessionMessage
from mcp.types import jsonrpc_message_adapter

from verl_agent_env.envs.mcp_chat.definition import MAX_MESSAGE_BYTES, ServerDefinition
from verl_agent_env.envs.mcp_chat.errors import ServerStartError
from verl_agent_env.envs.processes import ChildProcess, LauncherClient, ProgramStartError

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

logger = logging.getLogger("verl_agent_env.mcp")

_TAIL_BYTES = 4_096
_DRAIN_S = 0.2
_FLUSH_S = 0.5


class StandardError(asyncio.Protocol):
    """Reader of a server's standard error, which keeps the end of it and logs lines on request."""

    def __init__(self, definition: ServerDefinition) -> None:
        self._definition = definition
        self._kept = b""
        self._line = b""

    def data_received(self, data: bytes) -> None:
        self._kept = (self._kept + data)[-_TAIL_BYTES:]
        if self._definition.log_stderr:
            *lines, self._line = (self._line + data).split(b"\n")
            # Cut a line without end, which would be kept as a whole.
            self._line = self._line[-_TAIL_BYTES:]
            for line in lines:
                said = self._definition.redactor.hide(line.decode("utf-8", "replace"))
                logger.info("%s", said, extra={"mcp_server": self._definition.name})

    def tail(self) -> str:
        """Return the end of the output without secrets."""
        kept = self._kept
        if len(kept) == _TAIL_BYTES:
            # Drop the first line, which is cut: the rest of a secret in it would not be recognized.
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
    """Run the server for the duration of the context.

    Args:
        definition: Definition with the command.
        launcher: Returns the launcher that runs it.
        errors: Reader of its standard error.
        on_end: Called when the server has ended or its pipes are closed.
        grace_s: Returns the grace period in seconds, called at the end.

    Raises:
        ServerStartError: The server cannot be run.
    """
    argv = (definition.command or "", *definition.args)
    try:
        process = await launcher().start(argv, definition.env, definition.cwd)
    except ProgramStartError as refused:
        raise ServerStartError(str(refused)) from None
    pipes = await _Pipes.connect(process, errors)
    process.exited.add_done_callback(pipes.end_soon)
    to_session, from_server = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    to_server, from_session = anyio.create_memory_object_stream[SessionMessage](0)
    flushed = anyio.Event()

    async def read() -> None:
        async with to_session:
            try:
                while line := await pipes.reader.readline():
                    for message in _messages_in(line):
                        await to_session.send(message)
            except (anyio.ClosedResourceError, anyio.BrokenResourceError):
                return
            except (ValueError, OSError):
                logger.warning(
                    "message of an MCP server is too long; its connection is closed",
                    extra={"mcp_server": definition.name},
                )
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
            # Every wait here is bounded, so that a cancelled caller neither leaves a process behind nor waits for one.
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
    """Input pipe that detects whether the server still reads."""

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
    async def connect(cls, process: ChildProcess, errors: StandardError) -> _Pipes:
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
        """Treat the output as ended after its remaining data: a surviving child of the server may hold the pipe open."""
        asyncio.get_running_loop().call_later(_DRAIN_S, self.close)

    def close(self) -> None:
        """Close all pipes; idempotent."""
        if not self._input.is_lost:
            # Not close(): it would wait for a process that does not read.
            self.writer.transport.abort()
        for transport in self._transports:
            transport.close()


def _messages_in(line: bytes) -> list[SessionMessage]:
    """Read a line as a message, or as a batch of them; other output, which some servers write, has none."""
    try:
        return [_message_of(line)]
    except ValueError:
        # Half characters and bytes of other encodings become question marks: without the answer, its call would time out.
        try:
            found = json.loads(line.decode("utf-8-sig", "replace"), strict=False)
        except (ValueError, RecursionError):
            return []
    messages = []
    for each in found if isinstance(found, list) else [found]:
        with contextlib.suppress(ValueError, RecursionError):
            messages.append(_message_of(json.dumps(each, ensure_ascii=False).encode("utf-8", "replace")))
    return messages


def _message_of(text: bytes) -> SessionMessage:
    return SessionMessage(jsonrpc_message_adapter.validate_json(text, by_name=False))
