"""MiniGrid's and BabyAI's worlds: the class of each is an attribute of this module, made when it is asked for."""

from __future__ import annotations

from verl_agent_env.envs.base import ChatEnv
from verl_agent_env.envs.catalogue.families import MINIGRID


def __getattr__(world: str) -> type[ChatEnv]:
    return MINIGRID.env_class(world)
