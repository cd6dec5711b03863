"""The level of an episode: that of its seed, or of one that follows where the generator finds none."""

from __future__ import annotations

import functools
from typing import NamedTuple

from verl_agent_env.envs.drawing import draw_or_go_on, first_of
from verl_agent_env.envs.sokoban.generator import LevelGenerationError, cost_ms, generate_level
from verl_agent_env.envs.sokoban.level import Level

_MAX_TRIES = 16
_ALL_TRIES_MS = 500.0
"""For all tries together, where one does not take longer."""
_AT_ONCE_MS = 50.0


class LevelParameters(NamedTuple):
    """Settings with which levels are generated, beside their seeds."""

    dim_room: tuple[int, int]
    num_boxes: int
    difficulty: str | float
    min_pushes: int | None
    num_gen_steps: int | None
    change_direction_probability: float
    search_budget: int | None

    @property
    def try_ms(self) -> float:
        """Milliseconds that one try computes at most, rarely more."""
        height, width = self.dim_room
        return cost_ms(
            height,
            width,
            self.num_boxes,
            difficulty=self.difficulty,
            min_pushes=self.min_pushes,
            num_gen_steps=self.num_gen_steps,
            search_budget=self.search_budget,
        )

    @property
    def tries(self) -> int:
        """Seeds that are tried for one level."""
        return max(1, min(_MAX_TRIES, int(_ALL_TRIES_MS / self.try_ms)))

    @property
    def level_ms(self) -> float:
        """Milliseconds that a level takes at most, rarely more; where one try decides whether that is one try, it is made."""
        if self.min_pushes is None or (self.try_ms <= _AT_ONCE_MS and _level(0, self) is not None):
            return self.try_ms
        return self.try_ms * self.tries


def level_of(seed: int, parameters: LevelParameters) -> Level:
    """Return the level of a seed; equal seeds give equal levels on every machine.

    Raises:
        LevelGenerationError: No level was found with these parameters; then there is none for any seed.
    """
    level = draw_or_go_on(
        seed,
        lambda candidate: _level(candidate, parameters),
        lambda: _example(parameters),
        parameters.tries,
    )
    if level is None:
        raise LevelGenerationError(_fault(0, parameters))
    return level


def _level(seed: int, parameters: LevelParameters) -> Level | None:
    found = _attempt(seed, parameters)
    return found if isinstance(found, Level) else None


def _fault(seed: int, parameters: LevelParameters) -> str:
    return str(_attempt(seed, parameters))


@functools.lru_cache(maxsize=256)
def _example(parameters: LevelParameters) -> Level | None:
    return first_of(lambda seed: _level(seed, parameters), parameters.tries)


@functools.lru_cache(maxsize=1024)
def _attempt(seed: int, parameters: LevelParameters) -> Level | str:
    """Generate the level of a seed, or say why there is none.

    Cached: the samples of a GRPO group share a seed, and so one level, generated and held once.
    """
    (height, width), num_boxes, difficulty, min_pushes, num_gen_steps, turn, search_budget = parameters
    try:
        return generate_level(
            seed,
            height,
            width,
            num_boxes,
            difficulty=difficulty,
            min_pushes=min_pushes,
            num_gen_steps=num_gen_steps,
            change_direction_probability=turn,
            search_budget=search_budget,
        )
    except LevelGenerationError as none:
        return str(none)
