"""Tool dialogues: a conversation in which a model calls tools until it answers, and a scorer rewards the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from pydantic import Field

from verl_agent_env.envs.arguments import EnvArguments
from verl_agent_env.envs.async_env import AsyncChatEnv
from verl_agent_env.envs.reward_parts import TASK
from verl_agent_env.envs.scorer_registry import ScoreContext
from verl_agent_env.envs.scorers import Assessment
from verl_agent_env.envs.single_turn_chat import SingleTurnChatArguments
from verl_agent_env.envs.turn import Outcome
from verl_agent_env.envs.user_simulator import UserSimulator, UserWords
from verl_agent_env.messages import ParsedAction, ToolCall, content_text, user_message
from verl_agent_env.messages.reading import strip_thoughts
from verl_agent_env.types import Action, Content, Info, Message, Observation, StepResult

_NOTHING_ASKED = "Use the tools as you like, then answer with a message."
_END = "The conversation has ended."
_NO_ANSWER = "The answer has no text."


class ToolDialogueArguments(SingleTurnChatArguments):
    """Keyword arguments of tool dialogues."""

    max_steps: int = Field(default=50, ge=1, le=100_000)
    """Tool calls after which the episode is truncated; a turn that cannot be read counts as one."""
    max_actions_per_turn: int = Field(default=16, ge=1, le=1_000)
    """Limit of the calls of one message; they run concurrently."""
    max_result_chars: int = Field(default=50_000, ge=100, le=10_000_000)
    """Limit of the text of one tool result; the rest is cut off."""
    tool_error_reward: float = 0.0
    """Added for each call whose result is an error; usually zero or below."""
    user: UserSimulator | None = None
    """A model that plays the user (see ``docs/environments.md``): a message without a tool call is said to the user, who answers or ends
    the conversation. Without a ``task_prompt`` the user says the first message. By default such a message is the answer."""

    @property
    def closing_prompt(self) -> str:
        """Last message of the user; empty if the history is enough."""
        if self.task_prompt is not None:
            return self.task_prompt
        return "" if self.chat_history or self.user is not None else _NOTHING_ASKED

    @property
    def is_user_to_begin(self) -> bool:
        """True if the user says the first message."""
        return self.user is not None and self.task_prompt is None


class ToolDialogueEnv(AsyncChatEnv):
    """Base class of environments in which a message without a tool call is the answer, which a scorer rewards.

    With a simulated ``user`` such a message is said to the user, and the last one before the user's end is the answer.

    A subclass has its tools, the hooks ``begin_dialogue`` and ``act_async``, and arguments of
    :class:`ToolDialogueArguments`.
    """

    arguments: ToolDialogueArguments

    __slots__ = ("_conversation", "_tool_errors")

    def __init__(self, render_mode: str | None = None, **kwargs: Any) -> None:
        super().__init__(render_mode, **kwargs)
        self._conversation: list[Message] = []
        self._tool_errors = 0

    @classmethod
    def reward_part_names(cls, arguments: EnvArguments) -> Sequence[str]:
        """Return the parts of the scorer's rewards, and ``task`` for what calls cost."""
        names = arguments.scorer.part_names if isinstance(arguments, ToolDialogueArguments) else ()
        return (*names, TASK) if names else ()

    # --- hooks ----------------------------------------------------------------------------------------------

    async def begin_dialogue(self) -> None:
        """Prepare the tools of a new episode.

        Raises:
            InvalidEnvArgumentsError: There can be no episode.
        """

    def task_prompt_text(self) -> str:
        return self.arguments.closing_prompt

    async def begin_episode_async(self, options: Mapping[str, Any]) -> None:
        if options:
            raise self.invalid_arguments((["options"], "a dialogue with tools takes no options"))
        try:
            # It may start a process.
            await asyncio.to_thread(self.arguments.scorer.prepare)
        except ValueError as unfit:
            raise self.invalid_arguments((["scorer"], str(unfit))) from None
        words = await self._words_of_user(self._given()) if self.arguments.is_user_to_begin else None
        await self.begin_dialogue()
        self._conversation = [] if words is None else [user_message(words.text)]
        self._tool_errors = 0

    def first_observation(self) -> Observation:
        return [*self._given(), *self._conversation[: self.arguments.is_user_to_begin]]

    async def astep(self, action: Action) -> tuple[Observation, float, bool, bool, Info]:
        """Carry out the calls of a message, or score the answer, as :meth:`ChatEnv.step`.

        Raises:
            EpisodeNotStartedError, EpisodeEndedError: No episode is running.
            ScorerError: A registered callable failed; the episode continues.
            OutsideCallError: A judge or a simulated user gave no answer; the episode continues.
        """
        self._require_running()
        self._tool_errors = 0
        parsed = self.read_action(action)
        if parsed.calls or parsed.fault is not None:
            result = StepResult(*await super().astep(action))
        elif self.arguments.user is not None:
            result = StepResult(*await self._say_to_user(action, parsed))
        else:
            result = StepResult(*await self.answer(action, parsed))
        result.info["tool_errors"] = self._tool_errors
        if self.keeps_conversation:
            self._conversation += [said(parsed), *result.observation]
        return result

    def checked_calls(self, parsed: ParsedAction) -> list[ToolCall]:
        if parsed.calls or parsed.fault is not None:
            return super().checked_calls(parsed)
        return [] if self._has_words(parsed) else [ToolCall("", {}, None, _NO_ANSWER)]

    def draw(self, mode: str) -> Any:
        """Return the beginning of the conversation as text."""
        self._require_render_mode(mode)
        return "\n\n".join(
            f"{message['role']}: {content_text(message['content'])}" for message in self.first_observation()
        )

    def secrets(self) -> Sequence[str]:
        """Return what a simulated user knows and the model has to find out."""
        user = self.arguments.user
        return () if user is None else (user.goal,)

    # --- for subclasses -------------------------------------------------------------------------------------

    @property
    def keeps_conversation(self) -> bool:
        """True if the conversation is part of the state; by default if the scorer or a simulated user reads it."""
        return self.arguments.scorer.reads_history or self.arguments.user is not None

    @property
    def conversation(self) -> list[Message]:
        """Messages so far, the first observation included."""
        return [*self._given(), *self._conversation]

    def failed_call(self, content: Content) -> Outcome:
        """Return the outcome of a call whose result is an error."""
        self._tool_errors += 1
        return Outcome(content, reward=self.arguments.tool_error_reward, effective=False)

    async def answer(
        self, action: Action, parsed: ParsedAction, closing: str = _END
    ) -> tuple[Observation, float, bool, bool, Info]:
        """Score the model's message, and end the episode with this closing message."""
        context = ScoreContext(self.conversation, self.episode_seed, {"num_steps": self._steps})

        async def assess() -> list[Any]:
            # Scorers may block or wait, and take long for long texts.
            return list(await self.arguments.scorer.assess_async(parsed.text, context))

        assessment = Assessment(*await self.outcome_of(assess))
        valid = bool(parsed.text)
        outcome = Outcome(
            None,
            assessment.reward,
            terminated=True,
            success=self.arguments.success_of(assessment, valid=valid),
            fault=None if valid else _NO_ANSWER,
            parts=assessment.parts,
        )
        outcome = self._penalized(outcome)
        self._steps += 1
        return self._finish([user_message(closing)], outcome.reward, outcome, valid, valid, action)

    def dialogue(self) -> Any:
        """Return what is kept of the conversation, as JSON values."""
        return self._conversation

    def load_dialogue(self, conversation: Any) -> None:
        """Set what :meth:`dialogue` returned."""
        if not isinstance(conversation, list):
            raise ValueError("not a conversation")
        self._conversation, self._tool_errors = conversation, 0

    # --- inner workings -------------------------------------------------------------------------------------

    def _given(self) -> list[Message]:
        messages: list[Message] = orjson.loads(self.arguments.opening)
        return messages

    def _has_words(self, parsed: ParsedAction) -> bool:
        """Return true if a message without calls says something: to the scorer, or to the user, who hears no thoughts."""
        return bool(parsed.text if self.arguments.user is None else strip_thoughts(parsed.text).strip())

    async def _say_to_user(
        self, action: Action, parsed: ParsedAction
    ) -> tuple[Observation, float, bool, bool, Info]:
        """Have the simulated user answer the model's message, or end the conversation, which is then scored."""
        if not self._has_words(parsed):
            # There is nothing to answer.
            outcome = self._invalid(_NO_ANSWER, self.no_op_reward(), None)
        else:
            words = await self._words_of_user([*self.conversation, said(parsed)])
            if words.ends:
                return await self.answer(action, parsed, words.text or _END)
            outcome = Outcome(words.text)
        self._steps += 1
        is_valid = outcome.fault is None
        return self._finish(
            [user_message(self._show(outcome))], outcome.reward, outcome, is_valid, is_valid, action
        )

    async def _words_of_user(self, conversation: list[Message]) -> UserWords:
        user = self.arguments.user
        if user is None:
            raise RuntimeError("there is no simulated user")

        async def speak() -> list[Any]:
            return list(await user.speak(conversation))

        return UserWords(*await self.outcome_of(speak))


def said(parsed: ParsedAction) -> Message:
    """Convert the model's turn to a message of the conversation; calls written as text stay text."""
    message: Message = {"role": "assistant", "content": parsed.text}
    calls: list[ToolCall] = [call for call in parsed.calls if call.id is not None]
    if calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": orjson.dumps(call.arguments).decode()},
            }
            for call in calls
        ]
    return message
