"""Keyword arguments of MCP chat."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints, field_validator

from verl_agent_env.envs.mcp_chat.definition import MAX_NAME_CHARS, ServerDefinition
from verl_agent_env.envs.single_turn_chat import SingleTurnChatArguments

MAX_SERVERS = 32

_NOTHING_ASKED = "Use the tools as you like, then answer with a message."

_ServerName = Annotated[str, StringConstraints(pattern=rf"^[A-Za-z0-9_-]{{1,{MAX_NAME_CHARS}}}$")]
# Keys that only the operator may set.
_PRIVILEGES = ("shared", "instances", "idle_s", "max_sessions", "log_stderr", "max_restarts")


class McpChatArguments(SingleTurnChatArguments):
    """Keyword arguments of MCP chat."""

    servers: list[_ServerName | ServerDefinition] | None = Field(default=None, max_length=MAX_SERVERS)
    """MCP servers by their names in the operator's configuration; by default all of it. On a server for one user that
    accepts commands, also definitions with a ``name``."""
    max_steps: int = Field(default=50, ge=1, le=100_000)
    """Tool calls after which the episode is truncated; a turn that cannot be read counts as one."""
    max_actions_per_turn: int = Field(default=16, ge=1, le=1_000)
    """Limit of the calls of one message; they run concurrently."""
    max_result_chars: int = Field(default=50_000, ge=100, le=10_000_000)
    """Limit of the text of one tool result; the rest is cut off."""
    tool_error_reward: float = 0.0
    """Added for each call whose result is an error; usually zero or below."""
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

    @property
    def closing_prompt(self) -> str:
        """Last message of the user; empty if the history is enough."""
        if self.task_prompt is not None:
            return self.task_prompt
        return "" if self.chat_history else _NOTHING_ASKED
