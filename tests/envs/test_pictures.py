"""Pictures of grid worlds: SVG, array and PNG agree, and tiles can be told apart."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Sequence
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tests.children import python
from verl_agent_env.envs import pictures
from verl_agent_env.envs.pictures import Circle, Polygon, Rect

SOKOBAN = ["wall", "floor", "target", "box", "box_on_target", "player_on_floor", "player_on_target"]
LAKE = ["start", "frozen", "hole", "goal"]
LAKE += [f"player_on_{tile}" for tile in LAKE]
ROOM = [["wall", "wall", "wall"], ["player_on_floor", "box", "target"]]
SVG = "{http://www.w3.org/2000/svg}"


def decode(png: bytes) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        image.load()
        return np.asarray(image)


def grey(tile: str, tile_px: int) -> npt.NDArray[np.float64]:
    return np.average(pictures.rgb_array([[tile]], tile_px), axis=2, weights=[0.299, 0.587, 0.114])


def shape_of(element: ElementTree.Element) -> Rect | Circle | Polygon:
    """The shape that an SVG element stands for."""
    colour = element.attrib["fill"]
    if element.tag == f"{SVG}polygon":
        corners = [point.split(",") for point in element.attrib["points"].split()]
        return Polygon(colour, tuple((float(x), float(y)) for x, y in corners))
    names = ("x", "y", "width", "height") if element.tag == f"{SVG}rect" else ("cx", "cy", "r")
    numbers = [float(element.attrib[name]) for name in names]
    return Rect(colour, *numbers) if element.tag == f"{SVG}rect" else Circle(colour, *numbers)


def bounds(shape: Rect | Circle | Polygon) -> tuple[float, float, float, float]:
    if isinstance(shape, Polygon):
        xs, ys = zip(*shape.points, strict=True)
        return min(xs), min(ys), max(xs), max(ys)
    if isinstance(shape, Circle):
        return shape.x - shape.radius, shape.y - shape.radius, shape.x + shape.radius, shape.y + shape.radius
    return shape.x, shape.y, shape.x + shape.width, shape.y + shape.height


def test_every_tile_of_both_games_has_a_drawing() -> None:
    assert set(pictures.DRAWINGS) == set(SOKOBAN) | set(LAKE)


@pytest.mark.parametrize("tile", SOKOBAN + LAKE)
def test_a_drawing_fills_its_cell_and_stays_within_it(tile: str) -> None:
    first, *_ = drawing = pictures.DRAWINGS[tile]
    assert bounds(first) == (0, 0, 1, 1)
    for shape in drawing:
        left, top, right, bottom = bounds(shape)
        assert left >= 0
        assert top >= 0
        assert right <= 1 + 1e-9
        assert bottom <= 1 + 1e-9


@pytest.mark.parametrize("tiles", [SOKOBAN, LAKE], ids=["sokoban", "lake"])
@pytest.mark.parametrize("tile_px", [8, 16, 32])
def test_tiles_differ_without_their_colours(tiles: Sequence[str], tile_px: int) -> None:
    outlines = {tile: np.abs(np.diff(grey(tile, tile_px), axis=1)) > 20 for tile in tiles}
    for one, other in itertools.combinations(tiles, 2):
        assert (outlines[one] != outlines[other]).mean() > 0.02, f"{one} and {other} look alike"


def test_rgb_array_puts_each_tile_in_its_cell() -> None:
    picture = pictures.rgb_array(ROOM, 16)
    assert picture.shape == (32, 48, 3)
    assert picture.dtype == np.uint8
    for row, column in itertools.product(range(2), range(3)):
        cell = picture[row * 16 : row * 16 + 16, column * 16 : column * 16 + 16]
        assert np.array_equal(cell, pictures.rgb_array([[ROOM[row][column]]], 16))


@pytest.mark.parametrize("tiles", [[["box"]], ROOM])
def test_rgb_array_is_the_callers_own(tiles: Sequence[Sequence[str]]) -> None:
    before = pictures.rgb_array(tiles, 8)
    spoilt = pictures.rgb_array(tiles, 8)
    spoilt[:] = 0
    assert np.array_equal(pictures.rgb_array(tiles, 8), before)


def test_shapes_are_painted_where_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = (
        Rect("#000000", 0, 0, 1, 1),
        Rect("#ff0000", 0, 0, 0.5, 0.25),
        Circle("#00ff00", 0.75, 0.25, 0.25),
        Polygon("#0000ff", ((0, 0.5), (1, 0.5), (1, 1), (0.5, 0.75), (0, 1))),
    )
    monkeypatch.setattr(pictures, "DRAWINGS", {"sample of shapes": drawing})
    picture = pictures.rgb_array([["sample of shapes"]], 64).astype(np.float64) / 255
    area = picture.sum(axis=(0, 1)) / 64**2
    assert area == pytest.approx([0.125, np.pi / 16, 0.375], abs=0.002)
    assert picture[15, 31].tolist() == [1, 0, 0]
    assert picture[16, 48].tolist() == [0, 1, 0]
    assert picture[40, 5].tolist() == [0, 0, 1]
    assert picture[60, 32].tolist() == [0, 0, 0]


@pytest.mark.parametrize("tile_px", [1, 4, 16, 64])
def test_png_holds_the_pixels_of_rgb_array(tile_px: int) -> None:
    assert np.array_equal(decode(pictures.png(ROOM, tile_px)), pictures.rgb_array(ROOM, tile_px))


def test_png_of_the_same_grid_has_the_same_bytes() -> None:
    assert pictures.png(ROOM, 16) == pictures.png([tuple(row) for row in ROOM], 16)


def test_svg_places_a_symbol_for_each_cell() -> None:
    root = ElementTree.fromstring(pictures.svg(ROOM, 20))  # noqa: S314 (our own document)
    assert root.tag == f"{SVG}svg"
    assert (root.attrib["width"], root.attrib["height"]) == ("60", "40")
    assert root.attrib["viewBox"] == "0 0 3 2"
    symbols = [symbol.attrib["id"] for symbol in root.findall(f"{SVG}symbol")]
    assert sorted(symbols) == ["tile-box", "tile-player_on_floor", "tile-target", "tile-wall"]
    cells = [(use.attrib["y"], use.attrib["x"], use.attrib["href"]) for use in root.findall(f"{SVG}use")]
    assert cells == [
        (str(r), str(c), f"#tile-{tile}") for r, row in enumerate(ROOM) for c, tile in enumerate(row)
    ]


@pytest.mark.parametrize("tile", SOKOBAN + LAKE)
def test_svg_draws_the_shapes_of_the_raster(tile: str) -> None:
    root = ElementTree.fromstring(pictures.svg([[tile]], 16))  # noqa: S314 (our own document)
    (symbol,) = root.findall(f"{SVG}symbol")
    shapes = [shape_of(element) for element in symbol]
    assert [(type(s), s.colour) for s in shapes] == [(type(s), s.colour) for s in pictures.DRAWINGS[tile]]
    for drawn, described in zip(shapes, pictures.DRAWINGS[tile], strict=True):
        assert bounds(drawn) == pytest.approx(bounds(described), abs=1e-3)


def test_svg_of_a_large_room_stays_small() -> None:
    row = [
        "wall",
        "floor",
        "target",
        "box",
        "box_on_target",
        "player_on_floor",
        "player_on_target",
        *["floor"] * 3,
    ]
    assert len(pictures.svg([row] * 10, 16)) < 12_000


@pytest.mark.parametrize("draw", [pictures.svg, pictures.rgb_array, pictures.png])
@pytest.mark.parametrize(
    ("tiles", "tile_px", "message"),
    [
        ([["wall", "lava"]], 16, "No tile is called 'lava'; there are: box,"),
        ([["wall", "wall"], ["wall"]], 16, r"rows of one length, at least 1; these are \[1, 2\]"),
        ([], 16, "rows of one length"),
        ([[]], 16, "rows of one length"),
        ([["wall"]], 0, "at least 1 pixel, not 0"),
    ],
)
def test_what_cannot_be_drawn_raises_value_error(
    draw: Callable[[Sequence[Sequence[str]], int], object], tiles: list[list[str]], tile_px: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        draw(tiles, tile_px)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4)])
def test_to_png_keeps_every_pixel(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert np.array_equal(
        decode(pictures.to_png(array)), array.reshape((5, 7) if shape[2:] == (1,) else shape)
    )
    assert pictures.to_png(array) == pictures.to_png(array.copy())


def test_to_png_takes_views_that_are_not_contiguous() -> None:
    array = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    assert np.array_equal(decode(pictures.to_png(array[::2, ::-1])), array[::2, ::-1])


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float64),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((4,), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_to_png_refuses_what_is_no_picture(array: npt.NDArray[np.generic]) -> None:
    with pytest.raises(ValueError, match="is no picture"):
        pictures.to_png(array)


def test_importing_the_module_does_not_load_pillow() -> None:
    code = "import sys, verl_agent_env.envs.pictures; sys.exit('PIL' in sys.modules)"
    assert python("-c", code).returncode == 0
