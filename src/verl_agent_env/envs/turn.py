"""One turn of the model: its calls in order, their outcomes, and the messages that answer them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from verl_agent_env.messages import ToolCall, text_part, tool_message, user_message
from verl_agent_env.types import Content, Message, Observation


class Outcome(NamedTuple):
    """Outcome of one move."""

    content: Content | None = None
    """Content for the model; ``None`` shows the current state (:meth:`ChatEnv.observe`)."""
    reward: float = 0.0
    terminated: bool = False
    success: bool | None = False
    """None if the episode ends without a judgement."""
    effective: bool = True
    """True if the move changed anything."""
    fault: str | None = None
    """Reason why the move could not be carried out; the action then counts as invalid."""
    parts: Mapping[str, float] | None = None
    """Parts of the reward by name, their sum being ``reward``; ``None`` for a reward of one part."""


class Turn:
    """Calls of one action, none, one or several, and their outcomes."""

    def __init__(self, calls: list[ToolCall]) -> None:
        self.calls = calls
        self.outcomes: list[Outcome] = []
        self.reward = 0.0
        self._messages: list[Message] = []
        self._text_parts: list[Content] = []
        self._shown_outcomes: list[Outcome] = []
        self._notes: list[str] = []

    @property
    def valid(self) -> bool:
        """True if every move was carried out."""
        return all(outcome.fault is None for outcome in self.outcomes)

    @property
    def effective(self) -> bool:
        """True if any move changed anything."""
        return any(outcome.effective for outcome in self.outcomes)

    def refusal(self, num_steps: int, max_steps: int, max_actions: int) -> str | None:
        """Return why the next call must not be carried out; ``None`` if it may be."""
        done = len(self.outcomes)
        if done and self.outcomes[-1].terminated:
            return "Not carried out: the episode has ended."
        if done and num_steps >= max_steps:
            return "Not carried out: the episode has reached its last step."
        if done >= max_actions:
            counted = "action" if max_actions == 1 else f"{max_actions} actions"
            return f"Not carried out: only the first {counted} of a turn counts."
        return None

    def add(self, call: ToolCall, outcome: Outcome, content: Content) -> None:
        """Add the outcome of ``call`` and the content that the model reads."""
        self.outcomes.append(outcome)
        self.reward += outcome.reward
        if call.id is not None:
            self._messages.append(tool_message(call.id, content))
            return
        # Moves written as text share one message: of consecutive views only the last is kept.
        if outcome.content is None and self._shown_outcomes and _shows_only_view(self._shown_outcomes[-1]):
            self._text_parts.pop()
        self._text_parts.append(content)
        self._shown_outcomes.append(outcome)

    def refuse(self, call: ToolCall, note: str) -> None:
        """Add the note that ``call`` is not carried out; a call with an id gets a tool message.

        The note names the fault of a faulty call, so that the model learns the right form.
        """
        note = note if call.fault is None else f"Not carried out: {call.fault}"
        if call.id is not None:
            self._messages.append(tool_message(call.id, note))
        elif note not in self._notes:
            self._notes.append(note)

    def messages(self) -> Observation:
        """Return a tool message for each call with an id, and one user message for all moves written as text."""
        said: list[Content] = [*self._text_parts, *self._notes]
        if not said:
            return self._messages
        return [*self._messages, user_message(_joined(said))]


def _shows_only_view(outcome: Outcome) -> bool:
    return outcome.fault is None and outcome.content is None


def _joined(contents: list[Content]) -> Content:
    if all(isinstance(content, str) for content in contents):
        return "\n".join(str(content) for content in contents)
    parts = []
    for content in contents:
        parts.extend([text_part(content)] if isinstance(content, str) else content)
    return parts
