"""Layouts of episodes: a measure of difficulty, and the layout as arguments.

Environments define both themselves: :meth:`ChatEnv.difficulty` and :meth:`ChatEnv.layout_arguments`. What a layout is, and which
of them are for tests, is in :mod:`verl_agent_env.envs.layouts`.
"""

from __future__ import annotations

from typing import Any, Literal

import gymnasium

from verl_agent_env.envs.base import ChatEnv

Measure = Literal["auto", "actions"]
"""Measure of difficulty: the environment's own, or the number of actions that its solver needs."""


def difficulty(env: gymnasium.Env[Any, Any], measure: Measure) -> float | None:
    """Return the difficulty of an episode that has just begun; ``None`` if it is unknown."""
    if not isinstance(env, ChatEnv):
        return None
    if measure == "auto":
        return env.difficulty()
    solution = env.solution()
    return None if solution is None else float(len(solution))


def layout_arguments(env: gymnasium.Env[Any, Any]) -> dict[str, Any]:
    """Return keyword arguments that recreate the layout in later versions of its generator too; empty if none do."""
    return env.layout_arguments() if isinstance(env, ChatEnv) else {}
