"""What is to be played, and how each episode went."""

from __future__ import annotations

import dataclasses
import logging
import time
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import orjson

from verl_agent_env.client import AsyncEnvClient, LeaveEpisodeError, PlayedEpisode, play
from verl_agent_env.errors import VerlAgentEnvError
from verl_agent_env.evaluation.model import (
    AnswerFormat,
    ChatModel,
    ConversationRefusedError,
    ModelRefusedError,
    ModelUnavailableError,
)
from verl_agent_env.evaluation.replies import Answer
from verl_agent_env.types import Message

logger = logging.getLogger(__name__)

T = TypeVar("T", "Plan", "Episode")

Outcome = Literal["success", "failure", "out_of_turns", "out_of_context", "not_played"]
"""How an episode ended.

- ``success``, ``failure``: as the environment says.
- ``out_of_turns``: the time limit of the environment, or ``max_turns``.
- ``out_of_context``: the conversation became too long for the model.
- ``not_played``: the server or the endpoint failed, and the next run tries again; or this conversation was refused.
"""


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
    max_tokens: int | None = None
    """Tokens of one answer at most."""
    answer_format: AnswerFormat = "tools"

    @property
    def seeds(self) -> range:
        """Of all episodes."""
        return range(self.seed_start, self.seed_start + self.episodes)

    def to_json(self) -> bytes:
        """As it is kept beside the results."""
        return orjson.dumps(self, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)

    @classmethod
    def from_json(cls, text: bytes) -> Plan:
        """Undo :meth:`to_json`, also of an earlier version.

        Raises:
            ValueError: The text is no plan.
        """
        return _from_fields(cls, text)


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
    """Why it was not played, or not to its end."""
    messages: list[Message] = field(default_factory=list)
    cut_off: int = 0
    """Answers that were cut off by the limit of tokens."""
    is_refused: bool = False
    """Whether the endpoint or the model refused to go on, for what the conversation holds."""

    @property
    def is_final(self) -> bool:
        """Whether another try would end no differently."""
        return self.outcome != "not_played" or self.is_refused

    def to_json(self) -> bytes:
        """One line."""
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, line: bytes) -> Episode:
        """Undo :meth:`to_json`.

        Raises:
            ValueError: It is none.
        """
        return _from_fields(cls, line)


@dataclass
class _Asker:
    """Asks the model for each turn of one episode, and counts."""

    model: ChatModel
    answers: list[Answer] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    """The conversation as it was sent last."""
    refusal: ConversationRefusedError | None = None

    async def __call__(self, messages: list[Message], tools: list[dict[str, Any]]) -> Message:
        self.messages = messages
        try:
            answer = await self.model.ask(messages, tools)
        except ConversationRefusedError as refused:
            self.refusal = refused
            raise LeaveEpisodeError(str(refused)) from refused
        self.answers.append(answer)
        return answer.message

    def counts(self) -> dict[str, Any]:
        return {
            "prompt_tokens": sum(answer.prompt_tokens for answer in self.answers),
            "completion_tokens": sum(answer.completion_tokens for answer in self.answers),
            "cut_off": sum(answer.finish_reason == "length" for answer in self.answers),
        }

    def transcript(self) -> list[Message]:
        """Return the conversation with the reasoning that the endpoint told apart."""
        reasoning = iter([answer.reasoning for answer in self.answers])
        told: list[Message] = []
        for message in self.messages:
            thought = next(reasoning, "") if message.get("role") == "assistant" else ""
            told.append({**message, "reasoning_content": thought} if thought else message)
        return told


async def play_one(client: AsyncEnvClient, model: ChatModel, plan: Plan, seed: int) -> Episode:
    """Play the episode of a seed.

    Raises:
        ModelRefusedError: No other episode would fare better.
    """
    asker, began = _Asker(model), time.monotonic()
    try:
        played = await play(
            client,
            asker,
            plan.env_name,
            seed=seed,
            max_turns=plan.max_turns,
            system_prompt=plan.system_prompt,
            env_kwargs=plan.env_kwargs,
        )
    except ModelRefusedError:
        raise
    except Exception as error:
        # Whatever one conversation comes to, the others go on.
        if not isinstance(error, VerlAgentEnvError | ModelUnavailableError):
            logger.exception("an episode failed", extra={"seed": seed})
        seconds = round(time.monotonic() - began, 3)
        reason = str(error) or type(error).__name__
        return Episode(seed, "not_played", seconds=seconds, error=reason, **asker.counts())
    asker.messages = played.messages
    return Episode(
        seed,
        _outcome_of(played, asker.refusal),
        played.reward,
        played.num_turns,
        played.num_invalid,
        seconds=round(time.monotonic() - began, 3),
        error=played.left_because,
        messages=asker.transcript(),
        is_refused=asker.refusal is not None and not asker.refusal.out_of_context,
        **asker.counts(),
    )


def _outcome_of(played: PlayedEpisode, refusal: ConversationRefusedError | None) -> Outcome:
    if refusal is not None:
        return "out_of_context" if refusal.out_of_context else "not_played"
    if played.info.get("success"):
        return "success"
    return "out_of_turns" if played.truncated else "failure"


def _from_fields(cls: type[T], text: bytes) -> T:
    fields = orjson.loads(text)
    try:
        known = {name.name for name in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in fields.items() if name in known})
    except (AttributeError, TypeError):
        raise ValueError(f"not a record of {cls.__name__}") from None
