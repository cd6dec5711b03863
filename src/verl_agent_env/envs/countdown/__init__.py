"""Countdown: combine numbers into a target. Expressions, puzzles, the solver, the scores and the environment."""

from verl_agent_env.envs.countdown.arguments import CountdownArguments
from verl_agent_env.envs.countdown.env import CountdownEnv

__all__ = ["CountdownArguments", "CountdownEnv"]
