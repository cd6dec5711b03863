"""FrozenLake: walk over the ice to the goal without falling into a hole."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field, model_validator

from verl_agent_env.envs.base import EnvArguments, Execution
from verl_agent_env.envs.demonstrations import actions_of_calls
from verl_agent_env.envs.drawing import draw_or_go_on, first_of
from verl_agent_env.envs.grid import Cell, GridArguments, GridEnv
from verl_agent_env.envs.rng import EpisodeRandom
from verl_agent_env.envs.strict_model import STRICT_MODEL
from verl_agent_env.envs.turn import Outcome
from verl_agent_env.messages import Tool, ToolCall
from verl_agent_env.types import Action

MAPS: dict[str, tuple[str, ...]] = {
    "4x4": ("SFFF", "FHFH", "FFFH", "HFFG"),
    "8x8": ("SFFFFFFF", "FFFFFFFF", "FFFHFFFF", "FFFFFHFF", "FFFHFFFF", "FHHFFFHF", "FHFFHFHF", "FFFHFFFG"),
}
"""The named maps of Gymnasium's FrozenLake."""

MAX_SIDE = 64
_MAX_DRAWN_CELLS = 200_000
_DRAWS = ((0.75, 4), (0.65, 32), (0.5, 256), (0.0, _MAX_DRAWN_CELLS))
"""Maps drawn until one has a path, at most and nearly always, by the probability of ice."""
_DRAWN_CELL_MS = 1e-3
_TRIES = 3
"""Seeds that are tried for one map."""

_MOVES = ("left", "down", "right", "up")
_MOVE_OF_TOOL = {f"move_{name}": code for code, name in enumerate(_MOVES)}
_ROW_STEP = (0, 1, 0, -1)
_COLUMN_STEP = (-1, 0, 1, 0)
_TILE_OF = {"S": "start", "F": "frozen", "H": "hole", "G": "goal"}
_WORD_OF = {"S": "ice", "F": "ice", "H": "hole", "G": "goal"}


class LakeGlyphs(BaseModel):
    """Glyphs of the kinds of cells in text."""

    model_config = STRICT_MODEL

    player: str = Field(default="P", min_length=1, max_length=16)
    """The player, except where a glyph below applies."""
    start: str = Field(default="F", min_length=1, max_length=16)
    """The cell where the player began."""
    frozen: str = Field(default="F", min_length=1, max_length=16)
    """Ice."""
    hole: str = Field(default="H", min_length=1, max_length=16)
    """A hole."""
    goal: str = Field(default="G", min_length=1, max_length=16)
    """The goal."""
    player_on_hole: str | None = Field(default=None, min_length=1, max_length=16)
    """The player in a hole; by default ``player``."""
    player_on_goal: str | None = Field(default=None, min_length=1, max_length=16)
    """The player on the goal; by default ``player``."""


class FrozenLakeArguments(GridArguments):
    """Keyword arguments of FrozenLake."""

    size: int = Field(default=8, ge=2, le=MAX_SIDE)
    """Side of a random map, in cells."""
    frozen_prob: float = Field(default=0.8, gt=0.0, le=1.0)
    """Probability that a cell of a random map is ice."""
    map_name: Literal["4x4", "8x8"] | None = None
    """One of Gymnasium's own maps instead of a random one."""
    desc: list[str] | None = Field(default=None, min_length=1, max_length=MAX_SIDE)
    """A map as rows of the letters S (start), F (frozen), H (hole), G (goal)."""
    random_start_and_goal: bool = False
    """True if a random map has its start and goal anywhere instead of in opposite corners."""
    is_slippery: bool = False
    """True if a move may slip to either side of its direction."""
    success_rate: float = Field(default=1.0 / 3.0, ge=0.0, le=1.0)
    """Probability, on slippery ice, that a move goes in its direction."""
    reward_schedule: tuple[float, float, float] = (1.0, 0.0, 0.0)
    """Rewards for reaching the goal, falling into a hole, and stepping on ice."""
    glyphs: LakeGlyphs = LakeGlyphs()
    """Glyphs of the kinds of cells in text."""

    @model_validator(mode="after")
    def _check_map(self) -> FrozenLakeArguments:
        if self.desc is None:
            return self
        if self.map_name is not None:
            raise ValueError("give either desc or map_name, not both")
        width = len(self.desc[0])
        if not 1 <= width <= MAX_SIDE or any(len(row) != width for row in self.desc):
            raise ValueError(f"all rows of desc must have the same length, from 1 to {MAX_SIDE}")
        cells = "".join(self.desc)
        if not set(cells) <= set("SFHG"):
            raise ValueError("desc may hold only the letters S, F, H and G")
        if "S" not in cells or "G" not in cells:
            raise ValueError("desc needs at least one S and one G")
        return self

    @property
    def shape(self) -> tuple[int, int]:
        rows = self.desc or (MAPS[self.map_name] if self.map_name is not None else None)
        return (self.size, self.size) if rows is None else (len(rows), len(rows[0]))

    @property
    def drawn_cells(self) -> int:
        """Upper estimate of the cells drawn until a map has a path to the goal."""
        if self.desc is not None or self.map_name is not None:
            return 0
        draws = next(draws for chance, draws in _DRAWS if self.frozen_prob >= chance)
        return min(_MAX_DRAWN_CELLS, self.size * self.size * draws)

    @functools.cached_property
    def slip_thresholds(self) -> tuple[float, float, float]:
        """Cumulative probabilities of slipping to one side, going straight, and slipping to the other side."""
        aside = (1.0 - self.success_rate) / 2.0
        return aside, aside + self.success_rate, aside + self.success_rate + aside

    @functools.cached_property
    def glyph_of(self) -> dict[str, str]:
        """Glyphs by map letter."""
        glyphs = self.glyphs
        return {"S": glyphs.start, "F": glyphs.frozen, "H": glyphs.hole, "G": glyphs.goal}

    @functools.cached_property
    def outcome_on(self) -> dict[str, Outcome]:
        """Outcomes of a move onto a cell, by map letter."""
        goal, hole, ice = self.reward_schedule
        walked = Outcome(reward=ice)
        return {
            "S": walked,
            "F": walked,
            "H": Outcome(reward=hole, terminated=True),
            "G": Outcome(reward=goal, terminated=True, success=True),
        }

    @functools.cached_property
    def bump(self) -> Outcome:
        """Outcome of a move off the map."""
        return Outcome(reward=self.reward_schedule[2], effective=False)

    @functools.cached_property
    def player_on(self) -> dict[str, str]:
        """Glyphs of the player by the map letter of its cell."""
        glyphs = self.glyphs
        player = glyphs.player
        return {
            "S": player,
            "F": player,
            "H": glyphs.player_on_hole or player,
            "G": glyphs.player_on_goal or player,
        }

    @functools.cached_property
    def stamps(self) -> tuple[int, dict[str, str]] | None:
        """Length of the separator, and glyphs of the player by the map letter of its cell.

        With these the player is written over a cached text of the lake; ``None`` if a glyph is longer than one character.
        """
        if any(len(glyph) > 1 for glyph in (*self.glyph_of.values(), *self.player_on.values())):
            return None
        return len(self.cell_separator), self.player_on


class FrozenLakeEnv(GridEnv):
    """Walk over a frozen lake from the start to the goal without falling into a hole.

    The dynamics are those of Gymnasium's FrozenLake: with the same map and the same seed, a slippery lake gives the
    same episode as Gymnasium's. A random map equals Gymnasium's ``generate_random_map(size, p, seed)``.

    ## Action Space

    One of four tools without arguments: ``move_left``, ``move_down``, ``move_right``, ``move_up``. In plain text the
    words left, down, right and up mean the same. A move off the map does not move the player.

    ## Observation

    The map after the move, by default one glyph for each cell: player ``P``, ice ``F``, hole ``H``, goal ``G``.

    ## Rewards

    ``reward_schedule``: 1 for reaching the goal, 0 for falling into a hole, 0 otherwise.

    ## Episode End

    Terminated on the goal (``success`` in the info) or in a hole; truncated after ``max_steps`` moves (100).

    ## Arguments

    See :class:`FrozenLakeArguments`.
    """

    env_name = "verl_env/frozen_lake-v1"
    Arguments: ClassVar[type[EnvArguments]] = FrozenLakeArguments
    execution: ClassVar[Execution] = "inline"
    tools = tuple(Tool(f"move_{name}", f"Move one cell {name}.") for name in _MOVES)
    word_aliases: ClassVar[Mapping[str, str]] = {name: f"move_{name}" for name in _MOVES}
    arguments: FrozenLakeArguments

    __slots__ = ("_board", "_cells", "_position", "_width")

    @classmethod
    def cost_ms(cls, arguments: EnvArguments) -> float:
        drawn = arguments.drawn_cells if isinstance(arguments, FrozenLakeArguments) else 0
        return super().cost_ms(arguments) + drawn * _DRAWN_CELL_MS

    def task_prompt_text(self) -> str:
        glyphs = self.arguments.glyphs
        slips = (
            " The ice is slippery: you may slide to the side of where you meant to go."
            if self.arguments.is_slippery
            else ""
        )
        return (
            "You are walking over a frozen lake. Reach the goal without falling into a hole."
            f" You are {glyphs.player}, ice is {glyphs.frozen}, a hole is {glyphs.hole}, the goal is {glyphs.goal}.{slips}"
            " Each turn, call one of the tools move_left, move_down, move_right, move_up to move by one cell."
        )

    def begin_episode(self, options: Mapping[str, Any]) -> None:
        if options:
            raise self.invalid_arguments((["options"], "FrozenLake takes no options"))
        arguments = self.arguments
        if arguments.desc is not None or arguments.map_name is not None:
            rows = arguments.desc or MAPS[str(arguments.map_name)]
            cells, width = "".join(rows), len(rows[0])
        else:
            width = arguments.size
            drawn = drawn_map(
                width, arguments.frozen_prob, self.episode_seed, arguments.random_start_and_goal
            )
            if drawn is None:
                raise self.invalid_arguments(
                    (["frozen_prob"], "too low: no map with a way to the goal was found")
                )
            cells = drawn
        self._cells = cells
        self._width = width
        # The map as text without the player, made on first use.
        self._board: str | None = None
        starts = cells.count("S")
        nth = 0
        if starts > 1 or self.arguments.is_slippery:
            # Gymnasium draws a number for the start even when there is only one start.
            nth = min(int(self.rng.random() * starts), starts - 1)
        position = cells.index("S")
        for _ in range(nth):
            position = cells.index("S", position + 1)
        self._position = position

    def act(self, call: ToolCall) -> Outcome:
        move = _MOVE_OF_TOOL[call.name]
        if self.arguments.is_slippery:
            move = self._slip(move)
        width = self._width
        row, column = divmod(self._position, width)
        row += _ROW_STEP[move]
        column += _COLUMN_STEP[move]
        if not (0 <= column < width and 0 <= row < len(self._cells) // width):
            return self.arguments.bump
        self._position = position = row * width + column
        return self.arguments.outcome_on[self._cells[position]]

    def dump_state(self) -> Any:
        return [self._cells, self._width, self._position]

    def load_state(self, state: Any) -> None:
        self._cells, self._width, self._position = state
        self._board = None

    def solution(self) -> list[Action] | None:
        """Return the actions of a shortest path to a goal; ``None`` if there is no path, or the ice is slippery."""
        moves = (
            None if self.arguments.is_slippery else _shortest_path(self._cells, self._width, self._position)
        )
        return None if moves is None else actions_of_calls(f"move_{_MOVES[move]}" for move in moves)

    def layout(self) -> Any:
        return ["frozen_lake", *self.dump_state()]

    def layout_arguments(self) -> dict[str, Any]:
        cells, width = self._cells, self._width
        return {"desc": [cells[start : start + width] for start in range(0, len(cells), width)]}

    # --- observations ---------------------------------------------------------------------------------------

    def grid_text(self) -> str:
        stamps = self.arguments.stamps
        if stamps is None:
            return super().grid_text()
        gap, player_on = stamps
        board = self._board
        if board is None:
            board = self._board = "\n".join(
                self.arguments.cell_separator.join(row) for row in self._ice_rows()
            )
        position = self._position
        # A row ends with a line break in place of the separator.
        place = position * (1 + gap) + position // self._width * (1 - gap)
        return f"{board[:place]}{player_on[self._cells[position]]}{board[place + 1:]}"

    def glyph_rows(self) -> list[list[str]]:
        rows = self._ice_rows()
        row, column = divmod(self._position, self._width)
        rows[row][column] = self.arguments.player_on[self._cells[self._position]]
        return rows

    def _ice_rows(self) -> list[list[str]]:
        glyph_of = self.arguments.glyph_of
        glyphs = [glyph_of[cell] for cell in self._cells]
        return [glyphs[start : start + self._width] for start in range(0, len(glyphs), self._width)]

    def tile_rows(self) -> list[list[str]]:
        tiles = [_TILE_OF[cell] for cell in self._cells]
        tiles[self._position] = f"player_on_{tiles[self._position]}"
        return [tiles[start : start + self._width] for start in range(0, len(tiles), self._width)]

    def player_cell(self) -> Cell:
        return divmod(self._position, self._width)

    def cell_word(self, row: int, column: int) -> str:
        if not (0 <= column < self._width and 0 <= row < len(self._cells) // self._width):
            return "edge"
        return _WORD_OF[self._cells[row * self._width + column]]

    def objects(self) -> Iterator[tuple[str, Cell]]:
        for kind in "GH":
            for position, cell in enumerate(self._cells):
                if cell == kind:
                    yield _WORD_OF[kind], divmod(position, self._width)

    # --- slipping -------------------------------------------------------------------------------------------

    def _slip(self, move: int) -> int:
        """Draw the direction that a move takes, with the same random numbers as Gymnasium."""
        drawn = self.rng.random()
        for turn, threshold in zip((-1, 0, 1), self.arguments.slip_thresholds, strict=True):
            if drawn < threshold:
                return (move + turn) % 4
        # Rounding may leave the last threshold slightly below 1; Gymnasium's argmax then gives the first side.
        return (move - 1) % 4


def drawn_map(size: int, frozen_prob: float, seed: int, random_ends: bool = False) -> str | None:
    """Return the random map of a seed, or of one that follows where it has none; ``None`` if there is none for any seed."""

    def draw(candidate: int) -> str | None:
        return random_map(size, frozen_prob, candidate, random_ends)

    return draw_or_go_on(seed, draw, lambda: first_of(draw, _TRIES), _TRIES)


@functools.lru_cache(maxsize=1024)
def random_map(size: int, frozen_prob: float, seed: int, random_ends: bool = False) -> str | None:
    """Generate a random map with a path from start to goal, its rows joined; ``None`` if no attempt had a path.

    Cached, because the samples of a GRPO group share a seed.
    """
    random = EpisodeRandom.from_seed(seed)
    for _ in range(max(1, _MAX_DRAWN_CELLS // (size * size))):
        cells = ["F" if random.random() < frozen_prob else "H" for _ in range(size * size)]
        start, goal = 0, size * size - 1
        if random_ends:
            start = random.randrange(size * size)
            goal = (start + 1 + random.randrange(size * size - 1)) % (size * size)
        cells[start], cells[goal] = "S", "G"
        if _has_path(cells, size, start):
            return "".join(cells)
    return None


def _has_path(cells: list[str], width: int, start: int) -> bool:
    seen = {start}
    frontier = [start]
    while frontier:
        row, column = divmod(frontier.pop(), width)
        for row_step, column_step in zip(_ROW_STEP, _COLUMN_STEP, strict=True):
            r, c = row + row_step, column + column_step
            if 0 <= r < len(cells) // width and 0 <= c < width and (cell := r * width + c) not in seen:
                if cells[cell] == "G":
                    return True
                if cells[cell] != "H":
                    seen.add(cell)
                    frontier.append(cell)
    return False


def _shortest_path(cells: str, width: int, start: int) -> list[int] | None:
    """Find the moves from ``start`` to the nearest goal by breadth-first search."""
    if cells[start] == "H":
        return None
    ways: dict[int, list[int]] = {start: []}
    queue = [start]
    for position in queue:
        if cells[position] == "G":
            return ways[position]
        row, column = divmod(position, width)
        for move, (row_step, column_step) in enumerate(zip(_ROW_STEP, _COLUMN_STEP, strict=True)):
            r, c = row + row_step, column + column_step
            if not (0 <= r < len(cells) // width and 0 <= c < width):
                continue
            cell = r * width + c
            if cell not in ways and cells[cell] != "H":
                ways[cell] = [*ways[position], move]
                queue.append(cell)
    return None
