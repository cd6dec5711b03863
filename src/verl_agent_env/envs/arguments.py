"""Keyword arguments that all environments share."""

from __future__ import annotations

from pydantic import BaseModel, Field, field_validator

from verl_agent_env.envs.reward_parts import RewardParts
from verl_agent_env.envs.strict_model import STRICT_MODEL
from verl_agent_env.messages import MAX_CALLS_PER_TURN, ActionFormat


class EnvArguments(BaseModel):
    """Keyword arguments of all environments.

    A subclass adds those of one environment.
    """

    model_config = STRICT_MODEL

    max_steps: int = Field(default=100, ge=1, le=1_000_000)
    """Moves after which the episode is truncated; a turn without a valid move counts as one."""
    max_actions_per_turn: int = Field(default=1, ge=1, le=1_000)
    """Moves that one action may hold; above 1, parallel tool calls are allowed."""
    max_calls_per_turn: int = Field(default=MAX_CALLS_PER_TURN, ge=1, le=1_000)
    """Tool calls that one action may hold, carried out or not; an action with more is invalid. Never below
    ``max_actions_per_turn``."""
    invalid_action_reward: float = 0.0
    """Added to the reward of a turn whose action cannot be carried out; usually zero or below."""
    invalid_action_ends_episode: bool = False
    """True if such an action ends the episode (``terminated``)."""
    include_task_prompt: bool = True
    """True if the first observation begins with the task prompt."""
    task_prompt: str | None = Field(default=None, max_length=65_536)
    """Replaces the environment's own task prompt."""
    action_format: ActionFormat = "auto"
    """Formats in which an action in text is read: one name, a list of names, or ``auto`` for all of them. Structured tool
    calls are always read."""
    include_reading: bool = False
    """True if the info of each step tells how its action was read (``reading``): form, thought, calls, problem, and place in the
    text. Each action is then read twice, and recorded as it was sent."""
    reward_parts: RewardParts | None = None
    """Weights and additional parts of the reward (see ``docs/environments.md``). If it is given, even as ``{}``, the info of
    each step holds the parts by name (``reward_parts``); their sum is the reward."""

    @property
    def needs_text(self) -> bool:
        """True if the result of a step depends on the action itself, and not only on the calls in it."""
        return self.include_reading or self.reward_parts is not None

    @field_validator("action_format")
    @classmethod
    def _names_a_format(cls, action_format: ActionFormat) -> ActionFormat:
        if not action_format:
            raise ValueError("name at least one format, or 'auto'")
        return action_format
