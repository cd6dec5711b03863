"""Any registered Gymnasium environment whose spaces have words, as an environment that talks in chat messages."""

from __future__ import annotations

from verl_agent_env.envs.catalogue.gymnasium_text.env import GymnasiumTextEnv, make_class


def __getattr__(env_id: str) -> type[GymnasiumTextEnv]:
    return make_class(env_id)
