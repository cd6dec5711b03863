"""Pictures of grid worlds as SVG, array and PNG, made from one drawing for each kind of tile.

A drawing is a short list of shapes in unit coordinates, x to the right and y down, painted one over the other; its
first shape covers the whole tile. The drawings are this project's own.
"""

from __future__ import annotations

import functools
import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Coordinates = npt.NDArray[np.float64]

_SAMPLES = 4
"""Samples along each side of a pixel; their mean smooths the edges of shapes."""
_PNG_LEVEL = 3
"""Compression level of zlib: higher ones take twice as long and save little."""


@dataclass(frozen=True, slots=True)
class Rect:
    """Rectangle, given by its top left corner and its size."""

    colour: str
    x: float
    y: float
    width: float
    height: float

    def covers(self, x: Coordinates, y: Coordinates) -> Mask:
        across = (self.x <= x) & (x < self.x + self.width)
        return across & (self.y <= y) & (y < self.y + self.height)

    def moved(self, dx: float, dy: float) -> Rect:
        return replace(self, x=self.x + dx, y=self.y + dy)

    def svg(self) -> str:
        corner = f'x="{_number(self.x)}" y="{_number(self.y)}"'
        size = f'width="{_number(self.width)}" height="{_number(self.height)}"'
        return f'<rect {corner} {size} fill="{self.colour}"/>'


@dataclass(frozen=True, slots=True)
class Circle:
    """Disc, given by its centre and its radius."""

    colour: str
    x: float
    y: float
    radius: float

    def covers(self, x: Coordinates, y: Coordinates) -> Mask:
        return (x - self.x) ** 2 + (y - self.y) ** 2 <= self.radius**2

    def moved(self, dx: float, dy: float) -> Circle:
        return replace(self, x=self.x + dx, y=self.y + dy)

    def svg(self) -> str:
        centre = f'cx="{_number(self.x)}" cy="{_number(self.y)}"'
        return f'<circle {centre} r="{_number(self.radius)}" fill="{self.colour}"/>'


@dataclass(frozen=True, slots=True)
class Polygon:
    """Polygon whose edges do not cross."""

    colour: str
    points: tuple[tuple[float, float], ...]

    def covers(self, x: Coordinates, y: Coordinates) -> Mask:
        inside = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.bool_)
        for (x0, y0), (x1, y1) in zip(self.points, self.points[1:] + self.points[:1], strict=True):
            if y0 != y1:
                # A ray to the right crosses the outline an odd number of times when it starts inside.
                inside ^= ((y0 <= y) != (y1 <= y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
        return inside

    def moved(self, dx: float, dy: float) -> Polygon:
        return replace(self, points=tuple((x + dx, y + dy) for x, y in self.points))

    def svg(self) -> str:
        points = " ".join(f"{_number(x)},{_number(y)}" for x, y in self.points)
        return f'<polygon points="{points}" fill="{self.colour}"/>'


Drawing = tuple[Rect | Circle | Polygon, ...]


def svg(tiles: Sequence[Sequence[str]], tile_px: int) -> str:
    """Make a standalone SVG document of the grid, ``tile_px`` CSS pixels for each side of a cell.

    Raises:
        ValueError: A tile is unknown, the rows differ in length, or there is nothing to draw.
    """
    rows, columns = _shape(tiles, tile_px)
    symbols = [_symbol(tile) for tile in sorted({tile for row in tiles for tile in row})]
    cells = [
        f'<use href="#tile-{tile}" x="{x}" y="{y}"/>'
        for y, row in enumerate(tiles)
        for x, tile in enumerate(row)
    ]
    size = f'width="{columns * tile_px}" height="{rows * tile_px}" viewBox="0 0 {columns} {rows}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{"".join(symbols)}{"".join(cells)}</svg>'


def rgb_array(tiles: Sequence[Sequence[str]], tile_px: int) -> Pixels:
    """Make an array of the grid, of shape (rows * tile_px, columns * tile_px, 3), dtype uint8.

    Raises:
        ValueError: A tile is unknown, the rows differ in length, or there is nothing to draw.
    """
    _shape(tiles, tile_px)
    return np.concatenate(
        [np.concatenate([_tile_pixels(tile, tile_px) for tile in row], axis=1) for row in tiles]
    )


def png(tiles: Sequence[Sequence[str]], tile_px: int) -> bytes:
    """Make a PNG file of the grid; the same grid gives the same bytes.

    Raises:
        ValueError: A tile is unknown, the rows differ in length, or there is nothing to draw.
    """
    # Not by Pillow, which tries every filter on every line: tiles compress best unfiltered and several times faster,
    # and each observation of thousands of environments may be a picture.
    pixels = rgb_array(tiles, tile_px)
    height, width, _ = pixels.shape
    lines = np.zeros((height, 1 + 3 * width), np.uint8)
    lines[:, 1:] = pixels.reshape(height, 3 * width)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(lines.tobytes(), _PNG_LEVEL)
    chunks = ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join([_png_chunk(kind, data) for kind, data in chunks])


def to_png(array: npt.NDArray[np.generic]) -> bytes:
    """Make a PNG file of a rendered picture; the same array gives the same bytes.

    Args:
        array: dtype uint8; shape (height, width) or (height, width, 1) for grey, (height, width, 3) for RGB,
            (height, width, 4) for RGBA.

    Raises:
        ValueError: The array is not such a picture.
    """
    from PIL import Image

    pixels = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    is_picture = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    if pixels.dtype != np.uint8 or not is_picture or not pixels.size:
        raise ValueError(
            f"An array of shape {array.shape} and dtype {array.dtype} is no picture; "
            "it takes uint8 in shape (height, width) or (height, width, 1, 3 or 4)."
        )
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG", compress_level=_PNG_LEVEL)
    return file.getvalue()


def _shape(tiles: Sequence[Sequence[str]], tile_px: int) -> tuple[int, int]:
    """Return rows and columns of a grid that can be drawn."""
    if tile_px < 1:
        raise ValueError(f"A tile takes at least 1 pixel, not {tile_px}.")
    widths = {len(row) for row in tiles}
    if len(widths) != 1 or widths == {0}:
        raise ValueError(f"A grid takes rows of one length, at least 1; these are {sorted(widths)} long.")
    return len(tiles), widths.pop()


def _drawing(tile: str) -> Drawing:
    try:
        return DRAWINGS[tile]
    except KeyError:
        raise ValueError(f"No tile is called {tile!r}; there are: {', '.join(sorted(DRAWINGS))}.") from None


@functools.lru_cache(maxsize=256)
def _tile_pixels(tile: str, tile_px: int) -> Pixels:
    """Paint the tile on a finer grid and average it; cached and therefore read-only."""
    side = tile_px * _SAMPLES
    centres = (np.arange(side) + 0.5) / side
    x, y = centres[None, :], centres[:, None]
    canvas = np.zeros((side, side, 3), np.uint8)
    for shape in _drawing(tile):
        canvas[shape.covers(x, y)] = tuple(bytes.fromhex(shape.colour[1:]))
    means = canvas.reshape(tile_px, _SAMPLES, tile_px, _SAMPLES, 3).mean(axis=(1, 3))
    pixels: Pixels = np.rint(means).astype(np.uint8)
    pixels.setflags(write=False)
    return pixels


@functools.cache
def _symbol(tile: str) -> str:
    # Several documents on one page share these ids without harm: an id has the same drawing everywhere.
    return f'<symbol id="tile-{tile}">{"".join(shape.svg() for shape in _drawing(tile))}</symbol>'


def _number(value: float) -> str:
    return f"{value:.4g}".removeprefix("0") or "0"


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    """Make a chunk: length, kind, data and checksum (ISO/IEC 15948, section 5.3)."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


# --- the drawings -------------------------------------------------------------------------------------------


def _moved(drawing: Drawing, dx: float, dy: float) -> Drawing:
    """Move shapes to the right and down."""
    return tuple(shape.moved(dx, dy) for shape in drawing)


def _field(edge: str, middle: str) -> Drawing:
    """Draw a plain cell whose faint edge shows the grid."""
    return (Rect(edge, 0, 0, 1, 1), Rect(middle, 0.025, 0.025, 0.95, 0.95))


def _bricks() -> Drawing:
    # Sixteenths, so that the courses fall on whole pixels at 16, 32, 48 and 64 pixels a tile.
    unit = 1 / 16
    shapes: list[Rect | Circle | Polygon] = [Rect("#3b4252", 0, 0, 1, 1)]
    for course in range(4):
        spans = ((0, 7), (8, 15)) if course % 2 == 0 else ((0, 3), (4, 11), (12, 16))
        for start, end in spans:
            left, top, width = start * unit, course * 4 * unit, (end - start) * unit
            shapes += [
                Rect("#8791a5", left, top, width, unit),
                Rect("#6c768b", left, top + unit, width, 2 * unit),
            ]
    return tuple(shapes)


def _brackets(colour: str, inset: float, reach: float, thick: float) -> Drawing:
    """Draw four angles at the corners of a cell, visible around an object in it."""
    far = 1 - inset
    return tuple(
        Rect(colour, x, y, width, height)
        for width, height in ((reach, thick), (thick, reach))
        for x in (inset, far - width)
        for y in (inset, far - height)
    )


def _crate(inset: float, edge: str, frame: str, panel: str) -> Drawing:
    """Draw a box seen from above: a dark edge, a frame and a panel."""
    layers = ((edge, inset), (frame, inset + 0.05), (edge, inset + 0.16), (panel, inset + 0.2))
    return tuple(Rect(colour, at, at, 1 - 2 * at, 1 - 2 * at) for colour, at in layers)


_PLAYER: Drawing = (
    Polygon("#1d2345", ((0.2, 0.94), (0.2, 0.7), (0.34, 0.5), (0.66, 0.5), (0.8, 0.7), (0.8, 0.94))),
    Polygon("#4457d6", ((0.26, 0.89), (0.26, 0.72), (0.37, 0.56), (0.63, 0.56), (0.74, 0.72), (0.74, 0.89))),
    Rect("#1d2345", 0.47, 0.76, 0.06, 0.18),
    Circle("#1d2345", 0.5, 0.33, 0.265),
    Circle("#ffd3a8", 0.5, 0.33, 0.21),
    Polygon("#1d2345", ((0.27, 0.28), (0.32, 0.13), (0.5, 0.06), (0.68, 0.13), (0.73, 0.28))),
    Rect("#f2b134", 0.25, 0.22, 0.5, 0.065),
    Circle("#1d2345", 0.42, 0.37, 0.04),
    Circle("#1d2345", 0.58, 0.37, 0.04),
)
_BRACE: Drawing = (
    Polygon("#6b3f16", ((0.28, 0.36), (0.36, 0.28), (0.72, 0.64), (0.64, 0.72))),
    Polygon("#6b3f16", ((0.64, 0.28), (0.72, 0.36), (0.36, 0.72), (0.28, 0.64))),
)
_TICK = Polygon(
    "#ffffff", ((0.22, 0.53), (0.32, 0.43), (0.44, 0.55), (0.69, 0.28), (0.79, 0.38), (0.44, 0.75))
)

_FLOOR = _field("#d8cdb6", "#ebe3d2")
_MARKS = _brackets("#d6336c", 0.03, 0.27, 0.08)
_DIAMOND: Drawing = (
    Polygon("#d6336c", ((0.5, 0.24), (0.76, 0.5), (0.5, 0.76), (0.24, 0.5))),
    Polygon("#ebe3d2", ((0.5, 0.4), (0.6, 0.5), (0.5, 0.6), (0.4, 0.5))),
)

_ICE: Drawing = (
    *_field("#b9d8ec", "#dff0fa"),
    Polygon("#ffffff", ((0.12, 0.46), (0.46, 0.12), (0.56, 0.12), (0.12, 0.56))),
    Polygon("#ffffff", ((0.66, 0.88), (0.88, 0.66), (0.88, 0.72), (0.72, 0.88))),
)
_PAD: Drawing = (
    *_field("#b9d8ec", "#dff0fa"),
    Circle("#5b9bc8", 0.5, 0.5, 0.45),
    Circle("#dff0fa", 0.5, 0.5, 0.36),
)
_PAD_DOT = Circle("#5b9bc8", 0.5, 0.5, 0.16)
_HOLE: Drawing = (
    *_field("#b9d8ec", "#dff0fa"),
    Polygon(
        "#8fbfdd",
        (
            (0.3, 0.06),
            (0.66, 0.1),
            (0.93, 0.28),
            (0.95, 0.64),
            (0.74, 0.92),
            (0.36, 0.95),
            (0.07, 0.72),
            (0.06, 0.34),
        ),
    ),
    Polygon(
        "#12395c",
        (
            (0.33, 0.16),
            (0.63, 0.19),
            (0.84, 0.34),
            (0.86, 0.61),
            (0.69, 0.82),
            (0.39, 0.85),
            (0.16, 0.67),
            (0.15, 0.38),
        ),
    ),
)
_RIPPLES: Drawing = (Rect("#4f8fbf", 0.3, 0.42, 0.26, 0.06), Rect("#4f8fbf", 0.46, 0.6, 0.24, 0.06))
_FLAG: Drawing = (
    Polygon("#9cc4de", ((0.14, 0.92), (0.26, 0.8), (0.5, 0.76), (0.74, 0.8), (0.86, 0.92))),
    Rect("#5a3a22", 0.3, 0.08, 0.08, 0.78),
    Polygon("#d62f3f", ((0.38, 0.1), (0.88, 0.29), (0.38, 0.5))),
)
_RAISED_FLAG: Drawing = (
    Rect("#5a3a22", 0.66, 0.06, 0.07, 0.9),
    Polygon("#d62f3f", ((0.73, 0.08), (0.98, 0.21), (0.73, 0.36))),
)
_SWIMMER: Drawing = (
    Polygon("#4457d6", ((0.14, 0.24), (0.24, 0.18), (0.4, 0.62), (0.28, 0.66))),
    Polygon("#4457d6", ((0.86, 0.24), (0.76, 0.18), (0.6, 0.62), (0.72, 0.66))),
    *_moved(_PLAYER[3:], 0, 0.13),
    Polygon("#12395c", ((0.2, 0.6), (0.8, 0.6), (0.74, 0.74), (0.66, 0.8), (0.42, 0.82), (0.26, 0.74))),
    Rect("#9ccbe8", 0.2, 0.59, 0.6, 0.06),
)

DRAWINGS: Mapping[str, Drawing] = MappingProxyType(
    {
        "wall": _bricks(),
        "floor": _FLOOR,
        "target": (*_FLOOR, *_MARKS, *_DIAMOND),
        "box": (*_FLOOR, *_crate(0.07, "#6b3f16", "#c98a4b", "#e0aa6c"), *_BRACE),
        "box_on_target": (*_FLOOR, *_MARKS, *_crate(0.14, "#14532d", "#2f9e5b", "#2f9e5b"), _TICK),
        "player_on_floor": (*_FLOOR, *_PLAYER),
        "player_on_target": (*_FLOOR, *_MARKS, *_PLAYER),
        "start": (*_PAD, _PAD_DOT),
        "frozen": _ICE,
        "hole": (*_HOLE, *_RIPPLES),
        "goal": (*_ICE, *_FLAG),
        "player_on_start": (*_PAD, *_PLAYER),
        "player_on_frozen": (*_ICE, *_PLAYER),
        "player_on_hole": (*_HOLE, *_SWIMMER),
        "player_on_goal": (*_ICE, *_RAISED_FLAG, *_moved(_PLAYER, -0.17, 0.02)),
    }
)
"""Drawings of all tiles by name."""
