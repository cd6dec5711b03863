"""A real MCP server over streamable HTTP, whose sessions count, and which notes what is asked of it."""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from typing import Any, NamedTuple

import httpx
import uvicorn
from mcp.server.lowlevel import Server
from mcp.types import CallToolResult, ListToolsResult, TextContent, Tool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.waiting import HANG_S, eventually
from verl_agent_env.envs.mcp_chat.definition import ServerDefinition


class Asked(NamedTuple):
    """One HTTP request."""

    method: str
    session: str
    rpc: str
    """Method of its JSON-RPC message; empty without one."""
    id: Any


class CountingServer:
    """The SDK's own server with one tool, ``count``, which says how often its session has called it."""

    def __init__(self, *, stateless: bool = False) -> None:
        self.asked: list[Asked] = []
        self._counts: Counter[str] = Counter()
        server = Server("counting", on_list_tools=self._list_tools, on_call_tool=self._call_tool)
        self._app: ASGIApp = server.streamable_http_app(stateless_http=stateless)
        listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = listener.getsockname()[1]
        config = uvicorn.Config(
            self._noting, interface="asgi3", log_level="error", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), daemon=True)
        self._thread.start()
        eventually(lambda: self._server.started, what="the counting server")

    @property
    def definition(self) -> dict[str, Any]:
        """Entry of the operator's configuration."""
        return {
            "url": f"http://127.0.0.1:{self.port}/mcp",
            "resumable": True,
            "startTimeoutS": HANG_S,
            "callTimeoutS": HANG_S,
        }

    def defined(self, **fields: Any) -> ServerDefinition:
        """Define the server, with other fields."""
        return ServerDefinition.model_validate({"name": "counting", **self.definition, **fields})

    def of(self, rpc: str) -> list[Asked]:
        """The requests with this JSON-RPC method, or with this method of HTTP."""
        return [each for each in self.asked if rpc in (each.rpc, each.method)]

    @property
    def sessions(self) -> list[str]:
        """Sessions that called the tool, in order."""
        return list(dict.fromkeys(each.session for each in self.of("tools/call")))

    def forget(self, session: str) -> None:
        """Have it end a session, which it does not know any more then."""
        answer = httpx.delete(
            f"http://127.0.0.1:{self.port}/mcp", headers={"mcp-session-id": session}, timeout=HANG_S
        )
        assert answer.is_success
        del self.asked[-1]

    def close(self) -> None:
        """Stop."""
        self._server.should_exit = True
        self._thread.join(HANG_S)
        assert not self._thread.is_alive()

    async def _noting(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        body = b""
        while scope["method"] == "POST":
            part = await receive()
            body += part.get("body", b"")
            if not part.get("more_body"):
                break
        said = json.loads(body) if body else {}
        self.asked.append(
            Asked(scope["method"], headers.get("mcp-session-id", ""), said.get("method", ""), said.get("id"))
        )
        is_read = scope["method"] != "POST"

        async def read_again() -> Message:
            nonlocal is_read
            if is_read:
                return await receive()
            is_read = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, read_again, send)

    async def _list_tools(self, context: Any, params: Any) -> ListToolsResult:
        return ListToolsResult(tools=[Tool(name="count", input_schema={"type": "object", "properties": {}})])

    async def _call_tool(self, context: Any, params: Any) -> CallToolResult:
        session = context.request.headers.get("mcp-session-id", "")
        self._counts[session] += 1
        return CallToolResult(content=[TextContent(text=str(self._counts[session]))])
