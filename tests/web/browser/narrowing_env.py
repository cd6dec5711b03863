"""An environment of the shape that board games of other packages have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from verl_agent_env.envs.base import ChatEnv
from verl_agent_env.envs.turn import Outcome
from verl_agent_env.messages import Tool, ToolCall


def _schema(name: str, **schema: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: {"type": "string", **schema}},
        "required": [name],
        "additionalProperties": False,
    }


class NarrowingEnv(ChatEnv):
    """Take matches from heaps until none is left: a board as text, other legal moves after each step, and a text of several
    lines as an argument."""

    env_name = "odd/narrowing-v0"
    execution = "inline"
    heaps: list[int]

    def task_prompt_text(self) -> str:
        return "Take matches from one of the heaps, until none is left."

    def begin_episode(self, options: Mapping[str, Any]) -> None:
        self.heaps, self.said = [3, 1, 2], ""
        self._offer_moves()

    def observe(self) -> str:
        rows = [f"{number}: {'| ' * left}" for number, left in enumerate(self.heaps)]
        return "\n".join([*rows, f"Last note: {self.said}"])

    def act(self, call: ToolCall) -> Outcome:
        if call.name == "note":
            self.said = call.arguments["text"]
            return Outcome()
        heap, count = map(int, call.arguments["move"].split("-"))
        self.heaps[heap] -= count
        self._offer_moves()
        over = not any(self.heaps)
        return Outcome(reward=float(over), terminated=over, success=over)

    def _offer_moves(self) -> None:
        moves = [f"{heap}-{count}" for heap, left in enumerate(self.heaps) for count in range(1, left + 1)]
        move = _schema("move", **({"enum": moves} if moves else {}))
        self._set_tools((Tool("take", "Take matches.", move), Tool("note", "Note a text.", _schema("text"))))
