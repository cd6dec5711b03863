"""Several scorers of one answer, each with a name and a weight."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, Field, StringConstraints

from verl_agent_env.envs.scorer_registry import NO_CONTEXT, ScoreContext
from verl_agent_env.envs.scorers.base import Assessment, NoScorer, Scorer
from verl_agent_env.envs.scorers.exact_match import ExactMatchScorer
from verl_agent_env.envs.scorers.function import CallableScorer
from verl_agent_env.envs.scorers.judge import JudgeScorer
from verl_agent_env.envs.scorers.numeric import NumericScorer
from verl_agent_env.envs.scorers.regex import RegexScorer
from verl_agent_env.envs.scorers.symbolic import MathScorer
from verl_agent_env.envs.strict_model import STRICT_MODEL

MAX_SCORERS = 16

PlainScorer: TypeAlias = Annotated[
    NoScorer | ExactMatchScorer | RegexScorer | NumericScorer | MathScorer | CallableScorer | JudgeScorer,
    Field(discriminator="type"),
]
"""Scorers that are not made of others."""


class WeightedPart(BaseModel):
    """One of several scorers."""

    model_config = STRICT_MODEL

    scorer: PlainScorer
    """The scorer."""
    weight: float = 1.0
    """Factor of its reward."""


class WeightedScorer(Scorer):
    """The reward is the sum of several scorers' rewards, each times its weight; the first one decides success."""

    type: Literal["weighted"] = "weighted"
    parts: dict[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")], WeightedPart] = Field(
        min_length=1,
        max_length=MAX_SCORERS,
        description="Scorers by the name of their part; each with its weight, 1 by default.",
    )

    @property
    def part_names(self) -> Sequence[str]:
        return list(self.parts)

    @property
    def waits(self) -> bool:
        return any(part.scorer.waits for part in self.parts.values())

    @property
    def reads_history(self) -> bool:
        return any(part.scorer.reads_history for part in self.parts.values())

    def prepare(self) -> None:
        for part in self.parts.values():
            part.scorer.prepare()

    def score(self, answer: str, context: ScoreContext = NO_CONTEXT) -> float:
        return self.assess(answer, context).reward

    def assess(self, answer: str, context: ScoreContext = NO_CONTEXT) -> Assessment:
        return self._joined([part.scorer.assess(answer, context) for part in self.parts.values()])

    async def assess_async(self, answer: str, context: ScoreContext = NO_CONTEXT) -> Assessment:
        # All of them end, even if one fails, so that none runs on after the step.
        found = await asyncio.gather(
            *(part.scorer.assess_async(answer, context) for part in self.parts.values()),
            return_exceptions=True,
        )
        for each in found:
            if isinstance(each, BaseException):
                raise each
        return self._joined([each for each in found if isinstance(each, Assessment)])

    def _joined(self, found: Sequence[Assessment]) -> Assessment:
        parts = {
            name: part.weight * each.reward
            for (name, part), each in zip(self.parts.items(), found, strict=True)
        }
        return Assessment(sum(parts.values()), parts, found[0].is_success)
