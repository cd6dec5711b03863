"""The worlds of MiniGrid and BabyAI, as the package registers them."""

from __future__ import annotations

import contextlib

import gymnasium

from verl_agent_env.envs.catalogue.adapter import adapter_class
from verl_agent_env.envs.catalogue.family import Listing
from verl_agent_env.envs.catalogue.minigrid.env import MiniGridEnv
from verl_agent_env.envs.spec import EnvSpec

_PREFIXES = ("MiniGrid-", "BabyAI-")
_SEEDS = (0, 1, 2)


def read() -> Listing:
    """Find all worlds that can be made."""
    environments: dict[str, tuple[str, list[str]]] = {}
    left_out: dict[str, str] = {}
    for world_id in sorted(gymnasium.registry):
        if not world_id.startswith(_PREFIXES):
            continue
        try:
            environments[world_id] = _row(world_id)
        except Exception as failed:  # noqa: BLE001 - whatever the package raises is the cause
            left_out[world_id] = f"it cannot be made: {type(failed).__name__}: {str(failed)[:100]}"
    return Listing(environments, left_out)


def _row(world_id: str) -> tuple[str, list[str]]:
    tags = ["multi-turn", "1-player", "images", "babyai" if world_id.startswith("BabyAI") else "minigrid"]
    env = adapter_class(MiniGridEnv, EnvSpec(world_id, "", tags=("solver",)), world_id=world_id)()
    missions = []
    solved = []
    for seed in _SEEDS:
        env.reset(seed=seed)
        missions.append(env.mission)
        with contextlib.suppress(Exception):
            solved.append(env.solution() is not None)
    if world_id.startswith("BabyAI") and all(solved) and solved:
        tags.append("solver")
    return f"{_words(world_id)}, for example: {missions[0]}.", tags


def _words(world_id: str) -> str:
    return world_id.partition("-")[2].rpartition("-v")[0]
