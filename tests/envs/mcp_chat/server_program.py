"""An MCP server for tests: tools for every kind of content, and for everything that can go wrong.

``python server_program.py [stdio | sse PORT | http PORT] [--stubborn] [--spawn FILE] [--pids FILE]``
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from mcp.server.lowlevel import Server
from mcp.types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    ListToolsResult,
    ResourceLink,
    TextContent,
    TextResourceContents,
    Tool,
)

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

    async def call(self, name: str, arguments: dict[str, Any]) -> CallToolResult:
        if name == "echo":
            return said(arguments["text"])
        if name == "add":
            return CallToolResult(
                content=[TextContent(text=str(arguments["a"] + arguments["b"]))],
                structured_content={"result": arguments["a"] + arguments["b"]},
            )
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
            return CallToolResult(content=[], structured_content={"degrees": 21, "sky": "blue"})
        if name == "fail":
            return CallToolResult(content=[TextContent(text="the printer is on fire")], is_error=True)
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


def note_begin(arguments: dict[str, Any]) -> None:
    """Make the file that the caller waits for, if there is one."""
    if "begun" in arguments:
        Path(arguments["begun"]).touch()


def said(text: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(text=text)])


def everything() -> CallToolResult:
    return CallToolResult(
        content=[
            TextContent(text="a text"),
            ImageContent(data=PNG, mime_type="image/png"),
            AudioContent(data="UklGRg==", mime_type="audio/wav"),
            AudioContent(data="T2dnUw==", mime_type="audio/ogg"),
            EmbeddedResource(resource=TextResourceContents(uri="file:///a.txt", text="in a file")),
            EmbeddedResource(
                resource=BlobResourceContents(uri="file:///a.png", mime_type="image/png", blob=PNG)
            ),
            EmbeddedResource(
                resource=BlobResourceContents(uri="file:///a.zip", mime_type="application/zip", blob="AAAA")
            ),
            ResourceLink(uri="file:///b.txt", name="b", mime_type="text/plain", description="more of it"),
        ],
        structured_content={"kind": "everything"},
    )


def make_server() -> Server[Any]:
    programme = Programme()

    async def list_tools(context: Any, params: Any) -> ListToolsResult:
        tools = [
            Tool(name=name, description=f"To {name}.", input_schema=schema) for name, schema in TOOLS.items()
        ]
        return ListToolsResult(tools=tools)

    async def call_tool(context: Any, params: Any) -> CallToolResult:
        return await programme.call(params.name, params.arguments or {})

    return Server("probe", on_list_tools=list_tools, on_call_tool=call_tool)


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


async def serve_stdio() -> None:
    from mcp.server.stdio import stdio_server

    server = make_server()
    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())


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
