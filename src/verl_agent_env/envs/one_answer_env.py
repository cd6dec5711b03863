"""Base class of environments of one turn: the model answers with one message, which is scored and ends the episode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from verl_agent_env.envs.base import ChatEnv
from verl_agent_env.envs.turn import Outcome
from verl_agent_env.messages import ParsedAction, ToolCall, tool_message, user_message
from verl_agent_env.types import Action, Info, Observation

_NO_TOOLS = "There are no tools here."


class OneAnswerEnv(ChatEnv):
    """Base class of environments without tools whose episode is one answer.

    A subclass has the hooks ``answer_in`` and ``score``; it scores nothing twice, so that its episode has no state.
    """

    no_answer: ClassVar[str] = "The answer has no text."
    """Fault of a message that holds no answer."""
    closing: ClassVar[str] = "The conversation has ended."
    """Observation after the answer."""

    __slots__ = ()

    def answer_in(self, parsed: ParsedAction) -> str:
        """Return the answer that a message states; empty if there is none."""
        return parsed.text

    def score(self, parsed: ParsedAction) -> Outcome:
        """Score a message, which may hold no answer, and change nothing."""
        raise NotImplementedError

    def begin_episode(self, options: Mapping[str, Any]) -> None:
        if options:
            raise self.invalid_arguments((["options"], "an episode of one answer takes no options"))

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, Info]:
        """Score the answer and end the episode, as :meth:`ChatEnv.step`; an error of ``score`` leaves it as it was."""
        self._require_running()
        parsed = self.read_action(action)
        return self._answered(action, parsed, self.score(parsed))

    def checked_calls(self, parsed: ParsedAction) -> list[ToolCall]:
        fault = self._fault_of_answer(parsed)
        return [] if fault is None else [ToolCall("", {}, None, fault)]

    def dump_state(self) -> Any:
        # The arguments and the seed determine the whole state.
        return None

    def load_state(self, state: Any) -> None:
        if state is not None:
            raise ValueError("an episode of one answer has no state")

    def _fault_of_answer(self, parsed: ParsedAction) -> str | None:
        """Return what keeps a message from being an answer; ``None`` if it is one."""
        return parsed.fault or (None if self.answer_in(parsed) else self.no_answer)

    def _answered(
        self, action: Action, parsed: ParsedAction, scored: Outcome
    ) -> tuple[Observation, float, bool, bool, Info]:
        """End the episode with this score of the answer."""
        fault = self._fault_of_answer(parsed)
        valid = fault is None
        outcome = self._penalized(scored._replace(fault=fault))
        self._steps += 1
        replies = [tool_message(call.id, _NO_TOOLS) for call in parsed.calls if call.id is not None]
        return self._finish(
            [*replies, user_message(self.closing)], outcome.reward, outcome, valid, valid, action
        )
