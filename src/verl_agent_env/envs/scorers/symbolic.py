"""Symbolic match: the answer must be an expression equal to the reference according to math-verify."""

from __future__ import annotations

import functools
import importlib.util
import re
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from verl_agent_env.envs.numeric_answer import Quantity, read_quantity, values_of, without_labels
from verl_agent_env.envs.numeric_answer.tokens import SUPERSCRIPTS
from verl_agent_env.envs.numeric_answer.units import SYMBOLS
from verl_agent_env.envs.plain_text import plain_characters, plain_text
from verl_agent_env.envs.scorers.base import FinalAnswerScorer, ScorerError
from verl_agent_env.envs.scorers.math_pool import PoolError, TooHardError, math_pool
from verl_agent_env.messages.reading import closing_answers, stated_answers, unwrap

EXTRA = "pip install 'verl-agent-env[math]'"
MAX_EXPRESSION_CHARS = 1_024
"""Longest answer that can match."""
MAX_REFERENCES = 16
_MAX_PLACES = 30

_COMMANDS = {
    "π": "pi",
    "∞": "infty",
    "×": "times",
    "·": "cdot",
    "÷": "div",
    "≤": "le",
    "≥": "ge",
    "≠": "ne",
    "∪": "cup",
    "∩": "cap",
    "∈": "in",
    "∅": "emptyset",
    "±": "pm",
    "∖": "setminus",
    "α": "alpha",
    "β": "beta",
    "θ": "theta",
    "λ": "lambda",
    "μ": "mu",
    "σ": "sigma",
    "φ": "phi",
}
_LATEX_OF = {
    **{typed: f"\\{command} " for typed, command in _COMMANDS.items()},
    "°": "^\\circ ",
    "**": "^",
    "<=": "\\le ",
    ">=": "\\ge ",
    "!=": "\\ne ",
    "\\varnothing": "\\emptyset ",
}
_TYPED = re.compile("|".join(map(re.escape, _LATEX_OF)))
_SUPERSCRIPT = re.compile(r"[⁺⁻]?[⁰¹²³⁴-⁹]+")
_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|([0-9.]+|[A-Za-z]))")

_CONSTANT = re.compile(r"\\(?:mathrm|text|operatorname|mathit|rm)\s*\{\s*([ei])\s*\}")
_BASED = re.compile(r"\(?([0-9A-Za-z]+)\)?\s*_\s*\{?\s*([0-9]{1,2})\s*\}?")
# "6π cm²"; one letter may be a variable.
_UNIT = re.compile(r"(?<=[0-9A-Zπ}\])])\s+([A-Za-zμΩ]{2,4})(?:\^?\{?[23]\}?|[²³])?\s*\Z")
# Not that of "x >= 3".
_EQUALS = re.compile(r"(?<![<>!])=")
# Not the constant of an integral.
_VARIABLE = re.compile(r"(?<![A-Za-z\\])[ABD-Zabd-z](?![A-Za-z])")
_RATIO = re.compile(r"[0-9] ?: ?[0-9]")
_LIST = re.compile(r"[^0-9]*[0-9]+,(?![0-9]{3}(?![0-9]))[0-9]+[^0-9]*")
# A point, or an open interval.
_PAIR = re.compile(r"\(\s*[-+]?\s*[0-9][^()]*[,;]")

_Reference = Annotated[str, Field(min_length=1, max_length=MAX_EXPRESSION_CHARS)]


class MathScorer(FinalAnswerScorer):
    """The answer must be an expression that is equal to the reference, in whatever form.

    Numbers are read as ``numeric`` reads them. Everything else (roots, powers of variables, intervals, sets, matrices, equations)
    is compared by math-verify, an extra, in a process of its own. In a text without a marked answer the stated final
    answer counts, as with ``numeric``. An answer whose comparison takes longer than ``timeout_s`` is wrong.
    """

    type: Literal["math"] = "math"
    answer: (
        int
        | float
        | _Reference
        | Annotated[tuple[_Reference, ...], Field(min_length=1, max_length=MAX_REFERENCES)]
    ) = Field(
        repr=False,
        description="The reference, in LaTeX or plain ('3\\sqrt{2}', '(x+1)^2', '[0,1)'), or several.",
    )
    rounding: int = Field(
        default=6,
        ge=0,
        le=15,
        description="Decimal places to which numbers must agree; smaller ones to three digits.",
    )
    timeout_s: float = Field(
        default=5.0, ge=0.1, le=30.0, description="Seconds of computing that one answer may take."
    )

    @field_validator("answer")
    @classmethod
    def _is_possible(cls, answer: Any) -> Any:
        if importlib.util.find_spec("math_verify") is None:
            raise ValueError(f"the scorer 'math' needs an extra that is not installed here; {EXTRA} does")
        return answer

    def prepare(self) -> None:
        """Check that the references can be read; may block.

        Raises:
            ValueError: A reference cannot be read.
            ScorerError: The check failed for another reason.
        """
        symbolic = [reference for reference in self._references if _number(reference) is None]
        if symbolic and not _are_readable(tuple(symbolic), self.timeout_s):
            raise ValueError("a reference is not an expression that can be read")

    def unmarked(self, text: str) -> tuple[str, ...]:
        return stated_answers(text) or closing_answers(text)

    def matches(self, answer: str) -> bool:
        if len(answer) > MAX_EXPRESSION_CHARS:
            return False
        given = _number(answer)
        others = []
        for reference in self._references:
            quantity = _number(reference)
            if quantity is None or given is None:
                others.append(reference)
            elif self._is_close(values_of(quantity, "divide")[0], values_of(given, "divide")[0]):
                return True
        return bool(others) and self._is_equal(others, answer if given is None else _plain_number(answer))

    @functools.cached_property
    def _references(self) -> tuple[str, ...]:
        return self.answer if isinstance(self.answer, tuple) else (str(self.answer),)

    def _is_close(self, reference: Fraction, given: Fraction) -> bool:
        """Return true if two numbers agree to the decimal places; one that these do not show, to three digits."""
        place = Fraction(1, 10**self.rounding)
        allowed = place / 2 if abs(reference) > place else abs(reference) / 1000
        return abs(reference - given) <= allowed

    def _is_equal(self, references: list[str], answer: str) -> bool:
        """Return true if math-verify finds ``answer`` equal to one of ``references``."""
        if _EQUALS.search(answer) and not any(_EQUALS.search(reference) for reference in references):
            # "x = 5" may be 5, "3x = 12" is not 12.
            answer = without_labels(answer)
            if _EQUALS.search(answer):
                return False
        if _RATIO.search(answer) and not any(_RATIO.search(reference) for reference in references):
            # The library divides; 10:30 is a time.
            return False
        based = [_BASED.fullmatch(unwrap(text)) for text in (answer, *references)]
        if any(based):
            # The library ignores the base of 1011_2.
            return _has_same_digits(unwrap(answer), references)
        # The library takes A for a.
        references = [
            reference
            for reference in references
            if not _differ_in_case(reference, answer)
            and {_is_pair(reference), _is_pair(answer)} != {True, False}
        ]
        if not references:
            return False
        request = {
            "references": [_latex(reference) for reference in references],
            "answer": _latex(answer),
            "rounding": self.rounding,
            "cpu_s": self.timeout_s,
        }
        return bool(_ask(request).get("equal"))


def _differ_in_case(reference: str, answer: str) -> bool:
    """Return true if two expressions have the same variables but for capital letters; a letter alone is a choice."""
    if len(unwrap(answer)) == 1 or len(unwrap(reference)) == 1:
        return False
    theirs, given = (set(_VARIABLE.findall(text)) for text in (reference, answer))
    return theirs != given and {*map(str.casefold, theirs)} == {*map(str.casefold, given)}


def _is_pair(text: str) -> bool | None:
    """Return true for a pair in round brackets, false for a set and for ``0,5``, which may be a decimal; ``None`` for the rest.

    The library takes each of them for the others.
    """
    if _PAIR.search(plain_text(text)):
        return True
    return False if "\\{" in text or _LIST.fullmatch(text) else None


def _has_same_digits(answer: str, references: list[str]) -> bool:
    """Return true if a reference has the digits of ``answer``, and the base, where both name one."""
    digits, base = _digits_and_base(answer)
    written = [_digits_and_base(unwrap(reference)) for reference in references]
    return any(digits == theirs and (not base or not other or base == other) for theirs, other in written)


def _digits_and_base(text: str) -> tuple[str, str]:
    based = _BASED.fullmatch(text)
    return (text.strip().upper(), "") if based is None else (based[1].upper(), based[2])


def _number(text: str) -> Quantity | None:
    """Read ``text`` as a number; a decimal comma separates two expressions here, as in LaTeX."""
    return None if _LIST.fullmatch(text) else read_quantity(text)


@functools.lru_cache(maxsize=4096)
def _are_readable(references: tuple[str, ...], timeout_s: float) -> bool:
    request = {"references": [_latex(reference) for reference in references], "cpu_s": timeout_s}
    return bool(_ask(request).get("readable"))


def _ask(request: dict[str, Any]) -> dict[str, Any]:
    try:
        return math_pool().ask(request)
    except TooHardError:
        return {}
    except PoolError as error:
        raise ScorerError(f"the scorer 'math' failed: {error}") from None


def _latex(text: str) -> str:
    """Replace characters that people type by their LaTeX."""
    unit = _UNIT.search(text)
    if unit is not None and unit[1] in SYMBOLS:
        text = text[: unit.start()]
    text = _CONSTANT.sub(r"\1 ", unwrap(plain_characters(text)).rstrip(".,;"))
    text = _ROOT.sub(lambda root: f"\\sqrt{{{root[1] or root[2]}}}", text)
    text = _SUPERSCRIPT.sub(lambda power: f"^{{{power[0].translate(SUPERSCRIPTS)}}}", text)
    return _TYPED.sub(lambda typed: _LATEX_OF[typed[0]], text)


def _plain_number(text: str) -> str:
    """Write a number for every parser: as a decimal if it is one, else as a fraction."""
    quantity = _number(text)
    value = Fraction(0) if quantity is None else values_of(quantity, "divide")[0]
    scaled = value * 10**_MAX_PLACES
    if scaled.denominator != 1:
        sign = "-" if value < 0 else ""
        return f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"
    whole, decimals = divmod(abs(scaled.numerator), 10**_MAX_PLACES)
    shown = f"{whole}.{decimals:0{_MAX_PLACES}d}".rstrip("0").rstrip(".")
    return f"-{shown}" if value < 0 else shown
