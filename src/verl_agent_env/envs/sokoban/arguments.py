"""Keyword arguments of Sokoban."""

from __future__ import annotations

import functools
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

from verl_agent_env.envs.grid import GridArguments
from verl_agent_env.envs.sokoban.generator import MAX_BOXES, MAX_SEARCH_BUDGET, check_parameters
from verl_agent_env.envs.sokoban.level import MAX_SIDE, MIN_SIDE, Level
from verl_agent_env.envs.sokoban.levels import LevelParameters
from verl_agent_env.envs.sokoban.rules import Rewards
from verl_agent_env.envs.strict_model import STRICT_MODEL
from verl_agent_env.envs.turn import Outcome

_MAX_TEXT = 2 * MAX_SIDE * (MAX_SIDE + 1)
"""Characters of a room written as text, blank lines and trailing spaces included."""

_MAX_EFFORT = 50_000_000
"""Cells × boxes × search budget × levels tried; at this bound one reset takes two to three seconds."""
_LEVELS_FOR_MIN_PUSHES = 8
"""Levels that the generator makes of a large room before it fails to reach ``min_pushes``."""

_GRID_SCHEMA: dict[str, Any] = {
    "type": "array",
    "minItems": MIN_SIDE,
    "maxItems": MAX_SIDE,
    "items": {
        "type": "array",
        "minItems": MIN_SIDE,
        "maxItems": MAX_SIDE,
        "items": {"type": "integer", "minimum": 0, "maximum": 5},
    },
}
_ROOM_SETUP_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "room_fixed": _GRID_SCHEMA,
        "room_state": _GRID_SCHEMA,
        "box_mapping": {"type": ["object", "null"]},
    },
    "required": ["room_fixed", "room_state"],
}
_ROOM_TEXT_SCHEMA: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": _MAX_TEXT}


def read_room_setup(room_setup: Any) -> Level:
    """Read the level of a ``room_setup`` dictionary, the format of existing data sets.

    Raises:
        ValueError: It is no valid room, or there is nothing left to do in it.
    """
    return _unsolved(Level.from_room_setup(room_setup))


def read_room_text(text: Any) -> Level:
    """Read the level of XSB text.

    Raises:
        ValueError: It is no valid room, or there is nothing left to do in it.
    """
    if not isinstance(text, str) or len(text) > _MAX_TEXT:
        raise ValueError(f"a room in text is a string of at most {_MAX_TEXT} characters")
    return _unsolved(Level.from_text(text))


def _unsolved(level: Level) -> Level:
    if level.is_solved:
        raise ValueError("every box of the room stands on a target already; give a room with something to do")
    return level


# Kept as levels, not as given: a level takes a few hundred bytes, nested lists take kilobytes.
_RoomSetup = Annotated[
    Level,
    PlainValidator(read_room_setup),
    PlainSerializer(Level.to_room_setup, return_type=dict[str, Any]),
    WithJsonSchema(_ROOM_SETUP_SCHEMA),
]
_RoomText = Annotated[
    Level,
    PlainValidator(read_room_text),
    PlainSerializer(Level.to_text, return_type=str),
    WithJsonSchema(_ROOM_TEXT_SCHEMA),
]
_Side = Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE)]


class SokobanGlyphs(BaseModel):
    """Glyphs of the kinds of cells in text."""

    model_config = STRICT_MODEL

    wall: str = Field(default="#", min_length=1, max_length=16)
    """A wall."""
    floor: str = Field(default="_", min_length=1, max_length=16)
    """Empty floor."""
    target: str = Field(default="O", min_length=1, max_length=16)
    """A target with nothing on it."""
    box: str = Field(default="X", min_length=1, max_length=16)
    """A box that is not on a target."""
    box_on_target: str = Field(default="√", min_length=1, max_length=16)
    """A box on a target."""
    player: str = Field(default="P", min_length=1, max_length=16)
    """The player."""
    player_on_target: str = Field(default="S", min_length=1, max_length=16)
    """The player standing on a target."""


class SokobanArguments(GridArguments):
    """Keyword arguments of Sokoban."""

    max_steps: int = Field(default=120, ge=1, le=1_000_000)
    """Moves after which the episode is truncated; a turn without a valid move counts as one."""

    dim_room: tuple[_Side, _Side] = (10, 10)
    """Rows and columns of a generated room, its walls included."""
    num_boxes: int = Field(default=4, ge=1, le=MAX_BOXES)
    """Boxes of a generated room, and as many targets."""
    difficulty: Literal["easy", "medium", "hard"] | Annotated[float, Field(ge=0.0, le=1.0)] = "medium"
    """How far the boxes of a generated room start from the targets: a word, or a number from 0 (easy) to 1 (hard)."""
    min_pushes: int | None = Field(default=None, ge=1, le=10_000)
    """Smallest number of pushes that every solution of a generated room needs; proved for each room."""
    num_gen_steps: int | None = Field(default=None, ge=1, le=10_000)
    """Length of the random walk that carves a room; by default ``int(1.7 * (rows + columns))``."""
    change_direction_probability: float = Field(default=0.35, ge=0.0, le=1.0)
    """Probability that the walk turns at a step."""
    search_budget: int | None = Field(default=None, ge=1, le=MAX_SEARCH_BUDGET)
    """Positions that the generator may search for each box; by default ``2 * (rows + columns)``."""
    room_setup: _RoomSetup | None = None
    """A given room instead of a generated one, as data sets of gym-sokoban hold it: ``room_fixed`` and ``room_state``,
    rows of cell codes (0 wall, 1 floor, 2 target, 3 box on target, 4 box, 5 player), and ``box_mapping`` (may be
    missing). ``dim_room``, ``num_boxes`` and the other arguments of generated rooms are ignored."""
    room: _RoomText | None = None
    """The same as text in the XSB format: ``#`` wall, ``@`` player, ``+`` player on target, ``$`` box, ``*`` box on
    target, ``.`` target, space floor."""
    allow_moves: bool = True
    """True if the four tools ``move_…``, which never push, exist beside the four ``push_…``."""
    reward_step: float = -0.1
    """Added on every step, also if nothing moves (gym-sokoban's ``penalty_for_step``)."""
    reward_box_on_target: float = 1.0
    """Added when a box comes onto a target (gym-sokoban's name)."""
    reward_box_off_target: float = -1.0
    """Added when a box leaves the targets (gym-sokoban's ``penalty_box_off_target``)."""
    reward_solved: float = 10.0
    """Added when every box is on a target (gym-sokoban's ``reward_finished``)."""
    glyphs: SokobanGlyphs = SokobanGlyphs()
    """Glyphs of the kinds of cells in text."""

    @model_validator(mode="after")
    def _check_room(self) -> SokobanArguments:
        if self.room_setup is not None and self.room is not None:
            raise ValueError("give either room_setup or room, not both")
        if self.given_level is None:
            height, width = self.dim_room
            check_parameters(0, height, width, self.num_boxes)
            levels = 1 if self.min_pushes is None else _LEVELS_FOR_MIN_PUSHES
            most = _MAX_EFFORT // (height * width * self.num_boxes * levels)
            if (self.search_budget or 0) > most:
                raise ValueError(f"search_budget is too large for this room; give at most {most}")
        return self

    @property
    def shape(self) -> tuple[int, int]:
        level = self.given_level
        return self.dim_room if level is None else (level.height, level.width)

    @property
    def generation_ms(self) -> float:
        """Estimate of the milliseconds that it takes to find a level, or to find that there is none."""
        return 0.0 if self.given_level is not None else self.level_parameters.level_ms

    @functools.cached_property
    def level_parameters(self) -> LevelParameters:
        """Parameters of generated levels."""
        return LevelParameters(
            self.dim_room,
            self.num_boxes,
            self.difficulty,
            self.min_pushes,
            self.num_gen_steps,
            self.change_direction_probability,
            self.search_budget,
        )

    @property
    def given_level(self) -> Level | None:
        """Level of ``room_setup`` or ``room``; ``None`` if levels are generated."""
        return self.room_setup if self.room_setup is not None else self.room

    @functools.cached_property
    def rewards(self) -> Rewards:
        """Rewards of a step."""
        return Rewards(
            self.reward_step, self.reward_box_on_target, self.reward_box_off_target, self.reward_solved
        )

    @functools.cached_property
    def walk(self) -> Outcome:
        """Outcome of a step without a push."""
        return Outcome(reward=self.reward_step)

    @functools.cached_property
    def bump(self) -> Outcome:
        """Outcome of an impossible step."""
        return Outcome(reward=self.reward_step, effective=False)

    @functools.cached_property
    def stamps(self) -> tuple[int, tuple[str, str], tuple[str, str]] | None:
        """Length of the separator, glyphs of a box off and on a target, and glyphs of the player off and on one.

        With these, boxes and player are written over a cached text of the room; ``None`` if a glyph is longer than one character.
        """
        glyphs = self.glyphs
        if any(len(glyph) > 1 for glyph in glyphs.model_dump().values()):
            return None
        box, player = (glyphs.box, glyphs.box_on_target), (glyphs.player, glyphs.player_on_target)
        return len(self.cell_separator), box, player
