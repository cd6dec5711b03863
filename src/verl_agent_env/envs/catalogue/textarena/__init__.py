"""TextArena's games for one player: the class of each is an attribute of this module, made when it is asked for."""

from __future__ import annotations

from verl_agent_env.envs.base import ChatEnv
from verl_agent_env.envs.catalogue.families import TEXTARENA


def __getattr__(game: str) -> type[ChatEnv]:
    return TEXTARENA.env_class(game)
