"""A game for two seats with a fault of choice."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from verl_agent_env.envs.base import EnvArguments
from verl_agent_env.envs.connect_four import ConnectFourArguments, ConnectFourEnv
from verl_agent_env.envs.seats import SeatOutcome


class FaultyDuelArguments(ConnectFourArguments):
    """Keyword arguments of the duel."""

    opponent: Literal["self"] = "self"
    fault: Literal["none", "forgets_turn", "shows_change", "pays_one", "nobody_in_turn"] = "none"
    """What is wrong."""


class FaultyDuelEnv(ConnectFourEnv):
    """Play Connect Four at two seats, with a fault of choice."""

    env_name = "acme/faulty_duel-v0"
    Arguments: ClassVar[type[EnvArguments]] = FaultyDuelArguments
    arguments: FaultyDuelArguments

    __slots__ = ("_extra", "_looks")

    def begin_game(self, options: Any) -> None:
        super().begin_game(options)
        self._looks = self._extra = 0

    def turn(self) -> tuple[int, ...]:
        if self.arguments.fault == "nobody_in_turn":
            return (7,)
        (seat,) = super().turn()
        return ((seat + self._extra) % 2,)

    def observe_seat(self, seat: int) -> str:
        self._looks += self.arguments.fault == "shows_change"
        return f"{super().observe_seat(seat)} {self._looks}"

    def act_at(self, seat: int, call: Any) -> SeatOutcome:
        outcome = super().act_at(seat, call)
        return outcome._replace(rewards=[1.0]) if self.arguments.fault == "pays_one" else outcome

    def load_game(self, state: Any) -> None:
        super().load_game(state)
        self._looks, self._extra = 0, int(self.arguments.fault == "forgets_turn")
