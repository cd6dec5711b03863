"""Episodes played by a function that answers as a chat-completions API does."""

from __future__ import annotations

from typing import Any

from verl_agent_env.client import AsyncEnvClient, EnvClient, play
from verl_agent_env.types import Message

LAKE: dict[str, Any] = {"desc": ["SFG"], "is_slippery": False}


async def go_right(messages: list[Message], tools: list[dict[str, Any]]) -> Message:
    """A model that knows one move."""
    assert "move_right" in [tool["function"]["name"] for tool in tools]
    call_id = f"call_{len(messages)}"
    function = {"name": "move_right", "arguments": "{}"}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": call_id, "type": "function", "function": function}],
    }


async def test_episode_is_played_to_its_end(client: AsyncEnvClient) -> None:
    played = await play(client, go_right, "frozen_lake", seed=1, system_prompt="Play.", env_kwargs=LAKE)
    assert [message["role"] for message in played.messages] == [
        *("system", "user"),
        *("assistant", "tool", "assistant", "tool"),
    ]
    assert (played.reward, played.terminated, played.truncated, played.num_turns) == (1.0, True, False, 2)
    assert played.info["success"] is True
    assert not client._dispatch.open_envs


async def test_episode_is_left_after_max_turns(client: AsyncEnvClient) -> None:
    played = await play(client, go_right, "frozen_lake", seed=1, max_turns=1, env_kwargs=LAKE)
    assert (played.terminated, played.truncated, played.num_turns) == (False, True, 1)


def test_synchronous_client_plays_too(sync_client: EnvClient) -> None:
    assert sync_client.play(go_right, "frozen_lake", env_kwargs=LAKE).reward == 1.0
