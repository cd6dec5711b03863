"""Episodes played by a function that answers as a chat-completions API does."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from pydantic import BaseModel

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


def test_a_function_that_is_not_awaited_is_told_so(sync_client: EnvClient) -> None:
    with pytest.raises(TypeError, match="async def"):
        sync_client.play(lambda *_: "right", "frozen_lake")  # type: ignore[arg-type]


async def test_episode_is_left_after_max_turns(client: AsyncEnvClient) -> None:
    played = await play(client, go_right, "frozen_lake", seed=1, max_turns=1, env_kwargs=LAKE)
    assert (played.terminated, played.truncated, played.num_turns) == (False, True, 1)


def test_synchronous_client_plays_too(sync_client: EnvClient) -> None:
    assert sync_client.play(go_right, "frozen_lake", env_kwargs=LAKE).reward == 1.0


async def test_every_call_of_the_conversation_is_answered_under_the_id_that_it_holds(
    client: AsyncEnvClient,
) -> None:
    calls = [
        {"id": None, "type": "function", "function": {"name": "functions.move_left", "arguments": ""}},
        {"type": "function", "function": {"name": "move_left", "arguments": "{no"}},
        {"id": 7, "function": {"name": "move_left", "arguments": {}}},
    ]

    async def llm(_: Any, __: Any) -> Any:
        return {"role": "assistant", "content": None, "tool_calls": calls}

    lake = {**LAKE, "max_actions_per_turn": 3}
    played = await play(client, llm, "frozen_lake", seed=1, max_turns=2, env_kwargs=lake)
    for turn, said in enumerate([played.messages[1], played.messages[5]]):
        assert [call["id"] for call in said["tool_calls"]] == [f"call_{turn}_{n}" for n in range(3)]
        answers = played.messages[2 + 4 * turn : 5 + 4 * turn]
        assert [answer["tool_call_id"] for answer in answers] == [call["id"] for call in said["tool_calls"]]
        # OpenAI's API checks the names, vLLM loads the arguments.
        assert all(call["function"]["name"].replace("_", "").isalpha() for call in said["tool_calls"])
        assert all(type(orjson.loads(call["function"]["arguments"])) is dict for call in said["tool_calls"])
    assert "not a JSON object" in played.messages[3]["content"]


async def test_what_an_sdk_gives_is_an_answer(client: AsyncEnvClient) -> None:
    class Answer(BaseModel):
        role: str = "assistant"
        content: str = "<answer>right</answer>"

    async def llm(_: Any, __: Any) -> Any:
        return Answer()

    played = await play(client, llm, "frozen_lake", seed=1, env_kwargs=LAKE)
    assert (played.reward, played.messages[1]["content"]) == (1.0, "<answer>right</answer>")
    async with client.make("frozen_lake", seed=1, env_kwargs=LAKE) as env:
        await env.reset()
        assert (await env.step(Answer())).info["action_is_valid"]  # type: ignore[arg-type]
