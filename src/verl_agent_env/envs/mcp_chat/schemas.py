"""Messages of a server whose tools have schemas that the SDK refuses, with all tools of the server: unions, or none at all."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
from mcp.shared.message import SessionMessage
from mcp.types import JSONRPCResponse

if TYPE_CHECKING:
    from mcp.client._transport import ReadStream, TransportStreams


@asynccontextmanager
async def with_schemas_of_objects(
    transport: AbstractAsyncContextManager[TransportStreams],
) -> AsyncGenerator[TransportStreams, None]:
    """Connect, and give the schema of each listed tool the type ``object``: the arguments of every call are one."""
    async with transport as (reading, writing):
        yield _Reading(reading), writing


class _Reading:
    """Read stream of a transport."""

    def __init__(self, stream: ReadStream[SessionMessage | Exception]) -> None:
        self._stream = stream

    @property
    def last_context(self) -> Any:
        """Context in which the last message was sent, where the transport knows it."""
        return getattr(self._stream, "last_context", None)

    async def receive(self) -> SessionMessage | Exception:
        received = await self._stream.receive()
        if isinstance(received, SessionMessage) and isinstance(received.message, JSONRPCResponse):
            _mend(received.message.result)
        return received

    async def aclose(self) -> None:
        await self._stream.aclose()

    def __aiter__(self) -> _Reading:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> _Reading:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _mend(result: dict[str, Any]) -> None:
    tools = result.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        if isinstance(tool, dict):
            schema = tool.get("inputSchema")
            tool["inputSchema"] = {**(schema if isinstance(schema, dict) else {}), "type": "object"}
