"""LLM-agent environments for reinforcement learning, in process and over HTTP.

Importing the package makes its environments known to ``gymnasium.make``; none of their code is loaded before it is
asked for.
"""

from verl_agent_env.envs.registry import register_with_gymnasium as _register_with_gymnasium

__version__ = "0.1.0"

_register_with_gymnasium()
