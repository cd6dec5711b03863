"""Grid worlds, observed as text and as pictures."""

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
"""Limit of the pixels of all pictures of one turn: two of the largest pictures."""
_PIXEL_MS = 25e-6
_CELL_MS = 1e-3
"""Milliseconds per pixel of a picture and per cell in text, at worst."""
Cell = tuple[int, int]
"""Row and column, from 0, the top left cell being (0, 0)."""

DIRECTIONS: tuple[tuple[str, int, int], ...] = (
    ("left", 0, -1),
    ("right", 0, 1),
    ("up", -1, 0),
    ("down", 1, 0),
)


class GridArguments(EnvArguments):
    """Keyword arguments of all grid worlds: the form of their observations."""

    observation_mode: Literal["text", "image", "both"] = "text"
    """Content of an observation: text, a PNG picture (an ``image_url`` content part), or both."""
    observation_style: ObservationStyle | StyleList = "grid"
    """Form of text observations: ``grid`` (a glyph for each cell), ``coordinates`` (each cell with its name), ``objects``
    (objects and their cells), ``egocentric`` (objects with direction and distance from the player), ``local`` (the
    player's cell and its neighbours), or a list of these, shown one after the other."""
    first_observation_style: ObservationStyle | StyleList | None = None
    """Form of the first text observation; by default ``observation_style``."""
    cell_separator: str = Field(default="\t", max_length=8)
    """Separator between the glyphs of a row."""
    tile_px: int = Field(default=16, ge=4, le=64)
    """Side of a cell in pictures, in pixels."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the world."""
        raise NotImplementedError

    @property
    def picture_pixels(self) -> int:
        """Pixels of all pictures that one turn can show; 0 if observations are text."""
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
        """True if an observation is just the grid as text."""
        return self.observation_mode == "text" and self.observation_style == "grid"


class GridEnv(ChatEnv):
    """Base class of grid worlds: makes observations and pictures of the cells that a subclass names."""

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
        # Any grid world can be rendered as a picture.
        pixels = max(arguments.picture_pixels, rows * columns * arguments.tile_px**2)
        return 1.0 + shown_ms + pixels * _PIXEL_MS

    # --- hooks ----------------------------------------------------------------------------------------------

    def glyph_rows(self) -> Sequence[Sequence[str]]:
        """Return a glyph for each cell, row by row."""
        raise NotImplementedError

    def tile_rows(self) -> Sequence[Sequence[str]]:
        """Return the name of a picture in :mod:`verl_agent_env.envs.pictures` for each cell, row by row."""
        raise NotImplementedError

    def player_cell(self) -> Cell:
        """Return the cell of the player."""
        raise NotImplementedError

    def cell_word(self, row: int, column: int) -> str:
        """Name the content of a cell in a word or two; cells outside the grid have a name as well."""
        raise NotImplementedError

    def objects(self) -> Iterator[tuple[str, Cell]]:
        """Yield the relevant objects except the player, as name and cell, in a fixed order."""
        raise NotImplementedError

    # --- observations ---------------------------------------------------------------------------------------

    def observe(self) -> Content:
        if self.arguments.shows_plain_grid:
            return self.grid_text()
        return self._view(self.arguments.observation_style)

    def initial_observation(self) -> Content:
        return self._view(self.arguments.first_observation_style or self.arguments.observation_style)

    def grid_text(self) -> str:
        """Write the world as rows of glyphs."""
        separator = self.arguments.cell_separator
        return "\n".join([separator.join(row) for row in self.glyph_rows()])

    def coordinates_text(self) -> str:
        """Write the world as rows of named cells: ``a1`` is the top left one, letters are rows, numbers are columns."""
        return "\n".join(
            " ".join(f"{cell_name(r, c)}{glyph}" for c, glyph in enumerate(row))
            for r, row in enumerate(self.glyph_rows())
        )

    def objects_text(self) -> str:
        """List the objects with the names of their cells."""
        return f"Objects: {', '.join(f'{word} at {cell_name(*cell)}' for word, cell in self.objects())}."

    def egocentric_text(self) -> str:
        """List the objects with their direction and distance from the player."""
        row, column = self.player_cell()
        seen = ", ".join(f"{word} {_direction(r - row, c - column)}" for word, (r, c) in self.objects())
        return f"From you: {seen}."

    def local_text(self) -> str:
        """Describe the player's cell and its four neighbours."""
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


def _direction(rows: int, columns: int) -> str:
    """Describe an offset, such as ``2 up 1 left``, or ``here``."""
    # Rows first: DIRECTIONS has them last.
    ways = ((name, rows * dr + columns * dc) for name, dr, dc in reversed(DIRECTIONS))
    return " ".join(f"{cells} {name}" for name, cells in ways if cells > 0) or "here"


def cell_name(row: int, column: int) -> str:
    """Name a cell: ``a1`` is the top left one; row ``z`` is followed by ``aa``."""
    letters = ""
    row += 1
    while row:
        row, rest = divmod(row - 1, 26)
        letters = chr(ord("a") + rest) + letters
    return f"{letters}{column + 1}"
