"""What is to be played, and how each episode went."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from verl_agent_env.client import AsyncEnvClient, play
from verl_agent_env.errors import VerlAgentEnvError
from verl_agent_env.evaluation.model import ChatModel, ModelUnavailableError
from verl_agent_env.types import Message

Outcome = Literal["success", "failure", "out_of_turns", "not_played"]


@dataclass(frozen=True)
class Plan:
    """What makes two evaluations comparable."""

    model: str
    env_name: str
    episodes: int = 100
    seed_start: int = 0
    """Seed of the first episode; the others follow."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    max_turns: int = 100
    """Turns after which an episode is left."""
    temperature: float | None = None
    system_prompt: str | None = None

    @property
    def seeds(self) -> range:
        """Of all episodes."""
        return range(self.seed_start, self.seed_start + self.episodes)

    def to_json(self) -> bytes:
        """As it is kept beside the results."""
        return orjson.dumps(self, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)


@dataclass(frozen=True)
class Episode:
    """One episode."""

    seed: int
    outcome: Outcome
    reward: float = 0.0
    turns: int = 0
    invalid_actions: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    error: str = ""
    """Why it was not played: a failure of the server or of the endpoint, never of the model."""
    messages: list[Message] = field(default_factory=list)

    def to_json(self) -> bytes:
        """One line."""
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, line: bytes) -> Episode:
        """Undo :meth:`to_json`.

        Raises:
            ValueError: It is none.
        """
        fields = orjson.loads(line)
        try:
            return cls(**{name.name: fields[name.name] for name in dataclasses.fields(cls)})
        except (KeyError, TypeError):
            raise ValueError("not an episode") from None


async def play_one(client: AsyncEnvClient, model: ChatModel, plan: Plan, seed: int) -> Episode:
    """Play the episode of a seed.

    Raises:
        ModelRefusedError: No other episode would fare better.
    """
    prompt_tokens = completion_tokens = 0

    async def ask(messages: list[Message], tools: list[dict[str, Any]]) -> Message:
        nonlocal prompt_tokens, completion_tokens
        answer = await model.ask(messages, tools)
        prompt_tokens += answer.prompt_tokens
        completion_tokens += answer.completion_tokens
        return answer.message

    began = time.monotonic()
    try:
        played = await play(
            client,
            ask,
            plan.env_name,
            seed=seed,
            max_turns=plan.max_turns,
            system_prompt=plan.system_prompt,
            env_kwargs=plan.env_kwargs,
        )
    except (VerlAgentEnvError, ModelUnavailableError) as error:
        return Episode(
            seed,
            "not_played",
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            seconds=round(time.monotonic() - began, 3),
            error=str(error),
        )
    outcome: Outcome = "failure"
    if played.info.get("success"):
        outcome = "success"
    elif played.truncated:
        outcome = "out_of_turns"
    return Episode(
        seed,
        outcome,
        played.reward,
        played.num_turns,
        played.num_invalid,
        prompt_tokens,
        completion_tokens,
        round(time.monotonic() - began, 3),
        messages=played.messages,
    )
