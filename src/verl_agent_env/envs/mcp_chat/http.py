"""The transports over HTTP: streamable HTTP, and SSE as older servers have it."""

from __future__ import annotations

import functools
import logging
import ssl
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

import httpx2
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from verl_agent_env.envs.mcp_chat.definition import ServerDefinition

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

_CONNECT_S = 10.0

# The SDK and its HTTP client write whole messages, and URLs with what stands in them: secrets too.
for _name in ("client", "httpcore2", "httpx2", "mcp"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


def http_transport(definition: ServerDefinition) -> AbstractAsyncContextManager[TransportStreams]:
    """The streams to a server of type ``sse`` or ``http``; what cannot be reached is told by them."""
    url = definition.url or ""
    if definition.type == "sse":
        return sse_client(url, dict(definition.headers), httpx_client_factory=_client)
    return _streamable(url, definition.headers)


@asynccontextmanager
async def _streamable(url: str, headers: dict[str, str]) -> AsyncGenerator[TransportStreams, None]:
    async with _client(dict(headers)) as client, streamable_http_client(url, http_client=client) as streams:
        yield streams


def _client(
    headers: dict[str, str] | None = None,
    timeout: httpx2.Timeout | None = None,  # noqa: ARG001 - the SDK's signature
    auth: httpx2.Auth | None = None,
) -> httpx2.AsyncClient:
    # A stream may be silent for as long as an episode lasts, and a call for all its time; limits are kept elsewhere.
    silent = httpx2.Timeout(_CONNECT_S, read=None)
    return httpx2.AsyncClient(headers=headers, timeout=silent, auth=auth, verify=_tls())


@functools.cache
def _tls() -> ssl.SSLContext:
    # Half a megabyte and 20 ms: one for all sessions.
    return httpx2.create_ssl_context()
