"""What all scorers share: which part of the text counts, and the rewards of a right and of a wrong answer."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from verl_agent_env.envs.scorer_registry import NO_CONTEXT, ScoreContext
from verl_agent_env.envs.scorers.extraction import Extraction, extract_answer, marked_answer
from verl_agent_env.messages.reading import strip_thoughts, strip_turn_ends


class ScorerError(RuntimeError):
    """A scorer could not say what an answer is worth: a fault of the server, and no reward."""


class Scorer(BaseModel):
    """Turns an answer into a reward."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @abstractmethod
    def score(self, answer: str, context: ScoreContext = NO_CONTEXT) -> float:
        """The reward of ``answer``, the model's whole text. Finite; an answer of any form is taken.

        Raises:
            ScorerError: There is none, through no fault of the answer.
        """

    def prepare(self) -> None:
        """Check what takes too long to be checked with the arguments; it may block.

        Raises:
            ValueError: No answer could be scored; the message does not repeat the reference.
        """


class NoScorer(Scorer):
    """Every answer is worth 0."""

    type: Literal["none"] = "none"

    def score(self, answer: str, context: ScoreContext = NO_CONTEXT) -> float:
        return 0.0


class ExtractingScorer(Scorer):
    """Base of the scorers that look at a part of the text."""

    extract: Extraction = Field(default="auto", description="Which part of the text is the answer.")
    ignore_thoughts: bool = Field(default=True, description="Take away <think> sections first.")
    strict: bool = Field(
        default=False,
        description=(
            "With extract 'auto', only a marked answer counts: a text without <answer> and without \\boxed holds none."
        ),
    )

    def extracted(self, answer: str) -> str | None:
        """The part of ``answer`` that counts, blanks around it stripped; ``None`` if there is none."""
        spoken = self._spoken(answer)
        if self.extract == "auto" and self.strict:
            return marked_answer(spoken, "auto")
        return extract_answer(spoken, self.extract)

    def _spoken(self, answer: str) -> str:
        return strip_thoughts(answer) if self.ignore_thoughts else strip_turn_ends(answer)


class MatchingScorer(ExtractingScorer):
    """Base of the scorers that know two rewards: right and wrong."""

    reward: float = Field(default=1.0, allow_inf_nan=False, description="Reward of a right answer.")
    wrong_reward: float = Field(
        default=0.0, allow_inf_nan=False, description="Reward of any other answer, or none."
    )

    def score(self, answer: str, context: ScoreContext = NO_CONTEXT) -> float:
        is_right = any(self.matches(candidate) for candidate in self.candidates(answer))
        return self.reward if is_right else self.wrong_reward

    def candidates(self, answer: str) -> tuple[str, ...]:
        """The parts of ``answer`` that may be what it answers; the first that can be read is."""
        part = self.extracted(answer)
        return () if part is None else (part,)

    @abstractmethod
    def matches(self, answer: str) -> bool:
        """Whether the extracted ``answer`` is right."""


class FinalAnswerScorer(MatchingScorer):
    """Base of the scorers that compare what a text gives as its final answer, marked or not."""

    def candidates(self, answer: str) -> tuple[str, ...]:
        if self.extract != "auto" or self.strict:
            return super().candidates(answer)
        spoken = self._spoken(answer)
        marked = marked_answer(spoken, "auto")
        return self.unmarked(spoken) if marked is None else (marked,)

    @abstractmethod
    def unmarked(self, text: str) -> tuple[str, ...]:
        """The parts of ``text``, in which no answer is marked, that may be its final answer."""
