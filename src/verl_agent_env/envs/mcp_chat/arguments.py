"""Keyword arguments of MCP chat."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints, field_validator

from verl_agent_env.envs.mcp_chat.definition import MAX_NAME_CHARS, ServerDefinition
from verl_agent_env.envs.tool_dialogue import ToolDialogueArguments

MAX_SERVERS = 32

_ServerName = Annotated[str, StringConstraints(pattern=rf"^[A-Za-z0-9_-]{{1,{MAX_NAME_CHARS}}}$")]
# Keys that only the operator may set.
_PRIVILEGES = (
    "shared",
    "stateless",
    "resumable",
    "instances",
    "idle_s",
    "max_sessions",
    "log_stderr",
    "max_restarts",
)


class McpChatArguments(ToolDialogueArguments):
    """Keyword arguments of MCP chat."""

    servers: list[_ServerName | ServerDefinition] | None = Field(default=None, max_length=MAX_SERVERS)
    """MCP servers by their names in the operator's configuration; by default all of it. On a server for one user that
    accepts commands, also definitions with a ``name``."""
    raise_on_server_failure: bool = False
    """True if a server that ends or hangs makes the step fail and loses the environment (``environment_lost``), so that
    no trajectory holds the failure; else the model gets an error message, and the server is restarted."""

    @field_validator("servers")
    @classmethod
    def _are_different(
        cls, value: list[str | ServerDefinition] | None
    ) -> list[str | ServerDefinition] | None:
        names = [server if isinstance(server, str) else server.name for server in value or ()]
        if len(set(names)) < len(names):
            raise ValueError("a server is listed twice")
        for server in value or ():
            if isinstance(server, ServerDefinition):
                default = ServerDefinition.model_fields
                for field in _PRIVILEGES:
                    if getattr(server, field) != default[field].default:
                        raise ValueError(f"'{field}' of a server is for the operator's configuration only")
        return value
