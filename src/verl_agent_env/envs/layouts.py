"""Layouts of episodes: hashes that identify what there is to solve, and their division into training and tests.

Two episodes have the same layout when the problem to solve is the same; seeds and the form of observations do not matter. So a
slippery lake has the layout of the solid one, and numbers in another order are the same puzzle.
"""

from __future__ import annotations

import hashlib
from typing import Any

import gymnasium
import orjson

from verl_agent_env.envs.base import ChatEnv
from verl_agent_env.types import Observation

TEST_SHARE = 0.125
"""Default share of all layouts, by their hash, that is kept for tests."""

_HASH_BYTES = 16


def layout_hash(env: gymnasium.Env[Any, Any], first_observation: Observation) -> str:
    """Hash the layout of an episode that has just begun, into 32 hex digits."""
    layout = env.layout() if isinstance(env, ChatEnv) else None
    if layout is None:
        layout = [type(env).__qualname__, _state_of(env), first_observation]
    encoded = orjson.dumps(layout, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(encoded, digest_size=_HASH_BYTES).hexdigest()


def position_of(layout: str) -> float:
    """Map a layout's hash to a number in [0, 1), evenly distributed; those below the test share are for tests."""
    return int(layout[:13], 16) / float(1 << 52)


def _state_of(env: gymnasium.Env[Any, Any]) -> Any:
    if not isinstance(env, ChatEnv) or type(env).dump_state is ChatEnv.dump_state:
        return None
    return env.dump_state()
