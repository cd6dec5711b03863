"""One turn of the model: its moves in order, what each led to, and the messages that answer them."""

from __future__ import annotations

from typing import NamedTuple

from verl_agent_env.messages import ToolCall, text_part, tool_message, user_message
from verl_agent_env.types import Content, Message, Observation


class Outcome(NamedTuple):
    """What one move led to."""

    content: Content | None = None
    """What the model reads; ``None`` shows the environment as it looks now (:meth:`ChatEnv.observe`)."""
    reward: float = 0.0
    terminated: bool = False
    success: bool = False
    effective: bool = True
    """Whether the move changed anything."""
    fault: str | None = None
    """Why the move could not be carried out; the action then counts as invalid."""


class Turn:
    """The calls of one action that holds none, one or several."""

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
        """Whether every move was carried out."""
        return all(outcome.fault is None for outcome in self.outcomes)

    @property
    def effective(self) -> bool:
        """Whether any move changed anything."""
        return any(outcome.effective for outcome in self.outcomes)

    def refusal(self, num_steps: int, max_steps: int, max_actions: int) -> str | None:
        """Why the next call is not carried out; ``None`` when it is."""
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
        """Note what ``call`` led to and what the model shall read of it."""
        self.outcomes.append(outcome)
        self.reward += outcome.reward
        if call.id is not None:
            self._messages.append(tool_message(call.id, content))
            return
        # Moves written as text share one message: of views that follow each other only the last one counts.
        if outcome.content is None and self._shown_outcomes and _shows_only_view(self._shown_outcomes[-1]):
            self._text_parts.pop()
        self._text_parts.append(content)
        self._shown_outcomes.append(outcome)

    def refuse(self, call: ToolCall, note: str) -> None:
        """Note that ``call`` is not carried out; one with an id still gets its tool message.

        What is wrong with a call is said even so: the model learns to write it.
        """
        note = note if call.fault is None else f"Not carried out: {call.fault}"
        if call.id is not None:
            self._messages.append(tool_message(call.id, note))
        elif note not in self._notes:
            self._notes.append(note)

    def messages(self) -> Observation:
        """A tool message for each call with an id, and one user message for all moves written as text."""
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
