"""What an episode begins with: a hash that tells layouts apart, a measure of difficulty, and the layout as arguments.

Two episodes have the same layout when there is the same to solve in them, whatever their seeds are and however they
are shown. So a slippery lake has the layout of the solid one, and numbers in another order are the same puzzle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Literal

import gymnasium
import orjson

from verl_agent_env.envs.base import ChatEnv
from verl_agent_env.envs.countdown import CountdownEnv
from verl_agent_env.envs.frozen_lake import FrozenLakeEnv
from verl_agent_env.envs.sokoban import SokobanEnv
from verl_agent_env.envs.sokoban.level import Level
from verl_agent_env.envs.sokoban.solver import lower_bound
from verl_agent_env.types import Observation

Measure = Literal["auto", "actions"]
"""How difficulty is measured: as suits the environment, or by the number of actions that its solver needs."""

_HASH_BYTES = 16


def layout_hash(env: gymnasium.Env[Any, Any], first_observation: Observation) -> str:
    """The layout of an episode that has just begun, in 32 hex digits."""
    digest = hashlib.blake2b(
        orjson.dumps(_identity(env, first_observation), option=orjson.OPT_SORT_KEYS), digest_size=_HASH_BYTES
    )
    return digest.hexdigest()


def position_of(layout: str) -> float:
    """Where a layout falls in [0, 1); evenly spread."""
    return int(layout[:13], 16) / float(1 << 52)


def difficulty(env: gymnasium.Env[Any, Any], measure: Measure) -> float | None:
    """How hard the episode is that has just begun; ``None`` where nothing is known about it.

    ``auto``: the pushes that a Sokoban room needs at least, without a search; the moves of the shortest way over a
    frozen lake; how many numbers a Countdown puzzle has. For all others, and for ``actions``: the number of actions
    that the environment's own solver needs.
    """
    if not isinstance(env, ChatEnv):
        return None
    if measure == "auto":
        if isinstance(env, SokobanEnv):
            bound = lower_bound(_level(env))
            return None if bound is None else float(bound)
        if isinstance(env, CountdownEnv):
            return float(len(env.dump_state()[0]))
    solution = env.solution()
    return None if solution is None else float(len(solution))


def layout_arguments(env: gymnasium.Env[Any, Any]) -> dict[str, Any]:
    """Keyword arguments that give the episode's layout in every later version of its generator; empty if none do."""
    for env_class, write in _WRITERS:
        if isinstance(env, env_class):
            return write(env)
    return {}


def _identity(env: gymnasium.Env[Any, Any], first_observation: Observation) -> list[Any]:
    if isinstance(env, SokobanEnv):
        return ["sokoban", *env.dump_state()]
    if isinstance(env, FrozenLakeEnv):
        return ["frozen_lake", *env.dump_state()]
    if isinstance(env, CountdownEnv):
        numbers, target, *_ = env.dump_state()
        return ["countdown", sorted(numbers), target]
    state = env.dump_state() if isinstance(env, ChatEnv) else None
    return [type(env).__qualname__, state, first_observation]


def _level(env: ChatEnv) -> Level:
    height, width, walls, targets, boxes, player = env.dump_state()
    return Level(height, width, int(walls, 16), int(targets, 16), int(boxes, 16), player)


def _sokoban_arguments(env: ChatEnv) -> dict[str, Any]:
    return {"room_setup": _level(env).to_room_setup()}


def _lake_arguments(env: ChatEnv) -> dict[str, Any]:
    cells, width, _ = env.dump_state()
    return {"desc": [cells[start : start + width] for start in range(0, len(cells), width)]}


def _countdown_arguments(env: ChatEnv) -> dict[str, Any]:
    numbers, target, *_ = env.dump_state()
    return {"numbers": numbers, "target": target}


_WRITERS: tuple[tuple[type[ChatEnv], Callable[[Any], dict[str, Any]]], ...] = (
    (SokobanEnv, _sokoban_arguments),
    (FrozenLakeEnv, _lake_arguments),
    (CountdownEnv, _countdown_arguments),
)
