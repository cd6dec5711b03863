"""MCP chat: a conversation in which the model calls the tools of MCP servers.

Importing the package does not import the SDK ``mcp``, which is an extra; only a session does.
"""

from verl_agent_env.envs.mcp_chat.env import McpChatEnv

__all__ = ["McpChatEnv"]
