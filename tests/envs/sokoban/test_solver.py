"""The solver: shortest in pushes, honest about what it does not know."""

import pytest

from verl_agent_env.envs.sokoban.generator import generate_level
from verl_agent_env.envs.sokoban.level import Level
from verl_agent_env.envs.sokoban.rules import advance
from verl_agent_env.envs.sokoban.solver import RoomSearchLimitError, Solution, lower_bound, solve


def replay(level: Level, solution: Solution) -> int:
    """Play a solution, check that it solves the level, and count its pushes."""
    boxes, player, pushes = level.boxes, level.player, 0
    for action in solution.actions:
        before = (boxes, player)
        boxes, player = advance(level, boxes, player, action)
        assert (boxes, player) != before
        pushes += boxes != before[0]
    assert boxes == level.targets
    return pushes


def fewest_pushes(level: Level) -> int | None:
    """Search every (boxes, player) position breadth first by pushes, with nothing clever."""
    layer, seen, pushes = {(level.boxes, level.player)}, set(), 0
    while layer:
        walking, following = list(layer), set()
        for boxes, player in walking:
            if (boxes, player) in seen:
                continue
            seen.add((boxes, player))
            if boxes == level.targets:
                return pushes
            for action in (1, 2, 3, 4):
                after = advance(level, boxes, player, action)
                if after[0] == boxes:
                    walking.append(after)
                else:
                    following.add(after)
        layer, pushes = following, pushes + 1
    return None


@pytest.mark.parametrize(("height", "width", "boxes"), [(6, 6, 1), (6, 6, 2), (6, 7, 3), (7, 7, 2)])
def test_pushes_equal_those_of_a_plain_search(height: int, width: int, boxes: int) -> None:
    for seed in range(25):
        level = generate_level(seed, height, width, boxes)
        solution = solve(level)
        assert solution is not None
        assert solution.pushes == replay(level, solution) == fewest_pushes(level)
        assert (lower_bound(level) or 0) <= solution.pushes


def test_any_position_of_an_episode_gets_the_plain_search_verdict() -> None:
    verdicts = set()
    for seed in range(60):
        level = generate_level(seed, 6, 6, 2)
        boxes, player = level.boxes, level.player
        for step in range(25):
            boxes, player = advance(level, boxes, player, 1 + (seed * 7 + step * step) % 4)
        position = level.at(boxes, player)
        solution = solve(position)
        assert (solution.pushes if solution else None) == fewest_pushes(position)
        if solution:
            replay(position, solution)
        verdicts.add(solution is None)
    assert verdicts == {True, False}


def test_solved_level_needs_nothing() -> None:
    level = generate_level(3, 7, 7, 2)
    assert solve(level.at(level.targets, level.player)) == Solution((), 0, 0)


def test_walks_between_pushes_are_shortest() -> None:
    level = Level.from_text("#######\n#  @  #\n# $   #\n# .   #\n#     #\n#######")
    solution = solve(level)
    assert solution is not None
    assert solution.actions == (3, 2)


@pytest.mark.parametrize(
    "text",
    [
        "#####\n#$ .#\n# @ #\n#####",
        "######\n# $$ #\n# @. #\n# .  #\n######",
        "#######\n#@#$. #\n#######",
        "#######\n#.  $##\n# @$ ##\n#.   ##\n#######",
    ],
)
def test_unsolvable_positions_are_proved_so(text: str) -> None:
    level = Level.from_text(text)
    assert fewest_pushes(level) is None
    assert solve(level) is None


def test_node_limit_is_told_apart_from_unsolvable() -> None:
    level = generate_level(1, 10, 10, 4)
    with pytest.raises(RoomSearchLimitError) as caught:
        solve(level, node_limit=2)
    assert caught.value.node_limit == 2


def test_more_boxes_than_the_matching_takes_are_solved_by_the_simpler_bound() -> None:
    level = generate_level(2, 9, 9, 7, difficulty="easy")
    solution = solve(level)
    assert solution is not None
    assert replay(level, solution) == solution.pushes >= (lower_bound(level) or 0)


def test_typical_ten_by_ten_levels_need_few_positions() -> None:
    explored = sum(
        solution.explored for seed in range(40) if (solution := solve(generate_level(seed, 10, 10, 4)))
    )
    assert explored / 40 < 2_000
