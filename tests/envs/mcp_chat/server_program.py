"""An MCP server for tests: tools for every kind of content, and for everything that can go wrong.

``python server_program.py [stdio | sse PORT | http PORT] [--stubborn] [--spawn FILE] [--pids FILE]``
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]

_METHOD_NOT_FOUND, _INTERNAL_ERROR = -32601, -32603
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\nnot much of one").decode()
NOTHING: dict[str, Any] = {"type": "object", "properties": {}}
TEXT: dict[str, Any] = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}

BEGUN = {"type": "object", "properties": {"begun": {"type": "string"}}}
"""Of calls that never end: a file to make when they have begun."""
TOOLS = {
    "echo": TEXT,
    "add": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
    "remember": TEXT,
    "recall": NOTHING,
    "wait": BEGUN,
    "meet": NOTHING,
    "everything": NOTHING,
    "structured": NOTHING,
    "fail": NOTHING,
    "raise": NOTHING,
    "die": NOTHING,
    "hang": BEGUN,
    "variables": NOTHING,
    "pid": NOTHING,
    "long": NOTHING,
}


class Programme:
    """The tools' work."""

    def __init__(self) -> None:
        self.remembered = "nothing"
        self.waiting = 0
        self.met = asyncio.Event()

    async def call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """What a tool answers, as the protocol has it."""
        if name == "echo":
            return said(arguments["text"])
        if name == "add":
            total = arguments["a"] + arguments["b"]
            return {**said(str(total)), "structuredContent": {"result": total}}
        if name == "remember":
            self.remembered = arguments["text"]
            return said("remembered")
        if name == "recall":
            return said(self.remembered)
        note_begin(arguments)
        if name == "wait":
            await asyncio.Event().wait()
        if name == "meet":
            self.waiting += 1
            if self.waiting == 2:
                self.met.set()
            await self.met.wait()
            return said("met")
        if name == "everything":
            return everything()
        if name == "structured":
            return {"content": [], "structuredContent": {"degrees": 21, "sky": "blue"}}
        if name == "fail":
            return {**said("the printer is on fire"), "isError": True}
        if name == "raise":
            raise ValueError("an error of the programme")
        if name == "die":
            os._exit(3)
        if name == "hang":
            # Blocks the whole server, cancellation included.
            signal.pause()
        if name == "variables":
            return said("\n".join(f"{key}={value}" for key, value in sorted(os.environ.items())))
        if name == "pid":
            return said(str(os.getpid()))
        return said("0123456789" * 1000)

    async def list_tools(self, _: dict[str, Any]) -> dict[str, Any]:
        """All tools."""
        return {"tools": [{"name": n, "description": f"To {n}.", "inputSchema": s} for n, s in TOOLS.items()]}

    async def call_tool(self, params: dict[str, Any]) -> dict[str, Any]:
        """As :meth:`call`."""
        return await self.call(params["name"], params.get("arguments") or {})


def note_begin(arguments: dict[str, Any]) -> None:
    """Make the file that the caller waits for, if there is one."""
    if "begun" in arguments:
        Path(arguments["begun"]).touch()


def said(text: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}]}


def everything() -> dict[str, Any]:
    return {
        "content": [
            {"type": "text", "text": "a text"},
            {"type": "image", "data": PNG, "mimeType": "image/png"},
            {"type": "audio", "data": "UklGRg==", "mimeType": "audio/wav"},
            {"type": "audio", "data": "T2dnUw==", "mimeType": "audio/ogg"},
            {"type": "resource", "resource": {"uri": "file:///a.txt", "text": "in a file"}},
            {
                "type": "resource",
                "resource": {"uri": "file:///a.png", "mimeType": "image/png", "blob": PNG},
            },
            {
                "type": "resource",
                "resource": {"uri": "file:///a.zip", "mimeType": "application/zip", "blob": "AAAA"},
            },
            {
                "type": "resource_link",
                "uri": "file:///b.txt",
                "name": "b",
                "mimeType": "text/plain",
                "description": "more of it",
            },
        ],
        "structuredContent": {"kind": "everything"},
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("transport", nargs="?", default="stdio", choices=["stdio", "sse", "http"])
    parser.add_argument("port", nargs="?", type=int, default=0)
    parser.add_argument(
        "--stubborn", action="store_true", help="neither SIGTERM nor the end of input ends it"
    )
    parser.add_argument("--spawn", help="start a process in a session of its own, and write its id here")
    parser.add_argument("--pids", help="append its own process id here")
    options = parser.parse_args()
    if options.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.pids:
        with Path(options.pids).open("a") as listing:
            listing.write(f"{os.getpid()}\n")
    if options.spawn:
        sleeper = "import time; time.sleep(600)"
        child = subprocess.Popen([sys.executable, "-c", sleeper], start_new_session=True)
        Path(options.spawn).write_text(str(child.pid))
    sys.stderr.write(f"the probe starts with {os.environ.get('PROBE_TOKEN')}\n")
    sys.stderr.flush()
    if options.transport == "stdio":
        asyncio.run(serve_stdio())
        while options.stubborn:
            signal.pause()
    else:
        serve_http(options.transport, options.port)


class StdioServer:
    """The transport as far as tests need it: a server without the SDK is there in a tenth of the time.

    Answers requests side by side, each in a task of its own, until the end of its input.
    """

    def __init__(self, name: str, methods: Mapping[str, Handler]) -> None:
        self._name = name
        self._methods = {"initialize": self._initialize, "ping": _ping, **methods}
        self._running: dict[Any, asyncio.Task[None]] = {}
        self._asked: dict[str, asyncio.Future[dict[str, Any]]] = {}

    async def run(self) -> None:
        """Serve."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=1 << 26)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            message = json.loads(line)
            if message.get("method") == "notifications/cancelled":
                task = self._running.get(message["params"]["requestId"])
                if task is not None:
                    task.cancel()
            elif "id" in message and "method" in message:
                task = asyncio.create_task(self._answer(message))
                self._running[message["id"]] = task
            elif "id" in message:
                self._asked.pop(message["id"]).set_result(message)

    async def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Ask the client something, and give its whole answer."""
        number = f"question {len(self._asked)}"
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        question = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        sys.stdout.write(json.dumps(question) + "\n")
        sys.stdout.flush()
        return await answer

    async def _answer(self, request: dict[str, Any]) -> None:
        method = self._methods.get(request["method"])
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": request["id"]}
        if method is None:
            answer["error"] = {"code": _METHOD_NOT_FOUND, "message": f"no method {request['method']}"}
        else:
            try:
                answer["result"] = await method(request.get("params") or {})
            except Exception:  # noqa: BLE001 - as the SDK tells whatever a tool raises
                answer["error"] = {"code": _INTERNAL_ERROR, "message": "Internal server error"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
        del self._running[request["id"]]

    async def _initialize(self, params: dict[str, Any]) -> dict[str, Any]:
        return {
            "protocolVersion": params["protocolVersion"],
            "capabilities": {method.partition("/")[0]: {} for method in self._methods if "/" in method},
            "serverInfo": {"name": self._name, "version": "1"},
        }


async def _ping(_: dict[str, Any]) -> dict[str, Any]:
    return {}


async def serve_stdio() -> None:
    programme = Programme()
    await StdioServer("probe", {"tools/list": programme.list_tools, "tools/call": programme.call_tool}).run()


def make_server() -> Any:
    """The same over the SDK, for the transports that it has."""
    from mcp.server.lowlevel import Server
    from mcp.types import CallToolResult, ListToolsResult

    programme = Programme()

    async def list_tools(context: Any, params: Any) -> ListToolsResult:
        return ListToolsResult.model_validate(await programme.list_tools({}))

    async def call_tool(context: Any, params: Any) -> CallToolResult:
        return CallToolResult.model_validate(await programme.call(params.name, params.arguments or {}))

    return Server("probe", on_list_tools=list_tools, on_call_tool=call_tool)


def serve_http(transport: str, port: int) -> None:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.routing import Mount, Route

    server = make_server()
    if transport == "http":
        app: Any = server.streamable_http_app()
    else:
        from mcp.server.sse import SseServerTransport
        from starlette.responses import Response

        streams = SseServerTransport("/messages/")

        async def connect(request: Any) -> Response:
            async with streams.connect_sse(request.scope, request.receive, request._send) as (
                reading,
                writing,
            ):
                await server.run(reading, writing, server.create_initialization_options())
            return Response()

        app = Starlette(routes=[Route("/sse", connect), Mount("/messages/", streams.handle_post_message)])
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main()
