"""What goes wrong with an MCP server or its configuration, in words that hold no secret."""

from __future__ import annotations


class McpError(RuntimeError):
    """Root of this package's errors. A message never holds a value of the configuration."""


class ConfigurationError(McpError, ValueError):
    """The operator's configuration cannot be used; the message names the place."""


class ServerStartError(McpError):
    """An MCP server could not be started or reached."""


class ServerLostError(McpError):
    """An MCP server went away and did not come back, or was not asked to."""


class ConnectionLostError(McpError):
    """A session came to its end while a call was under way; whether the call was carried out is unknown."""


class SessionForgottenError(McpError):
    """An HTTP server does not know the session any more; the call was not carried out."""


class McpCallTimeoutError(McpError):
    """A call was not answered in time and was given up."""


class ToolRefusedError(McpError):
    """The server answered a call with an error of the protocol, or with something that is no result."""
