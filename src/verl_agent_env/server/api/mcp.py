"""``/mcp``: the environments for MCP clients, over streamable HTTP.

Without sessions, so that any worker of a cluster can answer any request: what a client holds is the environment's id,
and each call goes to whichever worker owns it. The SDK is an extra and is loaded by the first request.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
from collections.abc import Callable
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from verl_agent_env.errors import (
    InsufficientScopeError,
    InvalidRequestError,
    RouteNotFoundError,
    VerlAgentEnvError,
)
from verl_agent_env.server.http.auth import current_principal
from verl_agent_env.server.http.dispatcher import Dispatcher, require_seen
from verl_agent_env.server.http.types import PROBLEM_JSON, Request, Response

logger = logging.getLogger(__name__)

MCP_PATH = "/mcp"
ManagerMaker = Callable[[Any, int], Any]
"""Makes the SDK's session manager for an API and a limit on bodies."""
MAX_MCP_BYTES = 1024 * 1024
"""Of a request: the SDK parses it at once, and no tool takes more than an action."""
NEEDS_EXTRA = "MCP needs an extra that is not installed here; pip install 'verl-agent-env[mcp]' does"


class McpRoute:
    """An ASGI application; open from the first request until :meth:`aclose`."""

    def __init__(
        self, dispatcher: Dispatcher, max_body_bytes: int, load: Callable[[], ManagerMaker] | None = None
    ) -> None:
        """An application that has loaded nothing yet.

        Args:
            dispatcher: The API that its tools call.
            max_body_bytes: Of a request.
            load: Loads the SDK, in a thread.
        """
        self._dispatcher = dispatcher
        self._load = load or _manager_maker
        self._max_body_bytes = max_body_bytes
        self._manager: Any = None
        self._leaving = asyncio.Event()
        self._starting: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, which was admitted."""
        if importlib.util.find_spec("mcp") is None:
            await _refuse(send, InvalidRequestError([{"loc": [MCP_PATH], "msg": NEEDS_EXTRA}]))
            return
        await self._start()
        await self._manager.handle_request(scope, receive, send)

    async def aclose(self) -> None:
        """End what is under way."""
        self._leaving.set()
        if self._task is not None:
            await self._task

    async def _start(self) -> None:
        if self._starting is None:
            self._starting = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._run(self._starting), name="mcp-route")
        await asyncio.shield(self._starting)

    async def _run(self, started: asyncio.Future[None]) -> None:
        try:
            # Half a second of imports: not on the event loop.
            make_manager = await asyncio.to_thread(self._load)
            self._manager = make_manager(api_of(self._dispatcher), self._max_body_bytes)
            async with self._manager.run():
                started.set_result(None)
                await self._leaving.wait()
        except Exception as failure:
            logger.exception("serving MCP came to its end; the next request begins again")
            if not started.done():
                started.set_exception(failure)
                # Seen here, in case that whoever asked is gone by now.
                started.exception()
        finally:
            self._starting = None


def api_of(dispatcher: Dispatcher) -> Any:
    """The HTTP API as a function, without HTTP: see :data:`~verl_agent_env.server.api.mcp_tools.ApiCall`."""

    async def call(method: str, target: str, body: dict[str, Any] | None) -> Any:
        path, _, query = target.partition("?")
        found = dispatcher.match(path)
        route = found[0].get(method) if found is not None else None
        if found is None or route is None:
            raise RouteNotFoundError(path)
        principal = current_principal.get()
        if route.auth_scope not in principal.scopes:
            raise InsufficientScopeError(route.auth_scope)
        require_seen(principal, found[1])
        encoded = b"" if body is None else orjson.dumps(body)
        reply = await route.handler(Request(found[1], encoded, query.encode(), {}, principal))
        if not isinstance(reply, Response):
            return orjson.loads(bytes(reply))
        is_json, answer = reply.media_type.startswith(b"application/json"), bytes(reply.body)
        return orjson.loads(answer) if is_json else answer.decode()

    return call


def _manager_maker() -> ManagerMaker:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

    from verl_agent_env.server.api.mcp_tools import make_mcp_server

    # Several lines for each request otherwise.
    logging.getLogger("mcp.server").setLevel(logging.WARNING)

    def make(api: Any, max_body_bytes: int) -> StreamableHTTPSessionManager:
        server = make_mcp_server(api)
        return StreamableHTTPSessionManager(
            server, json_response=True, stateless=True, max_request_body_size=max_body_bytes
        )

    return make


async def _refuse(send: Send, error: VerlAgentEnvError) -> None:
    body = orjson.dumps(error.to_problem())
    headers = [(b"content-type", PROBLEM_JSON), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
