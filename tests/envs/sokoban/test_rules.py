"""The rules equal an independent implementation on plain arrays, step by step."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

from verl_agent_env.envs.sokoban.generator import generate_level
from verl_agent_env.envs.sokoban.level import Level
from verl_agent_env.envs.sokoban.rules import (
    MOVE_RIGHT,
    NO_OP,
    NUM_ACTIONS,
    PUSH_LEFT,
    PUSH_RIGHT,
    Rewards,
    advance,
)

if TYPE_CHECKING:
    from tests.envs.sokoban.conftest import ArrayGame


@pytest.mark.parametrize(("height", "width", "boxes"), [(6, 6, 1), (7, 9, 3), (10, 10, 4)])
def test_random_play_equals_the_array_rules(
    array_game: type[ArrayGame], height: int, width: int, boxes: int
) -> None:
    rewards = Rewards()
    seen = set()
    for seed in range(40):
        random = Random(seed)
        level = generate_level(seed, height, width, boxes)
        game = array_game(level)
        board, player = level.boxes, level.player
        for _ in range(150):
            # Mostly pushes, so that boxes really get about.
            action = random.choice((0, 1, 2, 3, 4, 1, 2, 3, 4, 5, 6, 7, 8))
            following, player = advance(level, board, player, action)
            reward = rewards.of(level, board, following)
            board = following
            assert reward == game.step(action)
            assert level.at(board, player).room_state() == game.state
            assert (board & level.targets).bit_count() == game.on_target
            seen.add(round(reward, 3))
    assert {-0.1, -1.1, 10.9 if boxes == 1 else 0.9} <= seen


def test_the_last_push_is_worth_all_parts_and_a_solved_room_pays_again() -> None:
    level = Level.from_text("######\n#@$. #\n######")
    boxes, _ = advance(level, level.boxes, level.player, PUSH_RIGHT)
    assert boxes == level.targets
    assert Rewards().of(level, level.boxes, boxes) == pytest.approx(10.9)
    assert Rewards().of(level, boxes, boxes) == pytest.approx(9.9)
    assert Rewards(step=0, box_on_target=2, solved=5).of(level, level.boxes, boxes) == 7


def test_moving_never_pushes_and_pushing_moves_where_there_is_no_box() -> None:
    level = Level.from_text("######\n# @$.#\n######")
    assert advance(level, level.boxes, level.player, MOVE_RIGHT) == (level.boxes, level.player)
    assert advance(level, level.boxes, level.player, PUSH_LEFT) == (level.boxes, level.player - 1)
    assert advance(level, level.boxes, level.player, NO_OP) == (level.boxes, level.player)


@pytest.mark.parametrize("text", ["######\n#@$$ #\n#  ..#\n######", "#####\n# @$#\n# . #\n#####"])
def test_blocked_push_changes_nothing(text: str) -> None:
    level = Level.from_text(text)
    assert advance(level, level.boxes, level.player, PUSH_RIGHT) == (level.boxes, level.player)


def test_walls_stop_every_action() -> None:
    level = Level.from_text("#####\n#@###\n##$.#\n## ##\n#####")
    for action in range(NUM_ACTIONS):
        assert advance(level, level.boxes, level.player, action) == (level.boxes, level.player)
