"""Keyword arguments of the Python tool."""

from __future__ import annotations

from pydantic import Field, model_validator

from verl_agent_env.envs.tool_dialogue import ToolDialogueArguments

MAX_TURN_S = 25.0
"""Limit of the time that the programs of one message may take together; a server allows a step a little more."""


class PythonToolArguments(ToolDialogueArguments):
    """Keyword arguments of the Python tool."""

    max_steps: int = Field(default=20, ge=1, le=1_000)
    """Tool calls after which the episode is truncated; a turn that cannot be read counts as one."""
    max_actions_per_turn: int = Field(default=4, ge=1, le=100)
    """Limit of the calls of one message; they run one after the other."""
    max_result_chars: int = Field(default=8_000, ge=100, le=1_000_000)
    """Limit of the output of one program; one that writes more is ended."""
    time_limit_s: float = Field(default=5.0, gt=0.0, le=MAX_TURN_S)
    """Seconds that one program may take."""
    memory_limit_mb: int = Field(default=512, ge=128, le=4_096)
    """Memory that one program may take, in MB of its address space."""

    @model_validator(mode="after")
    def _check_time(self) -> PythonToolArguments:
        if self.max_actions_per_turn * self.time_limit_s > MAX_TURN_S:
            raise ValueError(
                f"max_actions_per_turn times time_limit_s may be {MAX_TURN_S:g} at most: the programs of one message run one"
                " after the other"
            )
        return self
