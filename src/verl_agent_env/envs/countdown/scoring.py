"""Scores of answers, as the known variants of the game define them.

A profile named after a project gives the scores of that project's own function for every text: it reads Python's arithmetic,
takes all runs of digits as the numbers, and compares within the project's tolerance. Differences are listed at the profile.
The profiles with a version in their name keep the former scores of this project: exact arithmetic, counted literals, and all
spellings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Literal, NamedTuple, TypeAlias

from verl_agent_env.envs.countdown.expression import evaluate
from verl_agent_env.envs.countdown.puzzle import Puzzle
from verl_agent_env.envs.countdown.rules import DEFAULT_LIMITS, Evaluated, ExpressionError, Grammar, Limits

VerdictKind: TypeAlias = Literal[
    "correct", "wrong_value", "wrong_numbers", "illegal_step", "undefined", "malformed", "no_answer"
]

_MAX_SHOWN_CHARS = 40
_WITH_RESULT = Grammar(allow_result=True)


@dataclass(frozen=True, slots=True)
class ScoreProfile:
    """Score of each kind of answer, and the rules of answers."""

    correct: float = 1.0
    """The right numbers give the target."""
    wrong_value: float = 0.0
    """The right numbers give another value."""
    wrong_numbers: float = 0.0
    """A number was not given or is used too often, or, with ``use_all``, is missing."""
    illegal_step: float = 0.0
    """The right numbers give the target, but through a fraction or a negative number, with ``natural``."""
    undefined: float = 0.0
    """The right numbers, but the value does not exist or is beyond the limits."""
    malformed: float = 0.0
    """The answer is not an expression."""
    no_answer: float = 0.0
    """There is no answer."""
    use_all: bool = True
    """True if each number must be used exactly once, else at most once."""
    natural: bool = False
    """True if intermediate results must be whole and not negative."""
    tolerance: float = 0.0
    """Absolute tolerance of the value (exclusive, unless it is zero)."""
    rel_tolerance: float = 0.0
    """Relative tolerance, as a share of the target, added to the absolute one."""
    value_first: bool = False
    """True if an answer without a value is ``malformed`` or ``undefined`` even if its numbers are wrong as well."""
    grammar: Grammar = _WITH_RESULT
    """Grammar of expressions."""
    limits: Limits = DEFAULT_LIMITS
    """Limits of the work for one answer."""
    source: str = ""
    """Project, version and file that define these scores."""


_DEFAULT = ScoreProfile()

_PYTHON = frozenset({"^", "//"})
_PYTHON_AND_MODULO = _PYTHON | {"%"}

PROFILES: Mapping[str, ScoreProfile] = MappingProxyType(
    {
        # The first project of this name: 1 or 0, and the model may try as often as it likes.
        "default": _DEFAULT,
        "seed_project": _DEFAULT,
        # Anything in the tags earns 0.1. There the tags must be on the last line, and an empty pair earns 0.1, too.
        "tinyzero": ScoreProfile(
            wrong_value=0.1,
            wrong_numbers=0.1,
            illegal_step=0.1,
            undefined=0.1,
            malformed=0.1,
            tolerance=1e-5,
            grammar=Grammar(notation="python", more_operators=_PYTHON),
            source="TinyZero 95df88f (2026-02-27), verl/utils/reward_score/countdown.py",
        ),
        # Without the right digits 0, with them 0.1; an answer that is not in the tags costs 0.1. There eval() runs any Python,
        # comments included.
        "ragen": ScoreProfile(
            wrong_value=0.1,
            illegal_step=0.1,
            undefined=0.1,
            malformed=0.1,
            no_answer=-0.1,
            tolerance=1e-5,
            grammar=Grammar(notation="python", more_operators=_PYTHON_AND_MODULO),
            source="RAGEN 20daedc (2026-04-14), ragen/env/countdown/env.py",
        ),
        # SymPy reads the answer first, then the digits are compared. There names and functions of SymPy count,
        # too (4!, sqrt(4)), and 0 / 0 is a wrong value.
        "reasoning_gym": ScoreProfile(
            wrong_value=0.05,
            wrong_numbers=0.05,
            illegal_step=0.05,
            undefined=0.01,
            malformed=0.01,
            no_answer=0.01,
            tolerance=1e-6,
            rel_tolerance=1e-5,
            value_first=True,
            grammar=Grammar(notation="python", more_operators=_PYTHON_AND_MODULO),
            source="reasoning-gym 49b0713 (2026-04-17), reasoning_gym/games/countdown.py",
        ),
        "tinyzero_v0": ScoreProfile(
            wrong_value=0.1,
            wrong_numbers=0.1,
            illegal_step=0.1,
            undefined=0.1,
            malformed=0.1,
            tolerance=1e-5,
            grammar=Grammar(),
        ),
        "ragen_v0": ScoreProfile(
            wrong_value=0.1,
            illegal_step=0.1,
            undefined=0.1,
            no_answer=-0.1,
            tolerance=1e-5,
            grammar=Grammar(),
        ),
        "reasoning_gym_v0": ScoreProfile(
            wrong_value=0.05,
            wrong_numbers=0.05,
            illegal_step=0.05,
            undefined=0.01,
            malformed=0.01,
            use_all=False,
            grammar=Grammar(),
        ),
    }
)
"""Score profiles by name. ``seed_project`` is another name of ``default``."""


class Verdict(NamedTuple):
    """Score of an answer, with its reason."""

    kind: VerdictKind
    reward: float
    message: str
    """Sentence for the model; never a solution."""
    value: Fraction | None = None
    """Exact value of the answer, if it has one."""


def score(text: str | None, puzzle: Puzzle, profile: ScoreProfile = _DEFAULT) -> Verdict:
    """Score ``text`` (``None``: no answer was found); never raises."""
    if text is None:
        return Verdict("no_answer", profile.no_answer, "There is no answer.")
    try:
        result = evaluate(text, profile.limits, profile.grammar)
    except ExpressionError as error:
        fault = _number_fault(error.numbers, puzzle, profile.use_all) if error.numbers is not None else None
        if fault is not None and not profile.value_first:
            return Verdict("wrong_numbers", profile.wrong_numbers, fault)
        if error.is_undefined:
            return Verdict("undefined", profile.undefined, str(error))
        return Verdict("malformed", profile.malformed, str(error))
    fault = _number_fault(result.numbers, puzzle, profile.use_all)
    if fault is not None:
        return Verdict("wrong_numbers", profile.wrong_numbers, fault, result.value)
    return _judge_value(result, puzzle, profile)


def _judge_value(result: Evaluated, puzzle: Puzzle, profile: ScoreProfile) -> Verdict:
    shown = _shown(result.value)
    distance = abs(result.value - puzzle.target)
    allowed = Fraction(profile.tolerance) + Fraction(profile.rel_tolerance) * abs(puzzle.target)
    if distance != 0 and distance >= allowed:
        message = f"The expression equals {shown}, not {puzzle.target}."
        return Verdict("wrong_value", profile.wrong_value, message, result.value)
    if profile.natural and not result.natural:
        message = "An intermediate result is negative or not a whole number."
        return Verdict("illegal_step", profile.illegal_step, message, result.value)
    return Verdict("correct", profile.correct, f"Correct: the expression equals {shown}.", result.value)


def _number_fault(used: tuple[int, ...], puzzle: Puzzle, use_all: bool) -> str | None:
    """Describe what is wrong with the numbers in a sentence; ``None`` if they are right."""
    given, taken = Counter(puzzle.numbers), Counter(used)
    for number, times in taken.items():
        if number not in given:
            return f"{_shown(Fraction(number))} is not one of the given numbers."
        if times > given[number]:
            return f"{number} is used {times} times, but given {given[number]} times."
    missing = given - taken
    if use_all and missing:
        return (
            f"Not all numbers are used; missing: {', '.join(str(number) for number in missing.elements())}."
        )
    return None


def _shown(value: Fraction) -> str:
    """Write ``value`` as text of bounded length."""
    # 140 bits are some 42 digits: anything longer would be cut anyway.
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > 140:
        return "a number with more than 40 digits"
    text = str(value)
    return text if len(text) <= _MAX_SHOWN_CHARS else "a number with many digits"
