"""Countdown: combine the given numbers into the target."""

from verl_agent_env.envs.countdown.env import CountdownArguments, CountdownEnv

__all__ = ["CountdownArguments", "CountdownEnv"]
