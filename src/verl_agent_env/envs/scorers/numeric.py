"""Numeric match: the answer must be a number within a tolerance of the reference."""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from typing import Literal

from pydantic import Field, field_validator

from verl_agent_env.envs.numeric_answer import PercentRule, Quantity, read_quantity, values_of
from verl_agent_env.envs.scorers.base import FinalAnswerScorer
from verl_agent_env.messages.reading import closing_answers, stated_answers

_DEFAULT_TOLERANCE = Fraction(1, 10**6)


class NumericScorer(FinalAnswerScorer):
    """The answer must be one number, the reference, within a tolerance.

    A unit, a currency, a percent sign, a label and a remark in brackets may surround the number; any other answer is no
    number, and never read in part. In a text without a marked answer the stated final answer counts: "the answer is …",
    "#### …", or the result of its last line. Numbers are compared exactly, as fractions; an infinite or undefined one is no
    number.
    """

    type: Literal["numeric"] = "numeric"
    answer: int | float | str = Field(
        repr=False,
        description=(
            "The reference: a number, or its text ('3/4', '50%', '5 × 10^3'). '3.14 ± 0.01' also sets the tolerance, and "
            "lets answers be written in that way."
        ),
    )
    abs_tolerance: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="Allowed distance; 1e-6, or a thousandth of a reference other than 0 that is smaller, if not given.",
    )
    rel_tolerance: float = Field(
        default=0.0, ge=0, allow_inf_nan=False, description="Allowed distance as a share of the reference."
    )
    percent: PercentRule = Field(
        default="divide",
        description=(
            "What 50% is, in the answer and in the reference: 0.5 ('divide'), 50 ('ignore'), or right for both ('either')."
        ),
    )

    @field_validator("answer")
    @classmethod
    def _is_number(cls, answer: int | float | str) -> int | float | str:
        if _exact(answer) is None:
            raise ValueError("the reference is not one finite number of reasonable size")
        return answer

    def unmarked(self, text: str) -> tuple[str, ...]:
        return stated_answers(text) or closing_answers(text)

    def matches(self, answer: str) -> bool:
        reference = self._reference
        found = read_quantity(answer, uncertain=reference.uncertainty is not None)
        if found is None:
            return False
        values = values_of(found, self.percent)
        return any(
            abs(value - right) <= self._allowed(right)
            for right in values_of(reference, self.percent)
            for value in values
        )

    @functools.cached_property
    def _reference(self) -> Quantity:
        reference = _exact(self.answer)
        # Validated already.
        return Quantity(Fraction(0)) if reference is None else reference

    def _allowed(self, reference: Fraction) -> Fraction:
        tolerance = self.abs_tolerance
        if tolerance is None:
            # Else all small numbers would be equal.
            absolute = min(_DEFAULT_TOLERANCE, abs(reference) / 1000) if reference else _DEFAULT_TOLERANCE
        else:
            absolute = Fraction(tolerance)
        allowed = max(absolute, Fraction(self.rel_tolerance) * abs(reference))
        uncertainty = self._reference.uncertainty
        return allowed if uncertainty is None else max(allowed, abs(uncertainty))


def _exact(value: int | float | str) -> Quantity | None:
    if isinstance(value, str):
        return read_quantity(value, uncertain=True)
    if isinstance(value, float):
        # From its shortest decimal form: 0.1 means a tenth, not the nearest double.
        return Quantity(Fraction(repr(value))) if math.isfinite(value) else None
    return Quantity(Fraction(value))
