"""What tells layouts apart, and what does not."""

from __future__ import annotations

from typing import Any

from verl_agent_env.envs.layouts import layout_hash, position_of
from verl_agent_env.envs.registry import default_registry



