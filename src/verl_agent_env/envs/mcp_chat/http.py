"""HTTP transports: streamable HTTP, and SSE for older servers."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import re
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http.client import NOT_FOUND
from typing import TYPE_CHECKING

import httpx2
from mcp import MCPError
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import (
    CONNECTION_CLOSED,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    REQUEST_TIMEOUT,
)

from verl_agent_env.envs.mcp_chat.definition import MAX_MESSAGE_BYTES, ServerDefinition
from verl_agent_env.envs.mcp_chat.session import HttpSession

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

_CONNECT_S = 10.0
_END_S = 5.0
_SESSION_HEADER = "mcp-session-id"
_VERSION_HEADER = "mcp-protocol-version"
_SSE_SESSION = "sessionid"
"""Parameter of the URL to which messages go over SSE, without regard to case and underscores."""
_FORGOTTEN_STATUSES = frozenset({400, 401, 404, 410})
_CODES_OF_CALLS = frozenset({PARSE_ERROR, METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL_ERROR})
"""Errors of one call; with any other code the session is meant, and if the message says so."""
_CODES_OF_SESSIONS = frozenset({INVALID_REQUEST, CONNECTION_CLOSED, REQUEST_TIMEOUT})
"""With what servers refuse a session in an answer that is no refusal for HTTP; the SDKs give the last two several meanings."""
_SESSION = re.compile(r"\bsession|\bnot (?:been )?initiali[sz]ed\b", re.IGNORECASE)

# The SDK and its HTTP client log whole messages and URLs, secrets included.
for _name in ("client", "httpcore2", "httpx2", "mcp"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


def http_transport(
    definition: ServerDefinition,
    on_forgotten: Callable[[], None],
    on_session: Callable[[str], None],
    resumed: HttpSession | None = None,
) -> AbstractAsyncContextManager[TransportStreams]:
    """Connect to a server of type ``sse`` or ``http``; errors come through the streams.

    Args:
        definition: Definition of the server.
        on_forgotten: Called when the server refuses a message because it does not know the session any more.
        on_session: Called with the id of a session that the server begins.
        resumed: Session that every message belongs to; the client must not begin another one then.
    """
    url, headers = definition.url or "", dict(definition.headers)
    if resumed is not None:
        headers[_SESSION_HEADER] = resumed.session_id
    open_client = functools.partial(_client, on_forgotten=on_forgotten, on_session=on_session)
    if definition.type == "sse":
        return sse_client(url, headers, httpx_client_factory=open_client)
    return _streamable(url, open_client(headers), ends_session=not definition.resumable)


async def end_session(definition: ServerDefinition, session: HttpSession) -> None:
    """Ask a server to end a session; never raises. One that cannot be asked ends it after its own time."""
    headers = {
        **definition.headers,
        _SESSION_HEADER: session.session_id,
        _VERSION_HEADER: session.protocol_version,
    }
    with contextlib.suppress(httpx2.HTTPError, TimeoutError):
        async with asyncio.timeout(_END_S), httpx2.AsyncClient(headers=headers, verify=_tls()) as client:
            await client.delete(definition.url or "")


@asynccontextmanager
async def _streamable(
    url: str, client: httpx2.AsyncClient, *, ends_session: bool
) -> AsyncGenerator[TransportStreams, None]:
    async with (
        client,
        streamable_http_client(
            url,
            http_client=client,
            terminate_on_close=ends_session,
            # A picture easily has more than the SDK's own limit, 1 MB.
            max_sse_event_size=MAX_MESSAGE_BYTES,
        ) as streams,
    ):
        yield streams


def _client(
    headers: dict[str, str] | None = None,
    timeout: httpx2.Timeout | None = None,  # noqa: ARG001 - the SDK's signature
    auth: httpx2.Auth | None = None,
    *,
    on_forgotten: Callable[[], None],
    on_session: Callable[[str], None],
) -> httpx2.AsyncClient:
    async def check(response: httpx2.Response) -> None:
        if await _says_forgotten(response):
            on_forgotten()
        elif response.is_success and _SESSION_HEADER not in response.request.headers:
            begun = response.headers.get(_SESSION_HEADER)
            if begun:
                on_session(begun)

    # A stream may be silent for a whole episode, and a call for its whole time limit, which is enforced elsewhere.
    silent = httpx2.Timeout(_CONNECT_S, read=None)
    return httpx2.AsyncClient(
        headers=headers, timeout=silent, auth=auth, verify=_tls(), event_hooks={"response": [check]}
    )


async def _says_forgotten(response: httpx2.Response) -> bool:
    """Return true if a response refuses the session of its request.

    The specification wants 404, whatever the body; servers also answer 400, 401 and 410. These carry errors of the call itself
    as well, which the JSON-RPC error tells apart.
    """
    request = response.request
    parameters = {name.replace("_", "").lower() for name in request.url.params}
    names_session = _SESSION_HEADER in request.headers or _SSE_SESSION in parameters
    if response.status_code not in _FORGOTTEN_STATUSES or not names_session:
        return False
    if response.status_code == NOT_FOUND:
        return True
    try:
        await response.aread()
        error = response.json()["error"]
        return error["code"] not in _CODES_OF_CALLS or _SESSION.search(error["message"]) is not None
    except (httpx2.HTTPError, ValueError, KeyError, TypeError):
        return True


def refuses_session(error: MCPError) -> bool:
    """Return true if a JSON-RPC error refuses the session, and not the call, though the status of HTTP is that of a success."""
    return error.code in _CODES_OF_SESSIONS and _SESSION.search(error.message) is not None


@functools.cache
def _tls() -> ssl.SSLContext:
    # Takes half a megabyte and 20 ms, so all sessions share one.
    return httpx2.create_ssl_context()
