"""``verl-agent-env mcp``: an MCP client that starts it can play."""

from __future__ import annotations

import sys

import pytest
from click.testing import CliRunner
from mcp import Client, StdioServerParameters

from verl_agent_env.cli import cli
from verl_agent_env.envs.mcp_chat import McpChatEnv
from verl_agent_env.errors import InvalidEnvArgumentsError

COMMAND = StdioServerParameters(
    command=sys.executable, args=["-m", "verl_agent_env.cli", "mcp", "--log-level", "error"]
)


async def test_client_plays_an_episode_to_its_end() -> None:
    async with Client(COMMAND) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == [
            "list_environments",
            "start_environment",
            "act",
            "look",
            "close_environment",
        ]
        kwargs = {"size": 4}
        begun = await client.call_tool(
            "start_environment", {"env_name": "frozen_lake", "seed": 1, "env_kwargs": kwargs}
        )
        facts = begun.structured_content
        assert "move_down" in [tool["name"] for tool in facts["tools"]]
        for _ in range(100):
            taken = await client.call_tool("act", {"env_id": facts["env_id"], "tool": "move_down"})
            if taken.structured_content["terminated"] or taken.structured_content["truncated"]:
                break
        assert "The episode is over" in str(taken.content[-1])
        ended = await client.call_tool("act", {"env_id": facts["env_id"], "text": "down"})
        assert (ended.is_error, ended.structured_content["code"]) == (True, "episode_ended")


def test_without_the_extra_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    result = CliRunner().invoke(cli, ["mcp"])
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        "Error: MCP needs an extra that is not installed here; pip install 'verl-agent-env[mcp]' does."
    ]


def test_environment_without_the_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(InvalidEnvArgumentsError) as caught:
        McpChatEnv()
    assert "pip install 'verl-agent-env[mcp]'" in caught.value.errors[0]["msg"]
