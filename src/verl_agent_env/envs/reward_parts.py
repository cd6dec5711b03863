"""Rewards in parts: named parts that sum to the reward, their weights, and parts for how an action is written.

Any environment takes the argument ``reward_parts``. A part for the form, the length or the repetitions of an action depends on
the text of that action alone, so that the state of an episode is the same with it and without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, StringConstraints, model_validator

from verl_agent_env.envs.scorers.extraction import Extraction
from verl_agent_env.envs.scorers.regex import RegexScorer
from verl_agent_env.envs.strict_model import STRICT_MODEL
from verl_agent_env.envs.turn import Outcome

TASK = "task"
"""Name of the reward of an environment that names no parts."""
INVALID_ACTION = "invalid_action"
"""Name of the part that ``invalid_action_reward`` makes."""
MAX_PARTS = 32
MAX_PART_NAME_CHARS = 64
MAX_REPEATED_WORDS = 8_192
"""Number of words at the end of an action in which repetitions are looked for: some milliseconds."""

PartName = Annotated[str, StringConstraints(min_length=1, max_length=MAX_PART_NAME_CHARS)]


class FormatReward(RegexScorer):
    """Part ``format``: what the model wrote has a form or not."""

    extract: Extraction = Field(default="whole", description="Part of the text that must have the form.")
    ignore_thoughts: bool = Field(default=False, description="Remove <think> sections first.")
    mode: Literal["search", "fullmatch"] = Field(
        default="fullmatch", description="Match a part of the text, or all of it."
    )
    dot_matches_newline: bool = Field(default=True, description="'.' matches line ends too.")


class _TextPart(BaseModel):
    model_config = STRICT_MODEL

    penalty: float = -1.0
    """Reward at the worst; usually below zero."""


class LengthPenalty(_TextPart):
    """Part ``length``: 0 up to ``free_chars``, then linear down to ``penalty`` at ``max_chars`` and beyond."""

    free_chars: int = Field(ge=0)
    """Characters that cost nothing."""
    max_chars: int = Field(ge=1)
    """Characters from which the whole penalty counts."""

    @model_validator(mode="after")
    def _is_range(self) -> Self:
        if self.free_chars >= self.max_chars:
            raise ValueError("free_chars must be below max_chars")
        return self

    def value(self, text: str) -> float:
        """Return the part's reward."""
        share = (len(text) - self.free_chars) / (self.max_chars - self.free_chars)
        return self.penalty * min(1.0, share) if share > 0 else 0.0


class RepetitionPenalty(_TextPart):
    """Part ``repetition``: ``penalty`` times the share of runs of ``words`` words that occurred before in the same text."""

    words: int = Field(default=4, ge=1, le=64)
    """Number of consecutive words that count as one run."""

    def value(self, text: str) -> float:
        """Return the part's reward."""
        found = text.casefold().split()[-MAX_REPEATED_WORDS:]
        count = len(found) - self.words + 1
        if count < 1:
            return 0.0
        runs = {tuple(found[start : start + self.words]) for start in range(count)}
        share = 1 - len(runs) / count
        return self.penalty * share if share else 0.0


class RewardParts(BaseModel):
    """Weights of the parts of the reward, and additional parts for how an action is written."""

    model_config = STRICT_MODEL

    weights: dict[PartName, float] = Field(default_factory=dict, max_length=MAX_PARTS)
    """Factors of parts by name, 1 for all others: ``task`` (the environment's reward, or the names of its parts),
    ``invalid_action``, ``format``, ``length``, ``repetition``."""
    format: FormatReward | None = None
    """Rewards a form of the text: an RE2 ``pattern``, its ``reward`` and ``wrong_reward``."""
    length: LengthPenalty | None = None
    """Penalizes long texts, in characters."""
    repetition: RepetitionPenalty | None = None
    """Penalizes texts that repeat themselves."""

    def unknown_weight(self, names: Sequence[str]) -> str | None:
        """Return a sentence about the first weight that belongs to no part; ``None`` if all do.

        Args:
            names: The environment's own parts.
        """
        text_parts = [name for name in ("format", "length", "repetition") if getattr(self, name) is not None]
        known = [*(names or (TASK,)), INVALID_ACTION, *text_parts]
        unknown = next((name for name in self.weights if name not in known), None)
        return None if unknown is None else f"there is no part '{unknown}'; there are: {', '.join(known)}"

    def weighted(self, parts: Mapping[str, float], text: str) -> dict[str, float]:
        """Return all parts of a step's reward, each times its weight.

        Args:
            parts: Parts of the environment's own reward.
            text: What the model wrote.
        """
        made = dict(parts)
        if self.format is not None:
            made["format"] = self.format.score(text)
        for name, penalty in (("length", self.length), ("repetition", self.repetition)):
            if penalty is not None:
                made[name] = penalty.value(text)
        return {name: self.weights.get(name, 1.0) * value for name, value in made.items()}


def parts_of(outcome: Outcome) -> Mapping[str, float]:
    """Return the parts of an outcome's reward."""
    return {TASK: outcome.reward} if outcome.parts is None else outcome.parts


def sum_of_parts(outcomes: Iterable[Outcome]) -> dict[str, float]:
    """Return the parts of the reward of several outcomes, each name once."""
    total: dict[str, float] = {}
    for outcome in outcomes:
        for name, value in parts_of(outcome).items():
            total[name] = total.get(name, 0.0) + value
    return total
