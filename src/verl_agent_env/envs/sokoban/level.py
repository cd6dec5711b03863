"""Immutable Sokoban position on bit boards, and its conversions to arrays, data set dictionaries and text."""

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from typing import Any, Self

from verl_agent_env.envs.sokoban.boards import cells_of, flood

MIN_SIDE = 3
MAX_SIDE = 40

WALL, FLOOR, TARGET, BOX_ON_TARGET, BOX, PLAYER = range(6)
"""Cell codes of gym-sokoban's ``room_state``; ``room_fixed`` holds the first three only."""

_XSB = {"#": (WALL, WALL), " ": (FLOOR, FLOOR), ".": (TARGET, TARGET), "*": (TARGET, BOX_ON_TARGET)} | {
    "-": (FLOOR, FLOOR),
    "_": (FLOOR, FLOOR),
    "$": (FLOOR, BOX),
    "@": (FLOOR, PLAYER),
    "+": (TARGET, PLAYER),
}
_MAPPING_KEY = re.compile(r"\s*\(?\s*(?:np\.int\d+\()?(\d+)\)?\s*,\s*(?:np\.int\d+\()?(\d+)\)?\s*\)?\s*")

Grid = list[list[int]]


@lru_cache(maxsize=256)
def shifts_of(width: int) -> tuple[int, int, int, int]:
    """Return what one step up, down, left and right adds to a cell index; shared by all levels of one width."""
    return (-width, width, -1, 1)


@dataclass(frozen=True, slots=True)
class Level:
    """Sokoban position: the start of a level, or any state of an episode.

    ``walls``, ``targets`` and ``boxes`` are bit boards (bit ``r * width + c``) and ``player`` is a cell index.
    Build one with a ``from_…`` method, which validates; the plain constructor does not.
    Some 200 bytes for a room of 10×10.
    """

    height: int
    width: int
    walls: int
    targets: int
    boxes: int
    player: int

    @property
    def num_boxes(self) -> int:
        """Number of boxes, which is also the number of targets."""
        return self.boxes.bit_count()

    @property
    def floor(self) -> int:
        """Board of every cell that is no wall."""
        return ((1 << self.height * self.width) - 1) ^ self.walls

    @property
    def is_solved(self) -> bool:
        """True if every box is on a target."""
        return self.boxes == self.targets

    def at(self, boxes: int, player: int) -> "Level":
        """Return the same room with other positions of boxes and player."""
        return replace(self, boxes=boxes, player=player)

    def cell(self, row: int, column: int) -> int:
        """Return the index of a cell."""
        return row * self.width + column

    def position(self, cell: int) -> tuple[int, int]:
        """Return row and column of a cell index."""
        return divmod(cell, self.width)

    @classmethod
    def from_arrays(cls, room_fixed: Any, room_state: Any) -> Self:
        """Read gym-sokoban's two arrays (nested lists or numpy arrays of equal shape).

        Raises:
            ValueError: The arrays are ragged, too small or too large, hold unknown codes, contradict each other,
                lack the one player, do not have as many targets as boxes, or leave the border open.
        """
        fixed, state = _grid("room_fixed", room_fixed), _grid("room_state", room_state)
        if (len(fixed), len(fixed[0])) != (len(state), len(state[0])):
            raise ValueError(
                f"room_fixed is {len(fixed)}x{len(fixed[0])} but room_state is {len(state)}x{len(state[0])}; "
                "give both the same shape"
            )
        height, width = len(state), len(state[0])
        boards = [0] * 6
        targets = 0
        for cell, (base, code) in enumerate(zip(chain(*fixed), chain(*state), strict=True)):
            _check_codes(base, code, divmod(cell, width))
            boards[code] |= 1 << cell
            targets |= (base == TARGET) << cell
        boxes = boards[BOX] | boards[BOX_ON_TARGET]
        _check_counts(boards[PLAYER], boxes, targets)
        _check_border(height, width, boards[WALL])
        return cls(height, width, boards[WALL], targets, boxes, boards[PLAYER].bit_length() - 1)

    @classmethod
    def from_room_setup(cls, room_setup: Mapping[str, Any]) -> Self:
        """Read a ``room_setup`` dictionary, the format of existing data sets.

        ``room_fixed`` and ``room_state`` decide the level; ``box_mapping`` (keys ``"(r, c)"``, may be missing) is
        checked to name cells of the room and then discarded, because the rules do not use it.

        Raises:
            ValueError: A key is missing, or the room is not valid (see `from_arrays`).
        """
        if not isinstance(room_setup, Mapping):
            raise ValueError(f"room_setup must be a dictionary, not {type(room_setup).__name__}")
        missing = [key for key in ("room_fixed", "room_state") if key not in room_setup]
        if missing:
            raise ValueError(f"room_setup lacks {' and '.join(missing)}; give room_fixed and room_state")
        level = cls.from_arrays(room_setup["room_fixed"], room_setup["room_state"])
        mapping = room_setup.get("box_mapping")
        if mapping is not None:
            _check_mapping(mapping, level.height, level.width)
        return level

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read XSB text: ``#`` wall, ``@`` player, ``+`` player on target, ``$`` box, ``*`` box on target, ``.`` target.

        Floor is a space, ``-`` or ``_``. Short lines are filled up with walls, as are cells outside the walls
        around the player.

        Raises:
            ValueError: An unknown character, or a room that is not valid (see `from_arrays`).
        """
        lines = text.rstrip().splitlines()
        while lines and not lines[0].strip():
            del lines[0]
        width = max(map(len, lines), default=0)
        _check_sides("the text", len(lines), width)
        unknown = sorted(set("".join(lines)) - _XSB.keys())
        if unknown:
            raise ValueError(f"unknown character {unknown[0]!r} in the level; use only '#@+$*. '")
        pairs = [_XSB[char] for line in lines for char in line.ljust(width, "#")]
        inside = _inside(pairs, len(lines), width)
        kept = [
            pair if pair[1] >= TARGET or inside >> cell & 1 else (WALL, WALL)
            for cell, pair in enumerate(pairs)
        ]
        rows = [kept[start : start + width] for start in range(0, len(kept), width)]
        return cls.from_arrays([[p[0] for p in row] for row in rows], [[p[1] for p in row] for row in rows])

    def room_fixed(self) -> Grid:
        """Return gym-sokoban's ``room_fixed`` as nested lists: walls, floor and targets."""
        return self._grid_of(((self.walls, WALL), (self.targets, TARGET)))

    def room_state(self) -> Grid:
        """Return gym-sokoban's ``room_state`` as nested lists: the visible content of each cell, the player on top."""
        return self._grid_of(
            (
                (self.walls, WALL),
                (self.targets, TARGET),
                (self.boxes, BOX),
                (self.boxes & self.targets, BOX_ON_TARGET),
                (1 << self.player, PLAYER),
            )
        )

    def to_room_setup(self) -> dict[str, Any]:
        """Return the level as a JSON-ready ``room_setup`` dictionary.

        ``box_mapping`` pairs targets with boxes in reading order; any box may go to any target.
        """
        pairs = zip(cells_of(self.targets), cells_of(self.boxes), strict=True)
        return {
            "room_fixed": self.room_fixed(),
            "room_state": self.room_state(),
            "box_mapping": {str(self.position(target)): list(self.position(box)) for target, box in pairs},
        }

    def to_text(self) -> str:
        """Return the level as XSB text, one line per row."""
        signs = {WALL: "#", FLOOR: " ", TARGET: ".", BOX_ON_TARGET: "*", BOX: "$", PLAYER: "@"}
        text = [[signs[code] for code in row] for row in self.room_state()]
        if self.targets >> self.player & 1:
            row, column = self.position(self.player)
            text[row][column] = "+"
        return "\n".join(map("".join, text))

    def _grid_of(self, layers: Sequence[tuple[int, int]]) -> Grid:
        flat = [FLOOR] * (self.height * self.width)
        for board, code in layers:
            for cell in cells_of(board):
                flat[cell] = code
        return [flat[start : start + self.width] for start in range(0, len(flat), self.width)]


def _grid(name: str, raw: Any) -> Grid:
    if hasattr(raw, "tolist"):
        raw = raw.tolist()
    if not isinstance(raw, list | tuple) or not raw:
        raise ValueError(f"{name} must be a list of rows")
    _check_sides(name, len(raw), MIN_SIDE)
    grid: Grid = []
    for row in raw:
        row = row.tolist() if hasattr(row, "tolist") else row
        if not isinstance(row, list | tuple):
            raise ValueError(f"{name} must be a list of rows, each a list of cell codes")
        _check_sides(name, len(raw), len(row))
        if len(row) != len(raw[0]):
            raise ValueError(f"the rows of {name} differ in length; give a rectangle")
        try:
            grid.append([operator.index(code) for code in row])
        except TypeError:
            raise ValueError(
                f"{name} holds something that is no whole number; use the codes 0 to 5"
            ) from None
    return grid


def _check_sides(name: str, height: int, width: int) -> None:
    if not (MIN_SIDE <= height <= MAX_SIDE and MIN_SIDE <= width <= MAX_SIDE):
        raise ValueError(f"{name} is {height}x{width}; both sides must be between {MIN_SIDE} and {MAX_SIDE}")


def _check_codes(base: int, code: int, position: tuple[int, int]) -> None:
    if base not in (WALL, FLOOR, TARGET):
        raise ValueError(
            f"room_fixed has the unknown code {base} at {position}; use 0 wall, 1 floor, 2 target"
        )
    if not WALL <= code <= PLAYER:
        raise ValueError(
            f"room_state has the unknown code {code} at {position}; "
            "use 0 wall, 1 floor, 2 target, 3 box on target, 4 box, 5 player"
        )
    seen_over: dict[int, tuple[int, ...]] = {BOX_ON_TARGET: (TARGET,), BOX: (FLOOR,), PLAYER: (FLOOR, TARGET)}
    if base not in seen_over.get(code, (code,)):
        raise ValueError(f"room_state {code} contradicts room_fixed {base} at {position}")


def _check_counts(players: int, boxes: int, targets: int) -> None:
    if players.bit_count() != 1:
        raise ValueError(f"the room has {players.bit_count()} players; it needs exactly one")
    if not boxes or boxes.bit_count() != targets.bit_count():
        raise ValueError(
            f"the room has {boxes.bit_count()} boxes and {targets.bit_count()} targets; "
            "it needs at least one and equally many"
        )


def _check_border(height: int, width: int, walls: int) -> None:
    row = (1 << width) - 1
    border = row | row << (height - 1) * width
    for r in range(height):
        border |= (1 | 1 << width - 1) << r * width
    if border & ~walls:
        where = divmod(cells_of(border & ~walls)[0], width)
        raise ValueError(f"the border is open at {where}; surround the room with walls")


def _check_mapping(mapping: Any, height: int, width: int) -> None:
    if not isinstance(mapping, Mapping):
        raise ValueError(f"box_mapping must be a dictionary, not {type(mapping).__name__}")
    for pair in mapping.items():
        for raw in pair:
            row, column = _position(raw)
            if not (0 <= row < height and 0 <= column < width):
                raise ValueError(
                    f"box_mapping names ({row}, {column}), which is outside the {height}x{width} room"
                )


def _position(raw: Any) -> tuple[int, int]:
    if isinstance(raw, str):
        match = _MAPPING_KEY.fullmatch(raw)
        if match:
            return int(match[1]), int(match[2])
    else:
        parts = raw.tolist() if hasattr(raw, "tolist") else raw
        if isinstance(parts, list | tuple) and len(parts) == 2:
            try:
                return operator.index(parts[0]), operator.index(parts[1])
            except TypeError:
                pass
    raise ValueError(f'box_mapping holds {str(raw)[:40]!r}; write positions as "(row, column)"')


def _inside(pairs: Sequence[tuple[int, int]], height: int, width: int) -> int:
    """Flood the cells that the player could walk to if there were no boxes, never past the edge of the text."""
    free = player = 0
    for cell, (_, code) in enumerate(pairs):
        row, column = divmod(cell, width)
        if code != WALL and 0 < row < height - 1 and 0 < column < width - 1:
            free |= 1 << cell
        if code == PLAYER:
            player |= 1 << cell
    if not player & free:
        return (1 << height * width) - 1
    region = flood(player & free, free, width)
    # With its neighbours: an opening in the border must stay visible to the check of the border.
    return region | region << 1 | region >> 1 | region << width | region >> width
