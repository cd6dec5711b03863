"""Scorers: what a free-text answer is worth.

An environment's arguments name a scorer by its ``type`` and give it its options; each scorer is a frozen pydantic
model, so that the JSON Schema of the arguments comes from it. A caller can refer to Python code only by the name
under which the server registered it.

The reference answer never appears in an error message, in a ``repr`` or in what :meth:`Scorer.score` returns.
"""

from __future__ import annotations

import math
import re
import string
import unicodedata
from abc import abstractmethod
from fractions import Fraction
from functools import lru_cache
from typing import Annotated, Any, Literal, Self, TypeAlias

import re2  # type: ignore[import-untyped]
from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, field_validator, model_validator

from verl_agent_env.envs.numeric_answer import PercentRule, last_number, read_number
from verl_agent_env.envs.scorer_registry import NO_CONTEXT, ScoreContext, find_scorer
from verl_agent_env.messages.text import find_boxed, find_tagged, strip_thoughts

Extraction: TypeAlias = Literal["whole", "last_line", "answer_tag", "boxed", "auto"]
"""Which part of the text is the answer: all of it, its last line that is not blank, the last ``<answer>``, the last
``\\boxed{}``, or the first of ``<answer>``, ``\\boxed{}`` and all of it that exists."""

MAX_REFERENCE_CHARS = 20_000
MAX_REFERENCES = 100
MAX_COMPARED_CHARS = 40_000
"""A longer answer equals no reference."""
MAX_COMBINING_MARKS = 30
"""In a row, as in Unicode's stream-safe format (UAX #15): sorting more of them takes quadratic time."""
MAX_PATTERN_CHARS = 1_000
MAX_PATTERN_PROGRAM = 1_000
"""Instructions of a compiled pattern. RE2's time grows with these times the bytes of the text."""
MAX_PATTERN_TEXT_BYTES = 8_192
"""Only so much of the end of an answer is matched: with the limit above, some 100 ms at the very worst."""

# The library keeps up to 128 compiled patterns: 32 MiB in all.
_PATTERN_MEMORY_BYTES = 1 << 18
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class ScorerError(RuntimeError):
    """A registered callable raised, or returned something that is no reward; the message names only the callable."""


class Scorer(BaseModel):
    """Turns an answer into a reward."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @abstractmethod
    def score(self, answer: str, context: ScoreContext = NO_CONTEXT) -> float:
        """The reward of ``answer``, the model's whole text. Finite; an answer of any form is taken."""


class NoScorer(Scorer):
    """Every answer is worth 0."""

    type: Literal["none"] = "none"

    def score(self, answer: str, context: ScoreContext = NO_CONTEXT) -> float:
        return 0.0


class ExtractingScorer(Scorer):
    """Base of the scorers that look at a part of the text."""

    extract: Extraction = Field(default="auto", description="Which part of the text is the answer.")
    ignore_thoughts: bool = Field(default=True, description="Take away <think> sections first.")

    def extracted(self, answer: str) -> str | None:
        """The part of ``answer`` that counts, blanks around it stripped; ``None`` if there is none."""
        return extract_answer(strip_thoughts(answer) if self.ignore_thoughts else answer, self.extract)


class MatchingScorer(ExtractingScorer):
    """Base of the scorers that know two rewards: right and wrong."""

    reward: float = Field(default=1.0, allow_inf_nan=False, description="Reward of a right answer.")
    wrong_reward: float = Field(
        default=0.0, allow_inf_nan=False, description="Reward of any other answer, or none."
    )

    def score(self, answer: str, context: ScoreContext = NO_CONTEXT) -> float:
        part = self.extracted(answer)
        return self.reward if part is not None and self.matches(part) else self.wrong_reward

    @abstractmethod
    def matches(self, answer: str) -> bool:
        """Whether the extracted ``answer`` is right."""


_Reference = Annotated[str, Field(max_length=MAX_REFERENCE_CHARS)]


class ExactMatchScorer(MatchingScorer):
    """The answer must equal the reference, or one of several references."""

    type: Literal["exact_match"] = "exact_match"
    answer: _Reference | tuple[_Reference, ...] = Field(repr=False, description="The reference, or several.")
    strip: bool = Field(default=True, description="Blanks around the texts do not count.")
    ignore_case: bool = Field(default=False, description="Capital letters do not count.")
    collapse_spaces: bool = Field(
        default=True, description="A run of blanks or line ends counts as one blank."
    )
    ignore_punctuation: bool = Field(default=False, description="ASCII punctuation does not count.")
    normalize: Literal["none", "NFC", "NFKC"] = Field(
        default="NFC", description="Unicode normal form before comparing."
    )

    @field_validator("answer")
    @classmethod
    def _is_comparable(cls, answer: str | tuple[str, ...]) -> str | tuple[str, ...]:
        references = (answer,) if isinstance(answer, str) else answer
        if not 1 <= len(references) <= MAX_REFERENCES:
            raise ValueError(f"give from 1 to {MAX_REFERENCES} references")
        if not all(_is_stream_safe(reference) for reference in references):
            raise ValueError(f"a reference has more than {MAX_COMBINING_MARKS} combining marks in a row")
        return answer

    def matches(self, answer: str) -> bool:
        if len(answer) > MAX_COMPARED_CHARS or not _is_stream_safe(answer):
            return False
        references = (self.answer,) if isinstance(self.answer, str) else self.answer
        normal = self._normal(answer)
        return any(normal == self._normal(reference) for reference in references)

    def _normal(self, text: str) -> str:
        if self.normalize != "none":
            text = unicodedata.normalize(self.normalize, text)
        if self.ignore_case:
            text = text.casefold()
        if self.ignore_punctuation:
            text = text.translate(_PUNCTUATION)
        if self.collapse_spaces:
            # Not split(): outer blanks are the affair of `strip`.
            text = re.sub(r"\s+", " ", text)
        return text.strip() if self.strip else text


class RegexScorer(MatchingScorer):
    """The answer must match a pattern of RE2's syntax, which has no look-around and no back-references.

    The pattern comes from the network, so the engine must not backtrack: RE2's time is bounded by the pattern's
    size times the text's (https://github.com/google/re2/wiki/WhyRE2), and both are limited here.
    """

    type: Literal["regex"] = "regex"
    pattern: str = Field(
        repr=False, min_length=1, max_length=MAX_PATTERN_CHARS, description="RE2 syntax: no look-around."
    )
    mode: Literal["search", "fullmatch"] = Field(
        default="search", description="Match a part of the answer, or all of it."
    )
    ignore_case: bool = Field(default=False, description="Capital letters do not count.")
    dot_matches_newline: bool = Field(default=False, description="'.' matches line ends too.")

    @model_validator(mode="after")
    def _compiles(self) -> Self:
        _compile(self.pattern, self.ignore_case, self.dot_matches_newline)
        return self

    def matches(self, answer: str) -> bool:
        encoded = answer.encode("utf-8", "replace")
        compiled = _compile(self.pattern, self.ignore_case, self.dot_matches_newline)
        if self.mode == "fullmatch":
            return len(encoded) <= MAX_PATTERN_TEXT_BYTES and compiled.fullmatch(encoded) is not None
        return compiled.search(encoded[-MAX_PATTERN_TEXT_BYTES:]) is not None


class NumericScorer(MatchingScorer):
    """The last number of the answer must be the reference, within a tolerance.

    Numbers are compared exactly, as fractions; an infinite or undefined one is no number.
    """

    type: Literal["numeric"] = "numeric"
    answer: int | float | str = Field(
        repr=False, description="The reference: a number, or its text ('3/4', '50%')."
    )
    abs_tolerance: float = Field(default=1e-6, ge=0, allow_inf_nan=False, description="Allowed distance.")
    rel_tolerance: float = Field(
        default=0.0, ge=0, allow_inf_nan=False, description="Allowed distance as a share of the reference."
    )
    percent: PercentRule = Field(
        default="divide", description="Whether 50% is 0.5 ('divide') or 50 ('ignore')."
    )

    @field_validator("answer")
    @classmethod
    def _is_number(cls, answer: int | float | str) -> int | float | str:
        if _exact(answer, "divide") is None:
            raise ValueError("the reference is not one finite number of reasonable size")
        return answer

    def matches(self, answer: str) -> bool:
        reference = _exact(self.answer, self.percent)
        found = last_number(answer, self.percent)
        if found is None or reference is None:
            return False
        allowed = max(Fraction(self.abs_tolerance), Fraction(self.rel_tolerance) * abs(reference))
        return abs(found - reference) <= allowed


class CallableScorer(ExtractingScorer):
    """The reward is what a Python callable says that the server registered under ``name``."""

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

    def score(self, answer: str, context: ScoreContext = NO_CONTEXT) -> float:
        part = self.extracted(answer)
        if part is None:
            return self.missing_reward
        try:
            reward = float(find_scorer(self.name)(part, context, self.arguments))
        except Exception as error:
            # Only the kind of error: its message may hold the reference.
            raise ScorerError(f"the scorer '{self.name}' raised {type(error).__name__}") from error
        if not math.isfinite(reward):
            raise ScorerError(f"the scorer '{self.name}' returned a reward that is not finite")
        return reward


AnyScorer: TypeAlias = Annotated[
    NoScorer | ExactMatchScorer | RegexScorer | NumericScorer | CallableScorer, Field(discriminator="type")
]
"""For a field of an environment's arguments."""

_ADAPTER: TypeAdapter[AnyScorer] = TypeAdapter(AnyScorer, config=ConfigDict(hide_input_in_errors=True))


def parse_scorer(value: object) -> AnyScorer:
    """The scorer that ``value`` describes: ``{"type": …, …}``, or a scorer itself.

    Raises:
        pydantic.ValidationError: It describes none. Show ``errors(include_input=False)`` only: the input of an
            error may be the reference.
    """
    return _ADAPTER.validate_python(value)


def extract_answer(text: str, extraction: Extraction) -> str | None:
    """The part of ``text`` that ``extraction`` names, blanks around it stripped; ``None`` if there is none."""
    if extraction == "whole":
        return text.strip()
    if extraction == "last_line":
        lines = text.strip().splitlines()
        return lines[-1].strip() if lines else None
    tagged = find_tagged(text, "<answer>", "</answer>") if extraction in ("answer_tag", "auto") else []
    if tagged:
        return tagged[-1]
    boxed = find_boxed(text) if extraction in ("boxed", "auto") else None
    if boxed is not None or extraction != "auto":
        return boxed
    return text.strip()


def _is_stream_safe(text: str) -> bool:
    if text.isascii():
        return True
    marks = 0
    for character in text:
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks > MAX_COMBINING_MARKS:
            return False
    return True


def _exact(value: int | float | str, percent: PercentRule) -> Fraction | None:
    if isinstance(value, str):
        return read_number(value, percent)
    if isinstance(value, float):
        # By its shortest text: 0.1 means a tenth, not the nearest double.
        return Fraction(repr(value)) if math.isfinite(value) else None
    return Fraction(value)


@lru_cache(maxsize=128)
def _compile(pattern: str, ignore_case: bool, dot_matches_newline: bool) -> Any:
    """``pattern`` compiled by RE2.

    Raises:
        ValueError: It is no pattern of RE2, or too large a one; the message does not repeat it.
    """
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    options.max_mem = _PATTERN_MEMORY_BYTES
    options.case_sensitive = not ignore_case
    options.dot_nl = dot_matches_newline
    try:
        # RE2 refuses a lone surrogate, which "replace" would turn into the operator "?".
        compiled = re2.compile(pattern.encode("utf-8", "surrogatepass"), options)
    except re2.error:
        raise ValueError(
            "not a pattern of RE2's syntax, or too large a one; look-around and back-references are not supported"
        ) from None
    if compiled.programsize > MAX_PATTERN_PROGRAM:
        raise ValueError("the pattern is too large; use fewer or smaller repetitions")
    return compiled
