"""Views of a MiniGrid agent: in words, as a grid of glyphs, and as a picture."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from minigrid.core.constants import IDX_TO_COLOR, IDX_TO_OBJECT
from PIL import Image

World = Any
"""A ``minigrid.minigrid_env.MiniGridEnv``."""

_DOOR_STATES = ("open", "closed", "locked")
_PLAIN = ("unseen", "empty", "wall", "floor")
_GLYPHS = {"unseen": "??", "empty": "..", "wall": "##", "floor": ".."}
_LETTERS = {"key": "k", "ball": "b", "box": "x", "goal": "g", "lava": "~"}
_DOOR_LETTERS = ("o", "d", "l")
_COLORS = {"red": "R", "green": "G", "blue": "B", "purple": "P", "yellow": "Y", "grey": "E"}

LEGEND = (
    "Two characters stand for a cell: ^^ you, ?? not seen, ## wall, .. free, else a color (R red, G green, B blue, P purple, Y "
    "yellow, E grey) and a thing (k key, b ball, x box, g goal, ~ lava, o open door, d closed door, l locked door). You "
    "look up."
)
"""Explains the grid of glyphs."""


class View:
    """The part of a world that its agent sees: a square in front of it."""

    def __init__(self, world: World) -> None:
        """Take the agent's view of the present world."""
        seen = world.gen_obs()
        self._image = seen["image"]
        self._carrying = world.carrying
        self._size: int = self._image.shape[0]
        self._column = self._size // 2
        self._row = self._size - 1

    def words(self) -> str:
        """List the objects with their distances forward and to a side."""
        things = [f"{name} {self._way(column, row)}" for name, column, row in self._things()]
        sides = (("ahead", 0, -1), ("left", -1, 0), ("right", 1, 0))
        walls = (f"{name} {self._free(dx, dy)}" for name, dx, dy in sides)
        return "\n".join(
            [
                f"You see: {', '.join(things) or 'no things'}.",
                f"Free cells before a wall or a thing: {', '.join(walls)}.",
                f"You carry: {self._carried()}.",
            ]
        )

    def grid(self) -> str:
        """A glyph for each cell, the agent at the bottom and looking up."""
        rows = [
            " ".join(self._glyph(column, row) for column in range(self._size)) for row in range(self._size)
        ]
        return "\n".join([*rows, f"You carry: {self._carried()}."])

    def _cell(self, column: int, row: int) -> tuple[str, str, int]:
        kind, color, state = (int(value) for value in self._image[column, row])
        return IDX_TO_OBJECT[kind], IDX_TO_COLOR[color], state

    def _things(self) -> Iterator[tuple[str, int, int]]:
        """List what is no wall, the nearest first: name, column and row."""
        cells = ((column, row) for row in range(self._size) for column in range(self._size))
        near = sorted(cells, key=lambda cell: (self._row - cell[1] + abs(cell[0] - self._column), cell))
        for column, row in near:
            kind, color, state = self._cell(column, row)
            if kind in _PLAIN or (column, row) == (self._column, self._row):
                continue
            if kind == "door":
                yield f"{_DOOR_STATES[state]} {color} door", column, row
            else:
                yield kind if kind in ("goal", "lava") else f"{color} {kind}", column, row

    def _way(self, column: int, row: int) -> str:
        forward, aside = self._row - row, column - self._column
        ways = []
        if forward:
            ways.append(f"{forward} forward")
        if aside:
            ways.append(f"{abs(aside)} {'right' if aside > 0 else 'left'}")
        return " ".join(ways)

    def _free(self, dx: int, dy: int) -> int:
        """Count the cells in a direction that can be walked over, as far as the agent sees."""
        count = 0
        column, row = self._column + dx, self._row + dy
        while 0 <= column < self._size and 0 <= row < self._size:
            kind, _, state = self._cell(column, row)
            if kind not in ("empty", "floor", "goal") and not (kind == "door" and state == 0):
                break
            count += 1
            column, row = column + dx, row + dy
        return count

    def _carried(self) -> str:
        thing = self._carrying
        return "nothing" if thing is None else f"a {thing.color} {thing.type}"

    def _glyph(self, column: int, row: int) -> str:
        if (column, row) == (self._column, self._row):
            return "^^"
        kind, color, state = self._cell(column, row)
        if kind in _GLYPHS:
            return _GLYPHS[kind]
        return _COLORS[color] + (_DOOR_LETTERS[state] if kind == "door" else _LETTERS[kind])


def picture(world: World, tile_px: int) -> bytes:
    """A PNG of what the agent sees, the agent at the bottom and looking up."""
    written = io.BytesIO()
    Image.fromarray(world.get_frame(tile_size=tile_px, agent_pov=True)).save(written, format="PNG")
    return written.getvalue()
