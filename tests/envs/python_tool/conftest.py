"""Sandboxes of which nothing is left after a test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.envs.mcp_chat.support import ended
from verl_agent_env.envs.python_tool.sandbox import Sandboxes, sandboxes_here


@pytest.fixture
async def sandboxes() -> AsyncIterator[Sandboxes]:
    """The sandboxes of the test's event loop."""
    found = sandboxes_here()
    yield found
    pid = found.launcher_pid
    await found.aclose()
    assert pid is None or await ended(pid)
