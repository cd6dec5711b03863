"""Scores by Python functions that the server registered."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, JsonValue, field_validator

from verl_agent_env.envs.scorer_registry import NO_CONTEXT, ScoreContext, find_scorer
from verl_agent_env.envs.scorers.base import ExtractingScorer, ScorerError
from verl_agent_env.envs.scorers.extraction import Extraction


class CallableScorer(ExtractingScorer):
    """The reward is the result of the Python callable that the server registered under ``name``."""

    type: Literal["callable"] = "callable"
    name: str = Field(max_length=64, description="Name of a registered scorer.")
    arguments: dict[str, JsonValue] = Field(
        default_factory=dict, repr=False, description="Handed to the callable as they are."
    )
    extract: Extraction = Field(default="whole", description="Which part of the text is the answer.")
    missing_reward: float = Field(
        default=0.0, allow_inf_nan=False, description="Reward when there is no such part."
    )

    @field_validator("name")
    @classmethod
    def _is_registered(cls, name: str) -> str:
        find_scorer(name)
        return name

    @property
    def reads_history(self) -> bool:
        return True

    def is_success(self, reward: float) -> bool:
        return reward >= 1.0

    def score(self, answer: str, context: ScoreContext = NO_CONTEXT) -> float:
        part = self.extracted(answer)
        if part is None:
            return self.missing_reward
        try:
            reward = float(find_scorer(self.name)(part, context, self.arguments))
        except Exception as error:
            # Only the type of the error: its message may hold the reference.
            raise ScorerError(f"the scorer '{self.name}' raised {type(error).__name__}") from error
        if not math.isfinite(reward):
            raise ScorerError(f"the scorer '{self.name}' returned a reward that is not finite")
        return reward
