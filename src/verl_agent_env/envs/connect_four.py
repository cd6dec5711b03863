"""Connect Four, against the server or between two seats."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from verl_agent_env.envs.base import EnvArguments, Execution
from verl_agent_env.envs.seats import SeatedArguments, SeatedEnv, SeatOutcome
from verl_agent_env.messages import Tool, ToolCall
from verl_agent_env.types import Action

_MARKS = ("X", "O")
_DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))
_DROP = Tool(
    "drop",
    "Drop a piece into a column.",
    {
        "type": "object",
        "properties": {
            "column": {
                "type": "integer",
                "minimum": 1,
                "description": "Number of the column, from 1 at the left.",
            }
        },
        "required": ["column"],
        "additionalProperties": False,
    },
)


class ConnectFourArguments(SeatedArguments):
    """Keyword arguments of Connect Four."""

    max_steps: int = Field(default=100, ge=1, le=1_000_000)
    """Moves, of all seats and with invalid ones, after which the episode is truncated."""
    width: int = Field(default=7, ge=3, le=20)
    """Number of columns."""
    height: int = Field(default=6, ge=3, le=20)
    """Number of rows."""
    connect: int = Field(default=4, ge=3, le=10)
    """Pieces in a line that win."""
    opponent: Literal["random", "block", "self"] = "random"
    """Who plays against the model: the server, by ``random`` moves or by one that wins or keeps the other from winning at once
    (``block``), or nobody but the model itself and other clients, at two seats (``self``)."""
    seat: Literal[0, 1] | None = None
    """The model's seat against the server; when not given, the seed decides. Seat 0 begins."""


class ConnectFourEnv(SeatedEnv):
    """Drop pieces into columns until four of them are in a line.

    ## Action Space

    One tool, ``drop(column)``, with the number of a column from 1. In plain text the number alone does as well.

    ## Observation

    The board from above to below, the pieces of the seat and whose turn it is.

    ## Rewards

    1 for the seat that wins, -1 for the other one, 0 for a draw. With ``opponent="self"`` the info has the ``rewards`` of both
    seats; see [seats](#seats).

    ## Episode End

    Terminated when a line is made (``success`` in the info for the seat that made it) or the board is full; truncated after
    ``max_steps`` moves.

    ## Arguments

    See :class:`ConnectFourArguments`.
    """

    env_name = "verl_env/connect_four-v0"
    Arguments: ClassVar[type[EnvArguments]] = ConnectFourArguments
    execution: ClassVar[Execution] = "inline"
    tools = (_DROP,)
    arguments: ConnectFourArguments

    __slots__ = ("_columns", "_last", "_seat", "_winner")

    @property
    def num_seats(self) -> int:
        return 2 if self.arguments.opponent == "self" else 1

    def turn(self) -> tuple[int, ...]:
        return (self._to_move,) if self.num_seats == 2 else (0,)

    def task_prompt_text(self) -> str:
        arguments = self.arguments
        return (
            f"You play Connect Four on a board of {arguments.width} columns and {arguments.height} rows. In turns, each player"
            f" drops a piece into a column, where it falls to the lowest free place. Who first has {arguments.connect} pieces"
            " next to each other in a row, a column or a diagonal wins. Call the tool drop with the number of a column."
        )

    def begin_game(self, options: Mapping[str, Any]) -> None:
        if options:
            raise self.invalid_arguments((["options"], "Connect Four takes no options"))
        self._columns: list[str] = [""] * self.arguments.width
        self._last: int | None = None
        self._winner: int | None = None
        self._seat: int | None = None
        if self.num_seats == 1:
            seat = self.arguments.seat
            self._seat = self.rng.randrange(2) if seat is None else seat
            if self._seat == 1:
                self._drop(self._servers_column())

    def observe_seat(self, seat: int) -> str:
        mark = _MARKS[seat if self._seat is None else self._seat]
        height = self.arguments.height
        rows = [
            " ".join(column[row] if row < len(column) else "." for column in self._columns)
            for row in reversed(range(height))
        ]
        numbers = " ".join(str(number % 10) for number in range(1, self.arguments.width + 1))
        lines = [*rows, numbers, f"You play {mark}."]
        if self._last is not None:
            lines.append(f"The last piece fell into column {self._last + 1}.")
        if self._is_over:
            lines.append("A draw." if self._winner is None else f"{_MARKS[self._winner]} has won.")
        return "\n".join(lines)

    def act_at(self, seat: int, call: ToolCall) -> SeatOutcome:
        column = call.arguments["column"] - 1
        if not 0 <= column < self.arguments.width:
            return SeatOutcome(fault=f"There is no column {column + 1}.", effective=False)
        if len(self._columns[column]) == self.arguments.height:
            return SeatOutcome(fault=f"Column {column + 1} is full.", effective=False)
        self._drop(column)
        if self._seat is not None and not self._is_over:
            self._drop(self._servers_column())
        if not self._is_over:
            return SeatOutcome()
        players = (0, 1) if self._seat is None else (self._seat,)
        won = [self._winner == player for player in players]
        rewards = [0.0 if self._winner is None else 1.0 if is_won else -1.0 for is_won in won]
        return SeatOutcome(rewards, terminated=True, successes=won)

    def call_from_word(self, word: str) -> ToolCall:
        text = word.strip(" \t\n.!")
        if text.isascii() and text.isdigit() and len(text) <= 3:
            return ToolCall("drop", {"column": int(text)})
        return super().call_from_word(word)

    def sample_action(self, dice: random.Random) -> Action:
        """A column, most of the time one that is not full."""
        if self._seed is None:
            return "1"
        free = [
            number for number, column in enumerate(self._columns, 1) if len(column) < self.arguments.height
        ]
        return str(dice.choice(free or [1])) if dice.random() < 0.9 else str(self.arguments.width + 1)

    def dump_game(self) -> Any:
        return [self._columns, self._last, self._winner, self._seat]

    def load_game(self, state: Any) -> None:
        self._columns, self._last, self._winner, self._seat = state

    # --- rules ----------------------------------------------------------------------------------------------

    @property
    def _to_move(self) -> int:
        return sum(map(len, self._columns)) % 2

    @property
    def _is_over(self) -> bool:
        return self._winner is not None or not self._free()

    def _free(self) -> list[int]:
        return [number for number, column in enumerate(self._columns) if len(column) < self.arguments.height]

    def _drop(self, column: int) -> None:
        player = self._to_move
        if self._wins(column, player):
            self._winner = player
        self._columns[column] += _MARKS[player]
        self._last = column

    def _wins(self, column: int, player: int) -> bool:
        """Tell whether a piece of the player in this column makes a line."""
        row, mark = len(self._columns[column]), _MARKS[player]
        return any(
            1 + self._run(column, row, right, up, mark) + self._run(column, row, -right, -up, mark)
            >= self.arguments.connect
            for up, right in _DIRECTIONS
        )

    def _run(self, column: int, row: int, right: int, up: int, mark: str) -> int:
        """Count the pieces of one kind from a place on, without it, in one direction."""
        count = 0
        while True:
            column, row = column + right, row + up
            if not (0 <= column < len(self._columns) and 0 <= row < len(self._columns[column])):
                return count
            if self._columns[column][row] != mark:
                return count
            count += 1

    def _servers_column(self) -> int:
        free, player = self._free(), self._to_move
        if self.arguments.opponent == "block":
            for who in (player, 1 - player):
                found = next((column for column in free if self._wins(column, who)), None)
                if found is not None:
                    return found
        return int(self.rng.choice(free))
