"""Looks at environments without changing them: their state, a picture, the episode so far, how an action is read."""

from verl_agent_env.engine.inspection.actions import read_action, read_kept_actions
from verl_agent_env.engine.inspection.state import (
    MEDIA_TYPES,
    describe,
    read_env,
    render,
    render_modes,
    seat_view,
)
from verl_agent_env.engine.inspection.trajectories import draw_kept, trajectory

__all__ = [
    "MEDIA_TYPES",
    "describe",
    "draw_kept",
    "read_action",
    "read_env",
    "read_kept_actions",
    "render",
    "render_modes",
    "seat_view",
    "trajectory",
]
