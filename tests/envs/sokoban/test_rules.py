"""The rules equal an independent implementation on plain arrays, step by step."""

from random import Random

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

DELTAS = ((-1, 0), (1, 0), (0, -1), (0, 1))


class ArrayGame:
    """gym-sokoban's rules, written down on its own arrays and without bit boards."""

    def __init__(self, level: Level) -> None:
        self.fixed = level.room_fixed()
        self.state = level.room_state()
        self.on_target = self.count_on_target()

    def count_on_target(self) -> int:
        return sum(code == 3 for row in self.state for code in row)

    def player(self) -> tuple[int, int]:
        return next((r, row.index(5)) for r, row in enumerate(self.state) if 5 in row)

    def step(self, action: int) -> float:
        if action:
            self.act(action)
        reward = -0.1
        now = self.count_on_target()
        if now > self.on_target:
            reward += 1
        elif now < self.on_target:
            reward -= 1
        self.on_target = now
        if not any(code == 4 for row in self.state for code in row):
            reward += 10
        return reward

    def act(self, action: int) -> None:
        row, column = self.player()
        down, right = DELTAS[(action - 1) % 4]
        ahead = (row + down, column + right)
        beyond = (row + 2 * down, column + 2 * right)
        if self.at(ahead) in (3, 4):
            if action > 4 or self.at(beyond) not in (1, 2):
                return
            self.put(beyond, 3 if self.fixed[beyond[0]][beyond[1]] == 2 else 4)
        elif self.at(ahead) not in (1, 2):
            return
        self.put(ahead, 5)
        self.put((row, column), self.fixed[row][column])

    def at(self, cell: tuple[int, int]) -> int:
        return self.state[cell[0]][cell[1]]

    def put(self, cell: tuple[int, int], code: int) -> None:
        self.state[cell[0]][cell[1]] = code


@pytest.mark.parametrize(("height", "width", "boxes"), [(6, 6, 1), (7, 9, 3), (10, 10, 4)])
def test_random_play_equals_the_array_rules(height: int, width: int, boxes: int) -> None:
    rewards = Rewards()
    seen = set()
    for seed in range(40):
        random = Random(seed)
        level = generate_level(seed, height, width, boxes)
        game = ArrayGame(level)
        board, player = level.boxes, level.player
        for _ in range(150):
            # Mostly pushes, so that boxes really get about.
            action = random.choice((0, 1, 2, 3, 4, 1, 2, 3, 4, 5, 6, 7, 8))
            following, player = advance(level, board, player, action)
            reward = rewards.of(level, board, following)
            board = following
            assert reward == game.step(action)
            assert level.at(board, player).room_state() == game.state
            assert level.at(board, player).boxes_on_target == game.on_target
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
