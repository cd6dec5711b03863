"""Programs that environments run beside a worker, none of which outlives it."""

from __future__ import annotations

from verl_agent_env.envs.processes.client import ChildProcess, LauncherClient, ProgramStartError

__all__ = ["ChildProcess", "LauncherClient", "ProgramStartError"]
