"""A game in which both seats act at the same time, several rounds of it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, ClassVar

from verl_agent_env.envs.base import Execution
from verl_agent_env.envs.registry import EnvSpec
from verl_agent_env.envs.seats import SeatedEnv, SeatOutcome
from verl_agent_env.messages import Tool, ToolCall
from verl_agent_env.types import Action

_BEATS = {"rock": "scissors", "paper": "rock", "scissors": "paper"}
_ROUNDS = 2


class RockPaperScissorsEnv(SeatedEnv):
    """Rock, paper, scissors at two seats, two rounds."""

    env_name = "duel/rock_paper_scissors-v0"
    execution: ClassVar[Execution] = "inline"
    tools = tuple(Tool(name, f"Show {name}.") for name in _BEATS)

    __slots__ = ("_hidden", "_rounds")

    @property
    def num_seats(self) -> int:
        return 2

    def turn(self) -> tuple[int, ...]:
        return tuple(seat for seat in range(2) if self._hidden[seat] is None)

    def task_prompt_text(self) -> str:
        return "Show rock, paper or scissors."

    def begin_game(self, options: Mapping[str, Any]) -> None:
        self._hidden: list[str | None] = [None, None]
        self._rounds: list[list[str]] = []

    def observe_seat(self, seat: int) -> str:
        lines = [
            f"Round {n}: you {shown[seat]}, the other {shown[1 - seat]}."
            for n, shown in enumerate(self._rounds)
        ]
        return "\n".join(lines or ["Nobody has shown anything."])

    def act_at(self, seat: int, call: ToolCall) -> SeatOutcome:
        self._hidden[seat] = call.name
        one, other = self._hidden
        if one is None or other is None:
            return SeatOutcome()
        self._hidden = [None, None]
        self._rounds.append([one, other])
        paid = 0.0 if one == other else 1.0 if _BEATS[one] == other else -1.0
        return SeatOutcome((paid, -paid), terminated=len(self._rounds) == _ROUNDS)

    def sample_action(self, dice: random.Random) -> Action:
        """Any of the three."""
        return dice.choice(list(_BEATS))

    def dump_game(self) -> Any:
        return [self._hidden, self._rounds]

    def load_game(self, state: Any) -> None:
        self._hidden, self._rounds = state


SPEC = EnvSpec(RockPaperScissorsEnv.env_name, f"{__name__}:RockPaperScissorsEnv")
