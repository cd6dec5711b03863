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

from starlette.types import Receive, Scope, Send

from verl_agent_env.errors import InvalidRequestError, VerlAgentEnvError
from verl_agent_env.server.api.operations import Operations
from verl_agent_env.server.http.problems import problem_response

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
        self, operations: Operations, max_body_bytes: int, load: Callable[[], ManagerMaker] | None = None
    ) -> None:
        """An application that has loaded nothing yet.

        Args:
            operations: What its tools call.
            max_body_bytes: Of a request.
            load: Loads the SDK, in a thread.
        """
        self._operations = operations
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
            self._manager = make_manager(self._operations.call, self._max_body_bytes)
            async with self._manager.run():
                started.set_result(None)
                await self._leaving.wait()
        except Exception as failure:
            logger.exception("MCP endpoint failed; the next request starts it again")
            if not started.done():
                started.set_exception(failure)
                # Seen here, in case that whoever asked is gone by now.
                started.exception()
        finally:
            self._starting = None


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
    response = problem_response(error, {})
    headers = [(b"content-type", response.media_type), (b"content-length", b"%d" % len(response.body))]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
