"""Plan of an evaluation, and its episodes."""

from __future__ import annotations

import dataclasses
import logging
import time
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import orjson

from verl_agent_env.chat_completions import Completion
from verl_agent_env.client import AsyncEnvClient, LeaveEpisodeError, PlayedEpisode, play
from verl_agent_env.errors import VerlAgentEnvError
from verl_agent_env.evaluation.model import (
    AnswerFormat,
    ChatModel,
    ConversationRefusedError,
    ModelRefusedError,
    ModelUnavailableError,
)
from verl_agent_env.types import Message

logger = logging.getLogger(__name__)

T = TypeVar("T", "EvaluationPlan", "EvaluatedEpisode")

Outcome = Literal["success", "failure", "out_of_turns", "out_of_context", "not_played"]
"""How an episode ended.

- ``success``, ``failure``: reported by the environment.
- ``out_of_turns``: the time limit of the environment, or ``max_turns``.
- ``out_of_context``: the conversation became too long for the model.
- ``not_played``: the server or the endpoint failed, and the next run retries; or this conversation was refused.
"""


@dataclass(frozen=True)
class EvaluationPlan:
    """Parameters of an evaluation; two evaluations of one plan are comparable."""

    model: str
    env_name: str
    episodes: int = 100
    seed_start: int = 0
    """Seed of the first episode; the others follow."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    max_turns: int = 100
    """Turns after which an episode is abandoned."""
    temperature: float | None = None
    system_prompt: str | None = None
    max_tokens: int | None = None
    """Limit of the tokens of one completion."""
    answer_format: AnswerFormat = "tools"

    @property
    def seeds(self) -> range:
        """Seeds of all episodes."""
        return range(self.seed_start, self.seed_start + self.episodes)

    def to_json(self) -> bytes:
        """Write the plan as JSON."""
        return orjson.dumps(self, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)

    @classmethod
    def from_json(cls, text: bytes) -> EvaluationPlan:
        """Read a plan from JSON, also of an earlier version.

        Raises:
            ValueError: The text is no plan.
        """
        return _from_fields(cls, text)


@dataclass(frozen=True)
class EvaluatedEpisode:
    """Result of one episode."""

    seed: int
    outcome: Outcome
    reward: float = 0.0
    turns: int = 0
    invalid_actions: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    error: str = ""
    """Reason why it was not played, or not to its end."""
    messages: list[Message] = field(default_factory=list)
    cut_off: int = 0
    """Completions cut off by the limit of tokens."""
    is_refused: bool = False
    """True if the endpoint or the model refused to continue this conversation."""

    @property
    def is_final(self) -> bool:
        """True if another attempt would have the same outcome."""
        return self.outcome != "not_played" or self.is_refused

    def to_json(self) -> bytes:
        """Write the episode as a line of JSON."""
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, line: bytes) -> EvaluatedEpisode:
        """Read an episode from a line of JSON.

        Raises:
            ValueError: The line is no episode.
        """
        return _from_fields(cls, line)


@dataclass
class _Asker:
    """Conversation of one episode with the model, and its counters."""

    model: ChatModel
    answers: list[Completion] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    """Conversation as sent last."""
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
        """Return the conversation with the separate reasoning of each completion, and its tokens as far as they are known."""
        answers = iter(self.answers)
        told: list[Message] = []
        for message in self.messages:
            answer = next(answers, None) if message.get("role") == "assistant" else None
            told.append(message if answer is None else {**message, **_notes_of(answer)})
        return told


def _notes_of(answer: Completion) -> dict[str, Any]:
    counts = {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens}
    reasoning = {"reasoning_content": answer.reasoning} if answer.reasoning else {}
    return {**reasoning, **({"usage": counts} if any(counts.values()) else {})}


async def play_one(
    client: AsyncEnvClient, model: ChatModel, plan: EvaluationPlan, seed: int
) -> EvaluatedEpisode:
    """Play the episode of a seed.

    Raises:
        ModelRefusedError: The endpoint refuses every request.
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
        return EvaluatedEpisode(seed, "not_played", seconds=seconds, error=reason, **asker.counts())
    asker.messages = played.messages
    return EvaluatedEpisode(
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
