"""An MCP session that another connection began, gone on with by a connection of its own."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

from mcp import ClientSession
from mcp.shared.dispatcher import CallOptions
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher
from mcp.types import Implementation, InitializeResult, RequestId, ServerCapabilities, ToolsCapability

from verl_agent_env.envs.mcp_chat.session import HttpSession

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams


@asynccontextmanager
async def resumed_session(
    transport: AbstractAsyncContextManager[TransportStreams],
    session: HttpSession,
    client_info: Implementation,
    read_timeout_s: float,
) -> AsyncGenerator[ClientSession, None]:
    """Go on with a session over a transport whose messages all belong to it, without another handshake."""
    # What the server answered to the handshake is known: it has tools, in this version of the protocol.
    known = InitializeResult(
        protocol_version=session.protocol_version,
        capabilities=ServerCapabilities(tools=ToolsCapability()),
        server_info=Implementation(name="", version=""),
    )
    async with transport as (reading, writing):
        dispatcher = _UnusedIds(reading, writing)
        async with ClientSession(
            dispatcher=dispatcher, read_timeout_seconds=read_timeout_s, client_info=client_info
        ) as client:
            client.adopt(known)
            yield client


class _UnusedIds(JSONRPCDispatcher[Any]):
    """Dispatcher whose requests have ids that no other connection of the session has used, as the protocol demands."""

    def __init__(self, *streams: Any) -> None:
        super().__init__(*streams)
        prefix = secrets.token_hex(4)
        # Letters, so that the id is read as text and not as one of the dispatcher's own numbers.
        self._ids = (f"resumed-{prefix}-{number}" for number in itertools.count(1))

    async def send_raw_request(
        self,
        method: str,
        params: Mapping[str, Any] | None,
        opts: CallOptions | None = None,
        *,
        _related_request_id: RequestId | None = None,
    ) -> dict[str, Any]:
        named: CallOptions = {**(opts or {}), "request_id": next(self._ids)}
        return await super().send_raw_request(method, params, named, _related_request_id=_related_request_id)
