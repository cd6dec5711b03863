"""Scorers of free-text answers.

An environment's arguments name a scorer by its ``type`` and give it its options; each scorer is a frozen pydantic
model, so that the JSON Schema of the arguments comes from it. A caller can refer to Python code only by the name
under which the server registered it.

The reference answer never appears in an error message, in a ``repr`` or in what :meth:`Scorer.score` returns.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import ConfigDict, Field, TypeAdapter

from verl_agent_env.envs.scorers.base import (
    Assessment,
    ExtractingScorer,
    FinalAnswerScorer,
    MatchingScorer,
    NoScorer,
    Scorer,
    ScorerError,
)
from verl_agent_env.envs.scorers.exact_match import ExactMatchScorer
from verl_agent_env.envs.scorers.extraction import Extraction, extract_answer
from verl_agent_env.envs.scorers.function import CallableScorer
from verl_agent_env.envs.scorers.judge import Criterion, JudgeScorer
from verl_agent_env.envs.scorers.numeric import NumericScorer
from verl_agent_env.envs.scorers.regex import RegexScorer
from verl_agent_env.envs.scorers.symbolic import MathScorer
from verl_agent_env.envs.scorers.weighted import PlainScorer, WeightedPart, WeightedScorer

__all__ = [
    "AnyScorer",
    "Assessment",
    "CallableScorer",
    "Criterion",
    "ExactMatchScorer",
    "ExtractingScorer",
    "Extraction",
    "FinalAnswerScorer",
    "JudgeScorer",
    "MatchingScorer",
    "MathScorer",
    "NoScorer",
    "NumericScorer",
    "PlainScorer",
    "RegexScorer",
    "Scorer",
    "ScorerError",
    "WeightedPart",
    "WeightedScorer",
    "extract_answer",
    "parse_scorer",
]

AnyScorer: TypeAlias = Annotated[PlainScorer | WeightedScorer, Field(discriminator="type")]
"""Type of a field for a scorer in an environment's arguments."""

_ADAPTER: TypeAdapter[AnyScorer] = TypeAdapter(AnyScorer, config=ConfigDict(hide_input_in_errors=True))


def parse_scorer(value: object) -> AnyScorer:
    """Parse the scorer that ``value`` describes, ``{"type": …, …}``; a scorer is returned unchanged.

    Raises:
        pydantic.ValidationError: ``value`` describes no scorer. Show ``errors(include_input=False)`` only: the input of an
            error may be the reference.
    """
    return _ADAPTER.validate_python(value)
