"""Former place of :mod:`verl_agent_env.integrations.rollout.episode`."""

from verl_agent_env.moved import moved

__getattr__ = moved(__name__, "verl_agent_env.integrations.rollout.episode")
