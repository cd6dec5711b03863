"""Python tool: questions that a model answers with the help of programs that it writes, run in sandboxes."""

from __future__ import annotations

from verl_agent_env.envs.python_tool.env import PythonToolEnv

__all__ = ["PythonToolEnv"]
