"""An MCP server for tests that has resources, and that asks its client questions: ``[--no-templates]``."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from tests.envs.mcp_chat.server_program import PNG, Handler, StdioServer, said

TEXT_URI, PICTURE_URI = "library://tides", "library://map"
QUESTIONS: dict[str, dict[str, Any]] = {
    "elicitation/create": {
        "message": "Which one?",
        "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}},
    },
    "sampling/createMessage": {
        "messages": [{"role": "user", "content": {"type": "text", "text": "Say yes."}}],
        "maxTokens": 5,
    },
    "roots/list": {},
}
NUM_BOOKS = 70


class Library:
    """The server's methods."""

    def __init__(self, *, has_templates: bool) -> None:
        methods: dict[str, Handler] = {
            "tools/list": self.list_tools,
            "tools/call": self.call_tool,
            "resources/list": self.list_resources,
            "resources/read": self.read,
        }
        if has_templates:
            methods["resources/templates/list"] = self.list_templates
        self.server = StdioServer("library", methods)

    async def list_tools(self, _: dict[str, Any]) -> dict[str, Any]:
        """The tool that asks a question."""
        schema = {"type": "object", "properties": {"method": {"type": "string"}}, "required": ["method"]}
        return {"tools": [{"name": "ask", "description": "Ask the client.", "inputSchema": schema}]}

    async def call_tool(self, params: dict[str, Any]) -> dict[str, Any]:
        """Ask, and say what came back."""
        method = params["arguments"]["method"]
        return said(json.dumps(await self.server.ask(method, QUESTIONS[method])))

    async def list_resources(self, params: dict[str, Any]) -> dict[str, Any]:
        """Two pages."""
        if params.get("cursor"):
            books = [{"uri": f"library://book/{n}", "name": f"book {n}"} for n in range(NUM_BOOKS)]
            return {"resources": books}
        text = {"uri": TEXT_URI, "name": "tides", "description": "When the water is high"}
        return {"resources": [text, {"uri": PICTURE_URI, "name": "map"}], "nextCursor": "2"}

    async def list_templates(self, _: dict[str, Any]) -> dict[str, Any]:
        """One."""
        return {"resourceTemplates": [{"uriTemplate": "library://shelf/{number}", "name": "a shelf"}]}

    async def read(self, params: dict[str, Any]) -> dict[str, Any]:
        """The contents of a resource."""
        uri = params["uri"]
        if uri == TEXT_URI:
            return {"contents": [{"uri": uri, "text": "High water is at 14:32."}]}
        if uri == PICTURE_URI:
            return {"contents": [{"uri": uri, "mimeType": "image/png", "blob": PNG}]}
        raise KeyError(uri)


if __name__ == "__main__":
    asyncio.run(Library(has_templates="--no-templates" not in sys.argv).server.run())
