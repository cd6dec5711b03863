"""Whether a curriculum by pass rates makes a small learner learn faster on FrozenLake.

    python -m loadtests.bench_curriculum --seeds 3

A table of logits by what lies around the player and where the goal is, trained in groups of samples whose rewards are
compared with each other (as GRPO does), on maps of 4x4 to 8x8. Uniform draws and the curriculum of
:mod:`verl_agent_env.integrations.rollout.curriculum` see equally many episodes; both are tried on maps that neither has seen.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean
from typing import Any, NamedTuple, cast

import gymnasium

import verl_agent_env  # noqa: F401 - registers the environments
from verl_agent_env.envs.frozen_lake import FrozenLakeEnv
from verl_agent_env.integrations.rollout.curriculum import PassRateCurriculum
from verl_agent_env.wire.task_results import TaskResult, TaskStatistics

MOVES = ("move_left", "move_down", "move_right", "move_up")
STEPS_OF = ((0, -1), (1, 0), (0, 1), (-1, 0))
SIZES = (4, 5, 6, 7, 8)
MAX_MOVES = 24
GROUPS, SAMPLES = 4, 8
LEARNING_RATE = 0.3


class Lake(NamedTuple):
    """A map to walk over."""

    seed: int
    size: int

    @property
    def name(self) -> str:
        return f"{self.size}@{self.seed}"


class Learner:
    """A softmax policy over a table of logits."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self._logits: dict[Any, list[float]] = {}
        self._envs: dict[int, FrozenLakeEnv] = {}

    def play(self, lake: Lake) -> tuple[float, list[tuple[Any, int, list[float]]]]:
        """Return the reward of one episode, and its moves with their probabilities."""
        env = self._env(lake.size)
        env.reset(seed=lake.seed)
        moves = []
        is_over, reward = False, 0.0
        while not is_over:
            view = view_of(*env.dump_state())
            chances = self._chances(view)
            move = self._dice.choices(range(4), chances)[0]
            moves.append((view, move, chances))
            call = {"id": "c", "type": "function", "function": {"name": MOVES[move], "arguments": "{}"}}
            _, reward, terminated, truncated, _ = env.step({"role": "assistant", "tool_calls": [call]})
            is_over = terminated or truncated
        return reward, moves

    def learn(self, group: Sequence[tuple[float, list[tuple[Any, int, list[float]]]]]) -> None:
        """Make the moves of the better episodes of a group more likely; one without a difference teaches nothing."""
        rewards = [reward for reward, _ in group]
        mean = fmean(rewards)
        spread = math.sqrt(fmean((reward - mean) ** 2 for reward in rewards))
        if not spread:
            return
        for reward, moves in group:
            advantage = (reward - mean) / spread
            for view, move, chances in moves:
                logits = self._logits[view]
                for other in range(4):
                    logits[other] += (
                        LEARNING_RATE * advantage * ((other == move) - chances[other]) / len(moves)
                    )

    def _env(self, size: int) -> FrozenLakeEnv:
        """Return the environment of this size; it plays one episode after the other."""
        if size not in self._envs:
            kwargs: dict[str, Any] = {"size": size, "is_slippery": False, "max_steps": MAX_MOVES}
            self._envs[size] = cast(
                "FrozenLakeEnv", gymnasium.make("verl_env/frozen_lake-v1", **kwargs).unwrapped
            )
        return self._envs[size]

    def _chances(self, view: Any) -> list[float]:
        logits = self._logits.setdefault(view, [0.0] * 4)
        highest = max(logits)
        raised = [math.exp(logit - highest) for logit in logits]
        total = sum(raised)
        return [each / total for each in raised]


def view_of(cells: str, width: int, position: int) -> Any:
    """Return what the learner sees: the four cells around the player, and in which direction the goal lies."""
    row, column = divmod(position, width)
    height = len(cells) // width
    around = tuple(
        (
            cells[(row + down) * width + column + right]
            if 0 <= row + down < height and 0 <= column + right < width
            else "#"
        )
        for down, right in STEPS_OF
    )
    goal_row, goal_column = divmod(cells.index("G"), width)
    return around, (goal_row > row) - (goal_row < row), (goal_column > column) - (goal_column < column)


def trained(
    seed: int, updates: int, every: int, *, curriculum: bool, train: Sequence[Lake], test: Sequence[Lake]
) -> Iterator[float]:
    """Train one learner; yields its success on the maps to test with, before the first update and after so many."""
    learner = Learner(seed)
    draw = PassRateCurriculum([lake.name for lake in train], seed)
    results: dict[str, TaskStatistics] = {}
    for update in range(updates + 1):
        if update % every == 0:
            yield fmean(learner.play(lake)[0] > 0 for lake in test)
        if curriculum:
            draw.note(results)
        for number in range(GROUPS):
            lake = train[draw.row(update * GROUPS + number)]
            group = [learner.play(lake) for _ in range(SAMPLES)]
            for reward, _ in group:
                before = results.get(lake.name, TaskStatistics(lake.name, 0, 0, 0.0))
                results[lake.name] = before.plus(TaskResult("", lake.name, reward > 0, reward))
            learner.learn(group)


def lakes(count: int, first_seed: int, choose: Callable[[int], int]) -> list[Lake]:
    """Return maps of mixed sizes."""
    return [Lake(first_seed + number, choose(number)) for number in range(count)]


def main() -> None:
    """Print how both learn."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--every", type=int, default=40, help="updates between two tests")
    options = parser.parse_args()
    train = lakes(128, 0, lambda number: SIZES[number % len(SIZES)])
    test = lakes(200, 10_000, lambda number: SIZES[number % len(SIZES)])
    places = range(0, options.updates + 1, options.every)
    print("draws      seed  " + "  ".join(f"{place:5d}" for place in places))
    for name in ("uniform", "pass_rate"):
        curves = []
        for seed in range(1, options.seeds + 1):
            is_curriculum = name == "pass_rate"
            curve = [
                *trained(
                    seed, options.updates, options.every, curriculum=is_curriculum, train=train, test=test
                )
            ]
            curves.append(curve)
            print(f"{name:10} {seed:4d}  " + "  ".join(f"{success:5.2f}" for success in curve))
        means = (fmean(values) for values in zip(*curves, strict=True))
        print(f"{name:10} mean  " + "  ".join(f"{mean:5.2f}" for mean in means))


if __name__ == "__main__":
    main()
