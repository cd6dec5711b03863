"""Grid worlds: the ways in which a model can be shown one, in words and in pictures."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import Field, model_validator

from verl_agent_env.envs import pictures
from verl_agent_env.envs.base import ChatEnv, EnvArguments
from verl_agent_env.messages import image_part, text_part
from verl_agent_env.types import Content

ObservationStyle = Literal["grid", "coordinates", "objects", "egocentric", "local"]
StyleList = Annotated[list[ObservationStyle], Field(min_length=1, max_length=len(get_args(ObservationStyle)))]
_MAX_PICTURE_PIXELS = 1 << 25
"""Pixels of all pictures of one turn: two of the largest that there are."""
_PIXEL_MS = 25e-6
_CELL_MS = 1e-3
"""What a pixel of a picture, and a cell in text, costs at worst."""
Cell = tuple[int, int]
"""Row and column, from 0, the top left cell being (0, 0)."""

DIRECTIONS: tuple[tuple[str, int, int], ...] = (
    ("left", 0, -1),
    ("right", 0, 1),
    ("up", -1, 0),
    ("down", 1, 0),
)


class GridArguments(EnvArguments):
    """Arguments of every grid world: how it is shown."""

    observation_mode: Literal["text", "image", "both"] = "text"
    """Whether an observation holds text, a PNG picture (an ``image_url`` content part), or both."""
    observation_style: ObservationStyle | StyleList = "grid"
    """How text shows the world: ``grid`` (a glyph for each cell), ``coordinates`` (each cell with its name),
    ``objects`` (what lies where), ``egocentric`` (how far from the player it lies, and in which direction), ``local``
    (where the player stands and what surrounds it), or a list of these, shown one after the other."""
    first_observation_style: ObservationStyle | StyleList | None = None
    """The style of the first observation, when it differs from that of the later ones."""
    cell_separator: str = Field(default="\t", max_length=8)
    """Stands between the glyphs of a row."""
    tile_px: int = Field(default=16, ge=4, le=64)
    """Side of a cell in pictures, in pixels."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the world."""
        raise NotImplementedError

    @property
    def picture_pixels(self) -> int:
        """Pixels of all pictures that one turn can show; 0 where observations are text."""
        rows, columns = self.shape
        pictures_per_turn = 0 if self.observation_mode == "text" else self.max_actions_per_turn
        return rows * columns * self.tile_px**2 * pictures_per_turn

    @model_validator(mode="after")
    def _check_pictures(self) -> Self:
        if self.picture_pixels > _MAX_PICTURE_PIXELS:
            raise ValueError(
                f"the pictures of a turn have up to {self.picture_pixels} pixels, the limit is {_MAX_PICTURE_PIXELS}; "
                "lower tile_px or max_actions_per_turn, or make the world smaller"
            )
        return self

    @functools.cached_property
    def shows_plain_grid(self) -> bool:
        """Whether an observation is the grid as text, and no more."""
        return self.observation_mode == "text" and self.observation_style == "grid"


class GridEnv(ChatEnv):
    """Base class of grid worlds; a subclass says what stands in each cell, and this one shows it."""

    Arguments: ClassVar[type[EnvArguments]] = GridArguments
    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi", "rgb_array", "svg"], "render_fps": 4}  # type: ignore[misc]
    arguments: GridArguments

    __slots__ = ()

    @classmethod
    def cost_ms(cls, arguments: EnvArguments) -> float:
        if not isinstance(arguments, GridArguments):
            return super().cost_ms(arguments)
        rows, columns = arguments.shape
        shown_ms = rows * columns * _CELL_MS * arguments.max_actions_per_turn
        # Any of them can be asked for a picture of itself.
        pixels = max(arguments.picture_pixels, rows * columns * arguments.tile_px**2)
        return 1.0 + shown_ms + pixels * _PIXEL_MS

    # --- hooks ----------------------------------------------------------------------------------------------

    def glyph_rows(self) -> Sequence[Sequence[str]]:
        """A glyph for each cell, row by row."""
        raise NotImplementedError

    def tile_rows(self) -> Sequence[Sequence[str]]:
        """The name of a picture (see :mod:`verl_agent_env.envs.pictures`) for each cell, row by row."""
        raise NotImplementedError

    def player_cell(self) -> Cell:
        """Where the player stands."""
        raise NotImplementedError

    def cell_word(self, row: int, column: int) -> str:
        """What is in a cell, in a word or two; cells outside the grid have a word as well."""
        raise NotImplementedError

    def objects(self) -> Iterator[tuple[str, Cell]]:
        """What matters in this world and where it is, in words, the player left out; always in the same order."""
        raise NotImplementedError

    # --- what the model sees --------------------------------------------------------------------------------

    def look(self) -> Content:
        if self.arguments.shows_plain_grid:
            return self.grid_text()
        return self._view(self.arguments.observation_style)

    def first_look(self) -> Content:
        return self._view(self.arguments.first_observation_style or self.arguments.observation_style)

    def grid_text(self) -> str:
        """The world as rows of glyphs."""
        separator = self.arguments.cell_separator
        return "\n".join([separator.join(row) for row in self.glyph_rows()])

    def coordinates_text(self) -> str:
        """The world as rows of named cells: ``a1`` is the top left one, letters are rows, numbers are columns."""
        return "\n".join(
            " ".join(f"{cell_name(r, c)}{glyph}" for c, glyph in enumerate(row))
            for r, row in enumerate(self.glyph_rows())
        )

    def objects_text(self) -> str:
        """What lies where, by names of cells."""
        return f"Objects: {', '.join(f'{word} at {cell_name(*cell)}' for word, cell in self.objects())}."

    def egocentric_text(self) -> str:
        """How far from the player things lie, and in which direction."""
        row, column = self.player_cell()
        seen = ", ".join(f"{word} {_way(r - row, c - column)}" for word, (r, c) in self.objects())
        return f"From you: {seen}."

    def local_text(self) -> str:
        """Where the player stands and what surrounds it."""
        row, column = self.player_cell()
        around = ", ".join(f"{name} {self.cell_word(row + dr, column + dc)}" for name, dr, dc in DIRECTIONS)
        return f"You are at {cell_name(row, column)}: {around}."

    def draw(self, mode: str) -> Any:
        self._require_render_mode(mode)
        if mode == "svg":
            return pictures.svg(self.tile_rows(), self.arguments.tile_px)
        if mode == "rgb_array":
            return pictures.rgb_array(self.tile_rows(), self.arguments.tile_px)
        return self.grid_text()

    def _view(self, style: ObservationStyle | list[ObservationStyle]) -> Content:
        mode = self.arguments.observation_mode
        if mode == "text":
            return self._text(style)
        picture = image_part(pictures.png(self.tile_rows(), self.arguments.tile_px))
        return [picture] if mode == "image" else [text_part(self._text(style)), picture]

    def _text(self, style: ObservationStyle | list[ObservationStyle]) -> str:
        writers = {
            "grid": self.grid_text,
            "coordinates": self.coordinates_text,
            "objects": self.objects_text,
            "egocentric": self.egocentric_text,
            "local": self.local_text,
        }
        return "\n".join(writers[one]() for one in ([style] if isinstance(style, str) else style))


def _way(rows: int, columns: int) -> str:
    """``2 up 1 left``: how to get there, or ``here``."""
    # Rows first: DIRECTIONS has them last.
    ways = ((name, rows * dr + columns * dc) for name, dr, dc in reversed(DIRECTIONS))
    return " ".join(f"{cells} {name}" for name, cells in ways if cells > 0) or "here"


def cell_name(row: int, column: int) -> str:
    """``a1`` for the top left cell; after row ``z`` comes ``aa``."""
    letters = ""
    row += 1
    while row:
        row, rest = divmod(row - 1, 26)
        letters = chr(ord("a") + rest) + letters
    return f"{letters}{column + 1}"
