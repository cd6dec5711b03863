"""Levels: validation, and round trips through arrays, room_setup dictionaries and text."""

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.depth import examples
from verl_agent_env.envs.sokoban.generator import generate_level
from verl_agent_env.envs.sokoban.level import Level

FIXED = [[0, 0, 0, 0, 0], [0, 1, 1, 2, 0], [0, 1, 2, 1, 0], [0, 0, 0, 0, 0]]
STATE = [[0, 0, 0, 0, 0], [0, 1, 4, 3, 0], [0, 1, 5, 1, 0], [0, 0, 0, 0, 0]]


def with_cell(grid: list[list[int]], row: int, column: int, code: int) -> list[list[int]]:
    copy = [list(line) for line in grid]
    copy[row][column] = code
    return copy


def test_arrays_are_read_cell_by_cell() -> None:
    level = Level.from_arrays(FIXED, STATE)
    assert (level.height, level.width) == (4, 5)
    assert level.targets == 1 << level.cell(1, 3) | 1 << level.cell(2, 2)
    assert level.boxes == 1 << level.cell(1, 2) | 1 << level.cell(1, 3)
    assert level.position(level.player) == (2, 2)
    assert (level.boxes & level.targets).bit_count() == 1
    assert level.num_boxes == 2
    assert not level.is_solved


def test_player_standing_on_a_target_survives_the_round_trip() -> None:
    level = Level.from_arrays(FIXED, STATE)
    assert level.room_fixed() == FIXED
    assert level.room_state() == STATE
    assert level.to_text() == "#####\n# $*#\n# + #\n#####"


def test_room_setup_of_numpy_arrays_equals_that_of_lists() -> None:
    listed = Level.from_room_setup({"room_fixed": FIXED, "room_state": STATE})
    arrays = Level.from_room_setup(
        {"room_fixed": np.array(FIXED), "room_state": np.array(STATE, dtype=np.int8)}
    )
    rows = Level.from_room_setup({"room_fixed": [np.array(row) for row in FIXED], "room_state": tuple(STATE)})
    assert listed == arrays == rows


@pytest.mark.parametrize(
    "mapping",
    [
        None,
        {},
        {"(1, 3)": [1, 2], "(2, 2)": (1, 3)},
        {(1, 3): np.array([1, 2])},
        {"(np.int64(1), np.int64(3))": "(1, 2)"},
    ],
)
def test_box_mappings_of_existing_data_sets_load(mapping: Any) -> None:
    setup = {"room_fixed": FIXED, "room_state": STATE, "box_mapping": mapping}
    assert Level.from_room_setup(setup) == Level.from_arrays(FIXED, STATE)


@pytest.mark.parametrize(
    "mapping",
    [[1], {"(9, 9)": [1, 1]}, {"(1, 3)": [1]}, {"one": [1, 1]}, {"(1, 3)": ["a", "b"]}, {5: [1, 1]}],
)
def test_bad_box_mapping_is_rejected(mapping: Any) -> None:
    with pytest.raises(ValueError, match="box_mapping"):
        Level.from_room_setup({"room_fixed": FIXED, "room_state": STATE, "box_mapping": mapping})


@pytest.mark.parametrize("setup", [None, [], {}, {"room_fixed": FIXED}])
def test_incomplete_room_setup_is_rejected(setup: Any) -> None:
    with pytest.raises(ValueError, match="room_"):
        Level.from_room_setup(setup)


@pytest.mark.parametrize(
    ("fixed", "state", "reason"),
    [
        ([*FIXED[:3], [0, 0, 0, 0]], STATE, "length"),
        (FIXED, STATE[:3], "shape"),
        (FIXED, 7, "list of rows"),
        ([], [], "list of rows"),
        (["00000"] * 4, STATE, "list of rows"),
        (FIXED, [[0.5] * 5] * 4, "whole number"),
        (FIXED[:2], STATE[:2], "between"),
        ([[0] * 5] * 41, [[0] * 5] * 41, "between"),
        ([[0] * 1_000_000] * 4, STATE, "between"),
        (with_cell(FIXED, 1, 1, 3), STATE, "unknown code 3"),
        (FIXED, with_cell(STATE, 1, 1, 9), "unknown code 9"),
        (FIXED, with_cell(STATE, 1, 1, -1), "unknown code -1"),
        (FIXED, with_cell(STATE, 2, 2, 2), "0 players"),
        (FIXED, with_cell(STATE, 1, 1, 5), "2 players"),
        (FIXED, with_cell(STATE, 1, 2, 1), "1 boxes and 2 targets"),
        (FIXED, with_cell(STATE, 1, 1, 2), "contradicts"),
        (FIXED, with_cell(STATE, 0, 0, 5), "contradicts"),
        (with_cell(FIXED, 0, 2, 1), with_cell(STATE, 0, 2, 1), r"open at \(0, 2\)"),
        (with_cell(FIXED, 2, 4, 1), with_cell(STATE, 2, 4, 1), r"open at \(2, 4\)"),
    ],
)
def test_invalid_arrays_are_rejected(fixed: Any, state: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Level.from_arrays(fixed, state)


def test_a_room_without_boxes_is_rejected() -> None:
    with pytest.raises(ValueError, match="0 boxes"):
        Level.from_text("####\n#@ #\n####")


def test_text_pads_short_lines_and_walls_up_the_outside() -> None:
    level = Level.from_text("\n  ####\n###  #\n#@$ .#\n######\n")
    assert level.to_text() == "######\n###  #\n#@$ .#\n######"


def test_floor_that_only_boxes_hide_stays_floor() -> None:
    assert Level.from_text("#####\n#@$.#\n#####").to_text() == "#####\n#@$.#\n#####"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("#####\n#@$.#\n#x###", "unknown character"),
        ("#####\n#@$. \n#####", "open"),
        ("@####\n# $.#\n#####", "open"),
        ("####\n# $.\n####", "players"),
        ("", "between"),
        ("#" * 41 + "\n#@$.#\n#####", "between"),
    ],
)
def test_invalid_text_is_rejected(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Level.from_text(text)


@settings(max_examples=examples(60))
@given(
    seed=st.integers(0, 2**64), height=st.integers(6, 12), width=st.integers(6, 12), boxes=st.integers(1, 3)
)
def test_generated_levels_survive_every_conversion(seed: int, height: int, width: int, boxes: int) -> None:
    level = generate_level(seed, height, width, boxes)
    assert Level.from_arrays(level.room_fixed(), level.room_state()) == level
    assert Level.from_room_setup(json.loads(json.dumps(level.to_room_setup()))) == level
    assert Level.from_text(level.to_text()) == level


def test_ten_thousand_small_levels_take_a_few_hundred_bytes_each() -> None:
    levels = [generate_level(seed, 6, 6, 1) for seed in range(10)]
    tracemalloc.start()
    try:
        held = [Level.from_text(levels[i % 10].to_text()) for i in range(1_000)]
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert used / len(held) < 400


def test_at_moves_boxes_and_player_only() -> None:
    level = Level.from_arrays(FIXED, STATE)
    solved = level.at(level.targets, level.cell(1, 1))
    assert solved.is_solved
    assert (solved.walls, solved.targets) == (level.walls, level.targets)
    assert not level.is_solved
