"""The episode that all servers play: a frozen lake without holes, on which one goes right and left for ever."""

from __future__ import annotations

from typing import Any

from verl_agent_env.envs.base import ChatEnv
from verl_agent_env.envs.registry import default_registry

LAKE: dict[str, Any] = {
    "desc": ["SFFFFFFF", *["FFFFFFFF"] * 6, "FFFFFFFG"],
    "is_slippery": False,
    "include_task_prompt": False,
    "max_steps": 1_000_000,
}
DIRECTIONS = ("right", "left")


def new_lake() -> ChatEnv:
    """Build the environment, as this project's server builds it."""
    kind = default_registry().kind("frozen_lake")
    env = kind.build(kind.validate(LAKE))
    if not isinstance(env, ChatEnv):
        raise TypeError("the frozen lake is no ChatEnv")
    return env


def text_of(observation: list[dict[str, Any]]) -> str:
    """Join the texts of an observation."""
    return "\n".join(str(message["content"]) for message in observation)
