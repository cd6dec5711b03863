"""Reasoning Gym's tasks: the class of each is an attribute of this module, made when it is asked for."""

from __future__ import annotations

from verl_agent_env.envs.base import ChatEnv
from verl_agent_env.envs.catalogue.families import REASONING_GYM


def __getattr__(task: str) -> type[ChatEnv]:
    return REASONING_GYM.env_class(task)
