"""Single-turn chat: a given conversation, one answer, and a scorer that rewards it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import orjson
from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from verl_agent_env.envs.base import Durability, EnvArguments, Execution
from verl_agent_env.envs.one_answer_env import OneAnswerEnv
from verl_agent_env.envs.scorer_registry import ScoreContext
from verl_agent_env.envs.scorers import (
    AnyScorer,
    Assessment,
    CallableScorer,
    ExactMatchScorer,
    JudgeScorer,
    MathScorer,
    NoScorer,
    NumericScorer,
    RegexScorer,
    WeightedScorer,
)
from verl_agent_env.envs.spaces import is_message
from verl_agent_env.envs.turn import Outcome
from verl_agent_env.messages import ParsedAction, content_text, user_message
from verl_agent_env.types import Action, Info, Message, Observation

MAX_MESSAGES = 1_000
MAX_CHAT_BYTES = 1 << 20
"""Limit of all messages together, as JSON."""

_ROLES = ("system", "user", "assistant", "tool")
_MIN_SECRET_CHARS = 4
_NOTHING_ASKED = "Answer with one message."


def read_message(message: dict[str, Any]) -> Message:
    """Copy ``message`` for use in an observation.

    Raises:
        ValueError: It is no chat message.
    """
    try:
        # An independent copy, and a proof that the message is JSON.
        copied: Message = orjson.loads(orjson.dumps(message))
    except TypeError:
        raise ValueError("the message cannot be written as JSON") from None
    if copied.get("role") not in _ROLES:
        raise ValueError(f"the role of a message must be one of {', '.join(_ROLES)}")
    if copied["role"] == "tool" and not isinstance(copied.get("tool_call_id"), str):
        raise ValueError("a message of the role tool needs the text tool_call_id")
    content = copied.get("content")
    if content is None and copied["role"] == "assistant" and copied.get("tool_calls"):
        # The form of OpenAI's API for a message that only calls tools.
        return {**copied, "content": ""}
    if not is_message(copied):
        raise ValueError("the content of a message must be text or a list of content parts")
    return copied


_ChatMessage = Annotated[
    dict[str, Any],
    AfterValidator(read_message),
    WithJsonSchema(
        {
            "type": "object",
            "properties": {
                "role": {"enum": list(_ROLES)},
                "content": {
                    "anyOf": [
                        {"type": "string"},
                        {"type": "null"},
                        {"type": "array", "items": {"type": "object"}},
                    ]
                },
                "tool_call_id": {"type": "string"},
                "tool_calls": {"type": "array", "items": {"type": "object"}},
            },
            "required": ["role"],
        }
    ),
]


class SingleTurnChatArguments(EnvArguments):
    """Keyword arguments of single-turn chat."""

    max_steps: int = Field(default=1, ge=1, le=1)
    """Always one turn."""
    chat_history: list[_ChatMessage] = Field(default=[], max_length=MAX_MESSAGES)
    """Conversation so far: chat messages of the roles ``system``, ``user``, ``assistant`` and ``tool``."""
    task_prompt: str | None = Field(default=None, max_length=MAX_CHAT_BYTES)
    """Last message of the user, after ``chat_history``."""
    system_prompt: str | None = Field(default=None, max_length=MAX_CHAT_BYTES)
    """System message before ``chat_history``, which then may not begin with one."""
    include_task_prompt: bool = True
    """True if the first observation ends with the task prompt."""
    scorer: AnyScorer = NoScorer()
    """Scorer of the answer: an object with its ``type``, one of ``none`` (always 0), ``exact_match``, ``regex``,
    ``numeric``, ``math``, ``callable`` (registered on the server), ``judge`` (a model of the operator's) and ``weighted``
    (several of these, each with a weight), and the options of that type."""
    success_threshold: float | None = None
    """Smallest score that counts as success. By default the reward of a right answer; 1 for a ``callable``; the best score of
    all criteria for a ``judge``; what the first part says for ``weighted``. With ``none`` nothing is judged: ``success`` is
    null."""

    @model_validator(mode="after")
    def _check_chat(self) -> SingleTurnChatArguments:
        begins_with_system = bool(self.chat_history) and self.chat_history[0]["role"] == "system"
        if self.system_prompt is not None and begins_with_system:
            raise ValueError("chat_history begins with a system message; do not give system_prompt as well")
        try:
            size = len(self.opening)
        except TypeError:
            raise ValueError("a prompt holds half a character (a lone surrogate)") from None
        if size > MAX_CHAT_BYTES:
            raise ValueError(f"the conversation is longer than {MAX_CHAT_BYTES} bytes of JSON")
        return self

    @functools.cached_property
    def opening(self) -> bytes:
        """First observation as JSON, copied for each episode."""
        messages = list(self.chat_history)
        if self.system_prompt is not None:
            messages.insert(0, {"role": "system", "content": self.system_prompt})
        asked = self.closing_prompt if self.include_task_prompt else ""
        if asked or not (messages or self.is_user_to_begin):
            messages.append(user_message(asked))
        return orjson.dumps(messages)

    @property
    def is_user_to_begin(self) -> bool:
        """True if the first observation ends with a message that these arguments do not hold."""
        return False

    @property
    def closing_prompt(self) -> str:
        """Last message of the user; empty if the history is enough."""
        if self.task_prompt is not None:
            return self.task_prompt
        return "" if self.chat_history else _NOTHING_ASKED

    def success_of(self, assessment: Assessment, *, valid: bool) -> bool | None:
        """Return whether an answer of this assessment is a success; None if nothing is judged."""
        if self.success_threshold is None and isinstance(self.scorer, NoScorer):
            return None
        return valid and self._is_success(assessment)

    def _is_success(self, assessment: Assessment) -> bool:
        if self.success_threshold is not None:
            return assessment.reward >= self.success_threshold
        return assessment.is_success


class SingleTurnChatEnv(OneAnswerEnv):
    """Answer a given conversation with one message.

    ## Action Space

    Any assistant message or raw text: its text is the answer; the scorer removes thoughts. There are no tools: a tool call
    gets an error message, and the text beside it is the answer.

    ## Observation

    At first the system prompt, the chat history and the task prompt as a message of the user, as far as they are
    given. With neither history nor task prompt the user asks for one message; with ``include_task_prompt=False`` an empty
    message is sent instead. After the answer: a note that the conversation has ended.

    ## Rewards

    The score of the ``scorer``; 0 without one. A registered callable that fails raises ``ScorerError``, a judge that gives no
    scores makes the step fail with ``endpoint_unavailable``, and the answer is not applied: a fault of the server never
    becomes a reward. A callable may block, so a server runs the environment in a thread; a judge is awaited. With a ``judge`` or
    ``weighted`` the info holds the parts of the reward (``reward_parts``).

    ## Episode End

    Terminated after one action (``success`` in the info when the reward is that of a right answer). One without
    text, or that is neither a message nor text, is an invalid action, scored as an empty answer.

    ## Arguments

    See :class:`SingleTurnChatArguments`.
    """

    env_name = "verl_env/single_turn_chat-v0"
    Arguments: ClassVar[type[EnvArguments]] = SingleTurnChatArguments
    durability: ClassVar[Durability | None] = "snapshot"
    # The state after the one step holds its reward: a scorer is never asked twice about an answer that was acknowledged.
    arguments: SingleTurnChatArguments

    __slots__ = ()

    def task_prompt_text(self) -> str:
        return self.arguments.closing_prompt

    def begin_episode(self, options: Mapping[str, Any]) -> None:
        super().begin_episode(options)
        try:
            self.arguments.scorer.prepare()
        except ValueError as unfit:
            raise self.invalid_arguments((["scorer"], str(unfit))) from None

    def first_observation(self) -> Observation:
        messages: Observation = orjson.loads(self.arguments.opening)
        return messages

    @classmethod
    def reward_part_names(cls, arguments: EnvArguments) -> Sequence[str]:
        return arguments.scorer.part_names if isinstance(arguments, SingleTurnChatArguments) else ()

    @classmethod
    def execution_for(cls, arguments: EnvArguments) -> Execution:
        """Return ``async`` for a scorer that waits for another service: it would take a thread for as long."""
        waits = isinstance(arguments, SingleTurnChatArguments) and arguments.scorer.waits
        return "async" if waits else cls.execution

    def score(self, parsed: ParsedAction) -> Outcome:
        """Score the answer.

        Raises:
            ScorerError: A registered callable failed.
            OutsideCallError: A judge gave no scores.
        """
        return self._outcome_of(parsed, self.arguments.scorer.assess(parsed.text, self._context()))

    async def areset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, Info]:
        """Begin an episode; the coroutine for :meth:`ChatEnv.reset`."""
        # The check of a scorer may start a process.
        return await asyncio.to_thread(self.reset, seed=seed, options=options)

    async def astep(self, action: Action) -> tuple[Observation, float, bool, bool, Info]:
        """Score the answer and end the episode; the coroutine for :meth:`step`."""
        self._require_running()
        parsed = self.read_action(action)
        assessment = await self.arguments.scorer.assess_async(parsed.text, self._context())
        return self._answered(action, parsed, self._outcome_of(parsed, assessment))

    async def aclose(self) -> None:
        """Release nothing: there is nothing to release."""

    def _context(self) -> ScoreContext:
        history = self.first_observation() if self.arguments.scorer.reads_history else ()
        return ScoreContext(chat_history=history, seed=self.episode_seed)

    def _outcome_of(self, parsed: ParsedAction, assessment: Assessment) -> Outcome:
        success = self.arguments.success_of(assessment, valid=self._fault_of_answer(parsed) is None)
        return Outcome(None, assessment.reward, terminated=True, success=success, parts=assessment.parts)

    def solution(self) -> list[Action] | None:
        """Return the reference answer of an exact-match scorer, as a message; ``None`` for other scorers."""
        scorer = self.arguments.scorer
        if self.ended or not isinstance(scorer, ExactMatchScorer):
            return None
        reference = scorer.answer if isinstance(scorer.answer, str) else scorer.answer[0]
        return [{"role": "assistant", "content": reference}]

    def draw(self, mode: str) -> Any:
        """Return the conversation as text, without the answer."""
        self._require_render_mode(mode)
        shown = self.first_observation()
        return "\n\n".join(f"{message['role']}: {content_text(message['content'])}" for message in shown)

    def secrets(self) -> Sequence[str]:
        """Return the references of the scorer, except those that are short or part of the conversation."""
        shown = "\n".join(content_text(message["content"]) for message in self.first_observation())
        references = _references(self.arguments.scorer)
        return [text for text in references if len(text) >= _MIN_SECRET_CHARS and text not in shown]


def _references(scorer: AnyScorer) -> Iterator[str]:
    """Return all texts that a scorer compares answers with."""
    if isinstance(scorer, ExactMatchScorer | MathScorer):
        yield from map(str, scorer.answer) if isinstance(scorer.answer, tuple) else (str(scorer.answer),)
    elif isinstance(scorer, NumericScorer):
        yield str(scorer.answer)
    elif isinstance(scorer, RegexScorer):
        yield scorer.pattern
    elif isinstance(scorer, CallableScorer):
        yield from _texts(scorer.arguments)
    elif isinstance(scorer, JudgeScorer):
        yield from () if scorer.reference is None else (scorer.reference,)
    elif isinstance(scorer, WeightedScorer):
        for part in scorer.parts.values():
            yield from _references(part.scorer)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
