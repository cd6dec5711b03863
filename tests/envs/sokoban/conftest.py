"""gym-sokoban's rules once more, for the tests to compare with."""

from __future__ import annotations

import pytest

from verl_agent_env.envs.sokoban.level import Level

DELTAS = ((-1, 0), (1, 0), (0, -1), (0, 1))


class ArrayGame:
    """gym-sokoban's rules, written down on its own arrays and without bit boards."""

    def __init__(self, level: Level) -> None:
        self.fixed = level.room_fixed()
        self.state = level.room_state()
        self.on_target = self.count_on_target()

    def solved(self) -> bool:
        return not any(code == 4 for row in self.state for code in row)

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
        if self.solved():
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


@pytest.fixture
def array_game() -> type[ArrayGame]:
    return ArrayGame
