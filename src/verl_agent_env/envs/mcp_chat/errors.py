"""Errors of MCP servers and their configuration; messages hold no secrets."""

from __future__ import annotations


class McpError(RuntimeError):
    """Root of this package's errors. A message never holds a value of the configuration."""


class ConfigurationError(McpError, ValueError):
    """The operator's configuration cannot be used; the message names the place."""


class ServerStartError(McpError):
    """An MCP server could not be started or reached."""


class ServerLostError(McpError):
    """An MCP server ended and could not be restarted, or must not be."""


class ConnectionLostError(McpError):
    """A session ended during a call; whether the call was carried out is unknown."""


class SessionForgottenError(McpError):
    """An HTTP server does not know the session any more; the call was not carried out."""


class McpCallTimeoutError(McpError):
    """A call got no response in time and was cancelled."""


class NoMcpAnswerError(McpError):
    """A call was answered by something else than MCP, such as a page; whether it was carried out is unknown."""


class ToolRefusedError(McpError):
    """The server answered a call with a protocol error, or with an invalid result."""
