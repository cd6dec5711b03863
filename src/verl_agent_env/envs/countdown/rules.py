"""Grammar and limits of expressions, and the error of a text that breaks them."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal, NamedTuple, TypeAlias

from verl_agent_env.envs.countdown.tokens import Notation

ErrorKind: TypeAlias = Literal[
    "empty",
    "syntax",
    "operator_not_allowed",
    "too_long",
    "too_deep",
    "number_too_large",
    "exponent_too_large",
    "exponent_not_integer",
    "division_by_zero",
]

Signs: TypeAlias = Literal["forbid", "leading", "anywhere"]
"""Places where a number may have a sign: nowhere, at the start of the text or of a pair of parentheses, or anywhere."""

OPERATORS = "+-*/^"
"""All operators that a grammar can allow in the notation ``lenient``."""


class ExpressionError(ValueError):
    """The text is not an expression with a value; the message tells the model what to change.

    ``kind`` is stable. ``position`` counts characters of the line of plain text, from 0. ``numbers`` holds the literals
    of an expression that is well formed but has no value (or one beyond the limits); in the notation ``python`` those
    of any text; else ``None``. ``is_undefined`` tells the former from what is no expression.
    """

    def __init__(
        self,
        kind: ErrorKind,
        message: str,
        position: int | None = None,
        numbers: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.position = position
        self.numbers = numbers
        self.is_undefined = False


def _check_range(name: str, value: int, lowest: int, highest: int) -> None:
    if not lowest <= value <= highest:
        raise ValueError(f"{name} must be from {lowest} to {highest}")


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the work for one expression."""

    max_chars: int = 256
    """Length of the text, without outer blanks."""
    max_depth: int = 32
    """Nesting depth of parentheses, signs and exponents."""
    max_digits: int = 18
    """Digits of one number."""
    max_exponent: int = 64
    """Absolute value of an exponent."""
    max_bits: int = 4096
    """Bits of the numerator and of the denominator of any intermediate result."""

    def __post_init__(self) -> None:
        # The parser takes at most five Python frames per level; 100 levels stay far from the recursion limit.
        _check_range("max_depth", self.max_depth, 1, 100)
        _check_range("max_chars", self.max_chars, 1, 100_000)
        _check_range("max_digits", self.max_digits, 1, 1_000)
        _check_range("max_exponent", self.max_exponent, 0, 10_000)
        _check_range("max_bits", self.max_bits, 64, 1_000_000)


@dataclass(frozen=True, slots=True)
class Grammar:
    """Grammar of well-formed expressions."""

    operators: str = "+-*/"
    """Operators that may occur, as characters of :data:`OPERATORS`."""
    signs: Signs = "anywhere"
    """Places where a number or a pair of parentheses may have a sign."""
    allow_result: bool = False
    """True if the expression may be one side of an equation; the number on the other side is ignored."""
    notation: Notation = "lenient"
    """Notation of expressions, which also says whether words may surround them."""
    more_operators: frozenset[str] = field(default=frozenset())
    """Operators of the notation ``python`` beyond ``operators``: ``^`` (written ``**``), ``//``, ``%``."""

    def __post_init__(self) -> None:
        if not self.operators or not set(self.operators) <= set(OPERATORS):
            raise ValueError(f"operators must be some of '{OPERATORS}'")

    def allows(self, operator: str) -> bool:
        """Return true if ``operator`` may occur."""
        return operator in self.more_operators or operator in tuple(self.operators)


class Evaluated(NamedTuple):
    """Exact value of an expression."""

    value: Fraction
    numbers: tuple[int, ...]
    """Literals, in the order in which they were written."""
    natural: bool
    """True if every intermediate result is whole and not negative, as the television game demands."""


DEFAULT_LIMITS = Limits()
DEFAULT_GRAMMAR = Grammar()
