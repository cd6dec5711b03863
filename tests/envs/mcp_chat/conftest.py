"""Environments with the test server; none of them, and none of its processes, is left after a test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from tests.envs.mcp_chat.support import probe
from verl_agent_env.envs.mcp_chat import McpChatEnv
from verl_agent_env.envs.mcp_chat.configuration import Configuration, use_configuration
from verl_agent_env.envs.mcp_chat.definition import ServerDefinition
from verl_agent_env.envs.mcp_chat.pool import pool_here

Started = Callable[..., Awaitable[McpChatEnv]]


@pytest.fixture(autouse=True)
def configured() -> Iterator[Callable[..., None]]:
    """A function that makes these the operator's servers."""

    def configure(*definitions: ServerDefinition, commands_allowed: bool = False) -> None:
        use_configuration(Configuration({each.name: each for each in definitions}, commands_allowed))

    configure()
    yield configure
    use_configuration(None)


@pytest.fixture
async def started(configured: Callable[..., None]) -> AsyncIterator[Started]:
    """A function that begins an episode with these servers: the test server if none are given."""
    made: list[McpChatEnv] = []

    async def start(*definitions: ServerDefinition, **arguments: Any) -> McpChatEnv:
        servers = definitions or (probe(),)
        configured(*servers)
        env = McpChatEnv(**{"servers": [each.name for each in servers], **arguments})
        made.append(env)
        await env.areset(seed=1)
        return env

    yield start
    for env in made:
        await env.aclose()
    pool = pool_here()
    await pool.aclose()
    assert pool.num_sessions == 0
