"""Playing of an episode with any chat-completions function."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeAlias

from verl_agent_env.client.async_client import AsyncEnvClient
from verl_agent_env.messages import assistant_message, sendable
from verl_agent_env.types import Info, Message

ChatFunction: TypeAlias = Callable[[list[Message], list[dict[str, Any]]], Awaitable[Any]]
"""Returns the next answer for these messages and tools (OpenAI's schema): an assistant message, raw text, or an SDK's response
object."""


class LeaveEpisodeError(Exception):
    """Raised by a chat function to leave the episode: :func:`play` returns the episode so far."""


class PlayedEpisode(NamedTuple):
    """An episode that :func:`play` has played."""

    messages: list[Message]
    """The whole conversation, as OpenAI's API and vLLM accept it: every call has an id, which its answer repeats."""
    reward: float
    """Sum of all rewards."""
    terminated: bool
    truncated: bool
    """True also if ``max_turns`` or the chat function ended it."""
    num_turns: int
    info: Info
    """Info of the last step; of the reset if there was none."""
    num_invalid: int = 0
    """Turns whose action was invalid."""
    left_because: str = ""
    """Reason of the chat function for leaving, if it left."""


async def play(
    client: AsyncEnvClient,
    llm: ChatFunction,
    env_name: str,
    *,
    seed: int | None = None,
    max_turns: int | None = None,
    system_prompt: str | None = None,
    **make_arguments: Any,
) -> PlayedEpisode:
    """Let ``llm`` play one episode.

    Args:
        client: Client of the server.
        llm: Called in each turn with the messages so far, which it must not change, and the tools. May
            raise :class:`LeaveEpisodeError`.
        env_name: Registered name, or a short one.
        seed: Seed of the episode.
        max_turns: Turns after which the episode is left; None to play until its end.
        system_prompt: A first message of role ``system``.
        **make_arguments: Arguments of :meth:`AsyncEnvClient.make`.

    Raises:
        VerlAgentEnvError: The environment could not be created or stepped.
    """
    async with client.make(env_name, seed=seed, **make_arguments) as env:
        tools = await env.tools()
        observation, info = await env.reset()
        messages: list[Message] = [{"role": "system", "content": system_prompt}] if system_prompt else []
        messages.extend(observation)
        reward, turns, invalid, terminated, truncated, left_because = 0.0, 0, 0, False, False, ""
        while not (terminated or truncated):
            if max_turns is not None and turns >= max_turns:
                truncated = True
                break
            try:
                thinking = llm(messages, tools)
                if not isinstance(thinking, Awaitable):
                    raise TypeError("llm must return an awaitable: write it as 'async def'")
                answer = assistant_message(await thinking, turns)
            except LeaveEpisodeError as left:
                truncated, left_because = True, str(left)
                break
            messages.append(sendable(answer))
            observation, step_reward, terminated, truncated, info = await env.step(answer)
            messages.extend(observation)
            reward += step_reward
            turns += 1
            invalid += info.get("action_is_valid") is False
        return PlayedEpisode(messages, reward, terminated, truncated, turns, info, invalid, left_because)
