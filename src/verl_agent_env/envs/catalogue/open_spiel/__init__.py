"""OpenSpiel's games: the class of each is an attribute of this module, made when it is asked for."""

from __future__ import annotations

from verl_agent_env.envs.base import ChatEnv
from verl_agent_env.envs.catalogue.families import OPEN_SPIEL


def __getattr__(game: str) -> type[ChatEnv]:
    return OPEN_SPIEL.env_class(game)
