"""Sokoban: push every box onto a target. Rules, generator, solver and the environment."""

from verl_agent_env.envs.sokoban.arguments import SokobanArguments, SokobanGlyphs
from verl_agent_env.envs.sokoban.env import SokobanEnv

__all__ = ["SokobanArguments", "SokobanEnv", "SokobanGlyphs"]
