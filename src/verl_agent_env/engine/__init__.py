"""The host: owns live environments inside one worker, runs them, and keeps what it takes to answer a step twice."""

from verl_agent_env.engine.host import Host
from verl_agent_env.engine.lives import CreateRequest

__all__ = ["CreateRequest", "Host"]
