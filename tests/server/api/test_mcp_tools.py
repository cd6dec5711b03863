"""What the MCP tools make of their arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from verl_agent_env.messages import ToolCall, parse_action
from verl_agent_env.server.api.mcp_tools import EnvironmentTools


@pytest.mark.parametrize(
    ("arguments", "read"),
    [({"to": "up"}, {"to": "up"}), ('{"to": "up"}', {"to": "up"}), ("", {}), (None, {}), ({}, {})],
)
async def test_the_arguments_of_a_tool_are_an_object_or_its_json(
    arguments: Any, read: dict[str, Any]
) -> None:
    posted: list[Any] = []

    async def api(_: str, __: str, body: Mapping[str, Any] | None) -> Any:
        posted.append(body)
        return {"observation": [], "reward": 0.0, "terminated": False, "truncated": False, "info": {}}

    taken = await EnvironmentTools(api).call("act", {"env_id": "x", "tool": "go", "arguments": arguments})
    assert not taken.is_error
    assert parse_action(posted[0]["action"]).calls == [ToolCall("go", read, "call_0")]
