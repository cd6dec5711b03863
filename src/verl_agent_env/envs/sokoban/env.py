"""The Sokoban environment: push boxes onto targets."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from verl_agent_env.envs.base import EnvArguments, Execution
from verl_agent_env.envs.demonstrations import actions_of_calls
from verl_agent_env.envs.grid import Cell, GridEnv
from verl_agent_env.envs.sokoban.arguments import (
    SokobanArguments,
    SokobanGlyphs,
    read_room_setup,
    read_room_text,
)
from verl_agent_env.envs.sokoban.boards import cells_of
from verl_agent_env.envs.sokoban.generator import LevelGenerationError
from verl_agent_env.envs.sokoban.level import BOX, BOX_ON_TARGET, FLOOR, PLAYER, TARGET, WALL, Level
from verl_agent_env.envs.sokoban.levels import level_of
from verl_agent_env.envs.sokoban.rules import advance
from verl_agent_env.envs.sokoban.solver import RoomSearchLimitError, lower_bound, solve
from verl_agent_env.envs.turn import Outcome
from verl_agent_env.messages import Tool, ToolCall
from verl_agent_env.types import Action

_DIRECTIONS = ("up", "down", "left", "right")
_PUSHES = tuple(
    Tool(
        f"push_{name}",
        f"Step one cell {name}, pushing a box that stands there if the cell behind it is free.",
    )
    for name in _DIRECTIONS
)
_MOVES = tuple(Tool(f"move_{name}", f"Move one cell {name}; never pushes a box.") for name in _DIRECTIONS)
_ACTION_OF_TOOL = {tool.name: code for code, tool in enumerate(_PUSHES + _MOVES, start=1)}

_TILE_OF = ("wall", "floor", "target", "box_on_target", "box", "player_on_floor")
_WORD_OF = ("wall", "floor", "target", "box on target", "box", "player")
_READERS: dict[str, Callable[[Any], Level]] = {"room_setup": read_room_setup, "room": read_room_text}


class SokobanEnv(GridEnv):
    """Push every box of a room onto a target.

    The dynamics are those of gym-sokoban. Rooms come from this project's own generator, and every one is solvable; or
    a room is given, as an argument or, for one episode, as the option ``room_setup`` or ``room`` of ``reset``.

    ## Action Space

    One of eight tools without arguments. ``push_up``, ``push_down``, ``push_left`` and ``push_right`` step one cell
    and push a box that is there, if the cell behind it is free; without a box they just move.
    ``move_up``, ``move_down``, ``move_left`` and ``move_right`` never push; ``allow_moves=False`` removes them. In
    plain text the words up, down, left and right mean the pushes. An impossible move changes nothing.

    ## Observation

    The room after the move, by default one glyph for each cell: wall ``#``, floor ``_``, target ``O``, box ``X``, box
    on target ``√``, player ``P``, player on target ``S``, with tabs between the cells of a row.

    ## Rewards

    The parts add up: -0.1 for every step, also for one that changes nothing and for an action that cannot be carried
    out; 1 for pushing a box onto a target, -1 for pushing one off; 10 for solving the room.

    ## Episode End

    Terminated when every box is on a target (``success`` in the info); truncated after ``max_steps`` moves (120).

    ## Arguments

    See :class:`SokobanArguments`.
    """

    env_name = "verl_env/sokoban-v0"
    Arguments: ClassVar[type[EnvArguments]] = SokobanArguments
    execution: ClassVar[Execution] = "inline"
    tools = _PUSHES + _MOVES
    word_aliases: ClassVar[Mapping[str, str]] = {name: f"push_{name}" for name in _DIRECTIONS}
    arguments: SokobanArguments

    __slots__ = ("_board", "_boxes", "_empty", "_level", "_player")

    def __init__(self, render_mode: str | None = None, **kwargs: Any) -> None:
        super().__init__(render_mode, **kwargs)
        if not self.arguments.allow_moves:
            self._set_tools(_PUSHES)

    @classmethod
    def cost_ms(cls, arguments: EnvArguments) -> float:
        made_ms = arguments.generation_ms if isinstance(arguments, SokobanArguments) else 0.0
        return super().cost_ms(arguments) + made_ms

    def task_prompt_text(self) -> str:
        arguments = self.arguments
        glyphs = arguments.glyphs
        legend = (
            f" You are {glyphs.player} ({glyphs.player_on_target} when you stand on a target),"
            f" a box is {glyphs.box} ({glyphs.box_on_target} when it stands on a target),"
            f" a target is {glyphs.target}, floor is {glyphs.floor}, a wall is {glyphs.wall}."
        )
        most = arguments.max_actions_per_turn
        moves = " The tools move_up, move_down, move_left, move_right move by one cell and never push."
        return (
            "You are playing Sokoban. Push every box onto a target; a box can be pushed, one at a time, but not pulled."
            f"{'' if arguments.observation_mode == 'image' else legend}"
            f" Each turn, call {'one' if most == 1 else f'up to {most}'} of the tools push_up, push_down, push_left,"
            " push_right to step by one cell and push a box that is in the way."
            f"{moves if arguments.allow_moves else ''}"
        )

    def begin_episode(self, options: Mapping[str, Any]) -> None:
        level = self._level_of(options)
        self._level = level
        self._boxes = level.boxes
        self._player = level.player
        # The room as text, made on first use: without boxes and player; with boxes, until one is pushed.
        self._empty: str | None = None
        self._board: str | None = None

    def act(self, call: ToolCall) -> Outcome:
        level = self._level
        boxes, player = advance(level, self._boxes, self._player, _ACTION_OF_TOOL[call.name])
        if player == self._player:
            return self.arguments.bump
        self._player = player
        if boxes == self._boxes:
            return self.arguments.walk
        reward = self.arguments.rewards.of(level, self._boxes, boxes)
        self._boxes = boxes
        self._board = None
        solved = boxes == level.targets
        return Outcome(reward=reward, terminated=solved, success=solved)

    def no_op_reward(self) -> float:
        return self.arguments.reward_step

    def solution(self) -> list[Action] | None:
        """Return actions that solve the room from the current state with the fewest pushes.

        Returns:
            Assistant messages with one call each; ``None`` if there is no solution, or the solver reached its limit.
        """
        try:
            found = solve(self._level.at(self._boxes, self._player))
        except RoomSearchLimitError:
            return None
        return None if found is None else actions_of_calls(_PUSHES[code - 1].name for code in found.actions)

    def layout(self) -> Any:
        return ["sokoban", *self.dump_state()]

    def layout_arguments(self) -> dict[str, Any]:
        return {"room_setup": self._level.at(self._boxes, self._player).to_room_setup()}

    def difficulty(self) -> float | None:
        """Return a lower bound of the pushes that the room needs, found without a search."""
        bound = lower_bound(self._level.at(self._boxes, self._player))
        return None if bound is None else float(bound)

    def dump_state(self) -> Any:
        # The whole room: a later version may generate another one from the seed. 64 bits at most fit JSON's integers.
        level = self._level
        return [
            level.height,
            level.width,
            f"{level.walls:x}",
            f"{level.targets:x}",
            f"{self._boxes:x}",
            self._player,
        ]

    def state_digest(self) -> int:
        # Of the same numbers as in the base class, in a quarter of the time: computed after every step.
        level = self._level
        state = (self._steps, self._ended, level.walls, level.targets, self._boxes, self._player)
        return zlib.crc32(b"%d %d %x %x %x %d" % state)

    def load_state(self, state: Any) -> None:
        height, width, walls, targets, boxes, player = state
        self._level = Level(height, width, int(walls, 16), int(targets, 16), int(boxes, 16), player)
        self._boxes = self._level.boxes
        self._player = player
        self._empty = self._board = None

    # --- observations ---------------------------------------------------------------------------------------

    def grid_text(self) -> str:
        stamps = self.arguments.stamps
        if stamps is None:
            return super().grid_text()
        gap, box_glyphs, player_glyphs = stamps
        level, player = self._level, self._player
        board = self._board
        if board is None:
            board = self._board = self._text_without_player(gap, box_glyphs)
        place = _place(player, level.width, gap)
        return f"{board[:place]}{player_glyphs[level.targets >> player & 1]}{board[place + 1:]}"

    def _text_without_player(self, gap: int, box_glyphs: tuple[str, str]) -> str:
        level = self._level
        empty = self._empty
        if empty is None:
            empty = self._empty = empty_room_text(level, self.arguments.glyphs, self.arguments.cell_separator)
        text = ""
        done = 0
        for cell in cells_of(self._boxes):
            place = _place(cell, level.width, gap)
            text += empty[done:place] + box_glyphs[level.targets >> cell & 1]
            done = place + 1
        return text + empty[done:]

    def glyph_rows(self) -> list[list[str]]:
        glyphs = self.arguments.glyphs
        by_code = (
            *(glyphs.wall, glyphs.floor, glyphs.target),
            *(glyphs.box_on_target, glyphs.box, glyphs.player),
        )
        return self._rows(by_code, glyphs.player_on_target)

    def tile_rows(self) -> list[list[str]]:
        return self._rows(_TILE_OF, "player_on_target")

    def player_cell(self) -> Cell:
        return divmod(self._player, self._level.width)

    def cell_word(self, row: int, column: int) -> str:
        level = self._level
        cell = level.cell(row, column)
        bit = 1 << cell
        if cell == self._player:
            return _WORD_OF[PLAYER]
        if self._boxes & bit:
            return _WORD_OF[BOX_ON_TARGET if level.targets & bit else BOX]
        if level.walls & bit:
            return _WORD_OF[WALL]
        return _WORD_OF[TARGET if level.targets & bit else FLOOR]

    def objects(self) -> Iterator[tuple[str, Cell]]:
        level = self._level
        for kind, bits in (
            (BOX, self._boxes & ~level.targets),
            (BOX_ON_TARGET, self._boxes & level.targets),
            (TARGET, level.targets & ~self._boxes),
        ):
            for cell in cells_of(bits):
                yield _WORD_OF[kind], level.position(cell)

    def _rows(self, by_code: tuple[str, ...], player_on_target: str) -> list[list[str]]:
        """Map each cell to an item of ``by_code``, which is indexed by gym-sokoban's cell codes."""
        now = self._level.at(self._boxes, self._player)
        rows = [[by_code[code] for code in row] for row in now.room_state()]
        if now.targets >> now.player & 1:
            row, column = now.position(now.player)
            rows[row][column] = player_on_target
        return rows

    # --- rooms ----------------------------------------------------------------------------------------------

    def _level_of(self, options: Mapping[str, Any]) -> Level:
        if options:
            return self._level_of_options(options)
        arguments = self.arguments
        given = arguments.given_level
        if given is not None:
            return given
        try:
            return level_of(self.episode_seed, arguments.level_parameters)
        except LevelGenerationError as failed:
            raise self.invalid_arguments(([], str(failed))) from None

    def _level_of_options(self, options: Mapping[str, Any]) -> Level:
        for name in options:
            if name not in _READERS:
                known = " or ".join(_READERS)
                raise self.invalid_arguments(
                    (["options", str(name)[:64]], f"there is no such option; give {known}")
                )
        if len(options) > 1:
            raise self.invalid_arguments((["options"], "give either room_setup or room, not both"))
        [(name, room)] = options.items()
        try:
            return _READERS[name](room)
        except ValueError as invalid:
            raise self.invalid_arguments((["options", name], str(invalid))) from None


def _place(cell: int, width: int, gap: int) -> int:
    """Return the index of a cell's one-character glyph in the room's text."""
    # A row ends with a line break in place of the separator.
    return cell * (1 + gap) + cell // width * (1 - gap)


@functools.lru_cache(maxsize=1024)
def empty_room_text(level: Level, glyphs: SokobanGlyphs, separator: str) -> str:
    """Write the room as rows of glyphs without boxes and player; cached as levels are."""
    by_code = (glyphs.wall, glyphs.floor, glyphs.target)
    return "\n".join(separator.join([by_code[code] for code in row]) for row in level.room_fixed())
