"""Base classes of scorers: the part of the text that is scored, and the rewards of right and wrong answers."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from verl_agent_env.envs.scorer_registry import NO_CONTEXT, ScoreContext
from verl_agent_env.envs.scorers.extraction import Extraction, extract_answer, marked_answer
from verl_agent_env.messages.reading import strip_thoughts, strip_turn_ends


class ScorerError(RuntimeError):
    """A scorer failed to score an answer: a fault of the server, never a reward."""


class Assessment(NamedTuple):
    """The reward of an answer."""

    reward: float
    parts: Mapping[str, float] | None
    """Parts of the reward by name, their sum being the reward; ``None`` if the scorer names none."""
    is_success: bool
    """True if the answer is right, as the scorer sees it."""


class Scorer(BaseModel):
    """Function from an answer to a reward, with its options."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @abstractmethod
    def score(self, answer: str, context: ScoreContext = NO_CONTEXT) -> float:
        """Return the reward of ``answer``, the model's whole text: a finite number for any text.

        Raises:
            ScorerError: The scorer failed, through no fault of the answer.
        """

    def is_success(self, reward: float) -> bool:
        """Return true if the reward is that of a right answer."""
        return False

    @property
    def part_names(self) -> Sequence[str]:
        """Names of the parts of its rewards; empty if a reward has no parts."""
        return ()

    @property
    def waits(self) -> bool:
        """True if a score takes waiting for another service: such a scorer is awaited."""
        return False

    @property
    def reads_history(self) -> bool:
        """True if the score depends on the conversation before the answer."""
        return False

    def assess(self, answer: str, context: ScoreContext = NO_CONTEXT) -> Assessment:
        """Score ``answer`` as :meth:`score` does, with the parts of the reward."""
        reward = self.score(answer, context)
        return Assessment(reward, None, self.is_success(reward))

    async def assess_async(self, answer: str, context: ScoreContext = NO_CONTEXT) -> Assessment:
        """Score ``answer`` as :meth:`assess` does, without blocking the event loop."""
        return await asyncio.to_thread(self.assess, answer, context)

    def prepare(self) -> None:
        """Check options whose check takes too long for validation; may block.

        Raises:
            ValueError: No answer could be scored; the message does not repeat the reference.
        """


class NoScorer(Scorer):
    """Every answer scores 0."""

    type: Literal["none"] = "none"

    def score(self, answer: str, context: ScoreContext = NO_CONTEXT) -> float:
        return 0.0


class ExtractingScorer(Scorer):
    """Base of scorers of a part of the text."""

    extract: Extraction = Field(default="auto", description="Part of the text that is the answer.")
    ignore_thoughts: bool = Field(default=True, description="Remove <think> sections first.")
    strict: bool = Field(
        default=False,
        description=(
            "With extract 'auto', only a marked answer counts: a text without <answer> and without \\boxed holds none."
        ),
    )

    def extracted(self, answer: str) -> str | None:
        """Return the part of ``answer`` to be scored, stripped; ``None`` if there is none."""
        text = self._without_thoughts(answer)
        if self.extract == "auto" and self.strict:
            return marked_answer(text, "auto")
        return extract_answer(text, self.extract)

    def _without_thoughts(self, answer: str) -> str:
        return strip_thoughts(answer) if self.ignore_thoughts else strip_turn_ends(answer)


class MatchingScorer(ExtractingScorer):
    """Base of scorers with two rewards: right and wrong."""

    reward: float = Field(default=1.0, allow_inf_nan=False, description="Reward of a right answer.")
    wrong_reward: float = Field(
        default=0.0, allow_inf_nan=False, description="Reward of any other answer, or none."
    )

    def score(self, answer: str, context: ScoreContext = NO_CONTEXT) -> float:
        is_right = any(self.matches(candidate) for candidate in self.candidates(answer))
        return self.reward if is_right else self.wrong_reward

    def is_success(self, reward: float) -> bool:
        return reward == self.reward != self.wrong_reward

    def candidates(self, answer: str) -> tuple[str, ...]:
        """Return the parts of ``answer`` that may be its answer; one match suffices."""
        part = self.extracted(answer)
        return () if part is None else (part,)

    @abstractmethod
    def matches(self, answer: str) -> bool:
        """Return true if the extracted ``answer`` is right."""


class FinalAnswerScorer(MatchingScorer):
    """Base of scorers of the final answer of a text, marked or not."""

    def candidates(self, answer: str) -> tuple[str, ...]:
        if self.extract != "auto" or self.strict:
            return super().candidates(answer)
        text = self._without_thoughts(answer)
        marked = marked_answer(text, "auto")
        return self.unmarked(text) if marked is None else (marked,)

    @abstractmethod
    def unmarked(self, text: str) -> tuple[str, ...]:
        """Return the parts of ``text``, which marks no answer, that may be its final answer."""
