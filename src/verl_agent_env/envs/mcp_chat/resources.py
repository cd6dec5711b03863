"""Resources of an MCP server, offered to the model as one more tool, which reads them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from verl_agent_env.envs.mcp_chat.errors import ToolRefusedError
from verl_agent_env.envs.mcp_chat.pages import pages_of

if TYPE_CHECKING:
    from mcp import ClientSession
    from mcp.types import CallToolResult, Tool

READ_RESOURCE = "resources/read"
"""Name of the tool at its server: the method of the protocol that it stands for. The model sees ``resources_read``."""

_MAX_NAMED = 50
_MAX_LINE_CHARS = 300


async def reading_tool(session: ClientSession) -> Tool | None:
    """Return the tool that reads the server's resources, which its description names; ``None`` if the server has none."""
    from mcp import MCPError
    from mcp.types import METHOD_NOT_FOUND, Tool

    if session.server_capabilities is None or session.server_capabilities.resources is None:
        return None
    lines = [
        _line(str(found.uri), found)
        async for page in pages_of(session.list_resources)
        for found in page.resources
    ]
    try:
        templates = (await session.list_resource_templates()).resource_templates
    except MCPError as error:
        # Servers that have none do not always know the method.
        if error.code != METHOD_NOT_FOUND:
            raise
        templates = []
    text = "Read a resource of the server by its URI."
    text += _listed("Resources", lines)
    text += _listed("URIs of this form", [_line(found.uri_template, found) for found in templates])
    schema = {"type": "object", "properties": {"uri": {"type": "string"}}, "required": ["uri"]}
    return Tool(name=READ_RESOURCE, description=text, input_schema=schema)


async def read_resource(session: ClientSession, arguments: dict[str, Any]) -> CallToolResult:
    """Read the resource that a call names.

    Returns:
        Its contents as embedded resources, as a tool would answer with them.

    Raises:
        ToolRefusedError: The call names none.
        MCPError: The server refuses; there may be no such resource.
    """
    from mcp.types import CallToolResult, EmbeddedResource, ReadResourceResult

    uri = arguments.get("uri")
    if not isinstance(uri, str):
        raise ToolRefusedError("the argument 'uri' must be a text")
    found = await session.read_resource(uri)
    if not isinstance(found, ReadResourceResult):
        raise ToolRefusedError("the server asks a question back, which nobody answers")
    return CallToolResult(
        content=[EmbeddedResource(type="resource", resource=content) for content in found.contents]
    )


def _listed(heading: str, lines: list[str]) -> str:
    if not lines:
        return ""
    more = [f"… and {len(lines) - _MAX_NAMED} more"] if len(lines) > _MAX_NAMED else []
    return "\n".join([f"\n{heading}:", *lines[:_MAX_NAMED], *more])


def _line(uri: str, found: Any) -> str:
    about: Iterable[str | None] = (found.title or found.name, found.description)
    return f"- {uri}: {'. '.join(text for text in about if text)}"[:_MAX_LINE_CHARS]
