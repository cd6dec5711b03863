"""Former place of :mod:`verl_agent_env.integrations.rollout.template_messages`."""

from verl_agent_env.moved import moved

__getattr__ = moved(__name__, "verl_agent_env.integrations.rollout.template_messages")
