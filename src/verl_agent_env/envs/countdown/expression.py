"""Reads and evaluates arithmetic that a model wrote, exactly and within fixed bounds.

The grammar, from weakest to strongest binding; ``^`` exists only where a :class:`Grammar` names it::

    equation = sum ["=" ["-"] number]
    sum      = product {("+" | "-") product}
    product  = signed {("*" | "/") signed}
    signed   = [("-" | "+")] signed | power
    power    = atom ["^" signed]
    atom     = number | "(" sum ")"

A number is a run of ASCII digits. Other ways of writing an operator are read as well: ``× · ⋅ ∙ ∗ x X \\times \\cdot``
for ``*``, ``÷ ∕ \\div`` for ``/``, ``− – —`` for ``-`` and ``**`` for ``^``. Nothing is ever executed as Python.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NamedTuple, TypeAlias

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
"""Where a number may carry a sign: nowhere, at the start of the text or of a pair of parentheses, or anywhere."""

OPERATORS = "+-*/^"
"""All that a grammar can allow."""

# What is parsed is kept in postfix order: numbers, the binary operators, and "~" which changes the sign.
_Postfix: TypeAlias = "list[int | str]"

_ALIASES = str.maketrans(
    {"×": "*", "·": "*", "⋅": "*", "∙": "*", "∗": "*", "x": "*", "X": "*", "÷": "/", "∕": "/"}
    | {"−": "-", "–": "-", "—": "-"}
)
_WORDS = {"\\times": "*", "\\cdot": "*", "\\div": "/", "**": "^"}
# Longest first, one alternative per character class: linear in the length of the text.
_TOKEN = re.compile(r"([0-9]+)|(\*\*|\\times(?![a-z])|\\cdot(?![a-z])|\\div(?![a-z])|\S)")


class ExpressionError(ValueError):
    """The text is not an expression with a value; the message tells the model what to change.

    ``kind`` is stable. ``position`` counts characters of the stripped text, from 0. ``numbers`` holds the literals
    of an expression that is well formed but has no value (or one beyond the limits), else ``None``.
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


def _check_range(name: str, value: int, lowest: int, highest: int) -> None:
    if not lowest <= value <= highest:
        raise ValueError(f"{name} must be from {lowest} to {highest}")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much work one expression may cause."""

    max_chars: int = 256
    """Length of the text, outer blanks not counted."""
    max_depth: int = 32
    """Parentheses, signs and exponents inside each other."""
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
    """Which expressions are well formed."""

    operators: str = "+-*/"
    """The operators that may occur, as characters of :data:`OPERATORS`."""
    signs: Signs = "anywhere"
    """Where a number or a pair of parentheses may carry a sign."""
    allow_result: bool = False
    """Whether a trailing ``= 24`` is read over; the number behind ``=`` means nothing."""

    def __post_init__(self) -> None:
        if not self.operators or not set(self.operators) <= set(OPERATORS):
            raise ValueError(f"operators must be some of '{OPERATORS}'")


class Evaluated(NamedTuple):
    """An expression's exact value."""

    value: Fraction
    numbers: tuple[int, ...]
    """The literals, in the order in which they were written."""
    natural: bool
    """Whether every intermediate result is a whole number and not negative, as the television game demands."""


DEFAULT_LIMITS = Limits()
DEFAULT_GRAMMAR = Grammar()


def evaluate(text: str, limits: Limits = DEFAULT_LIMITS, grammar: Grammar = DEFAULT_GRAMMAR) -> Evaluated:
    """The exact value of ``text`` and the number literals in it.

    Raises:
        ExpressionError: The text breaks the grammar or a limit, or has no value.
    """
    postfix = _Parser(text, limits, grammar).parse()
    numbers = tuple(item for item in postfix if isinstance(item, int))
    try:
        value, natural = _compute(postfix, limits)
    except ExpressionError as error:
        error.numbers = numbers
        raise
    return Evaluated(Fraction(value), numbers, natural)


class _Token(NamedTuple):
    symbol: str
    """An operator, a parenthesis, ``=``, any other character, ``"0"`` for a number, ``""`` for the end."""
    number: int
    position: int


class _Parser:
    """Recursive descent; the depth of recursion is bounded by ``limits.max_depth``."""

    __slots__ = ("_depth", "_grammar", "_index", "_limits", "_output", "_tokens")

    def __init__(self, text: str, limits: Limits, grammar: Grammar) -> None:
        self._limits = limits
        self._grammar = grammar
        self._tokens = _tokenize(text, limits)
        self._index = 0
        self._depth = 0
        self._output: _Postfix = []

    def parse(self) -> _Postfix:
        self._sum()
        token = self._tokens[self._index]
        if token.symbol == "=":
            self._result(token)
            token = self._tokens[self._index]
        if token.symbol == ")":
            raise ExpressionError("syntax", "A closing parenthesis has no opening one.", token.position)
        if token.symbol:
            raise _unexpected(token, "an operator")
        return self._output

    def _result(self, token: _Token) -> None:
        if not self._grammar.allow_result:
            message = "Write only the expression, without '='."
            raise ExpressionError("syntax", message, token.position)
        self._index += 1
        if self._tokens[self._index].symbol == "-":
            self._index += 1
        if self._tokens[self._index].symbol != "0":
            raise _unexpected(self._tokens[self._index], "one number behind '='")
        self._index += 1

    def _sum(self) -> None:
        self._product(leading=True)
        while (symbol := self._operator("+-")) is not None:
            self._product(leading=False)
            self._output.append(symbol)

    def _product(self, leading: bool) -> None:
        self._signed(leading)
        while (symbol := self._operator("*/")) is not None:
            self._signed(leading=False)
            self._output.append(symbol)

    def _signed(self, leading: bool) -> None:
        token = self._tokens[self._index]
        if token.symbol not in ("-", "+"):
            self._power()
            return
        if self._grammar.signs == "forbid" or (self._grammar.signs == "leading" and not leading):
            message = f"'{token.symbol}' needs a number in front of it here."
            raise ExpressionError("syntax", message, token.position)
        self._index += 1
        self._enter(token)
        self._signed(leading=False)
        self._depth -= 1
        if token.symbol == "-":
            self._output.append("~")

    def _power(self) -> None:
        self._atom()
        token = self._tokens[self._index]
        if self._operator("^") is not None:
            self._enter(token)
            self._signed(leading=False)
            self._depth -= 1
            self._output.append("^")

    def _atom(self) -> None:
        token = self._tokens[self._index]
        if token.symbol == "0":
            self._output.append(token.number)
        elif token.symbol == "(":
            self._index += 1
            self._enter(token)
            self._sum()
            self._depth -= 1
            if self._tokens[self._index].symbol != ")":
                raise _unexpected(self._tokens[self._index], "an operator or ')'")
        else:
            raise _unexpected(token, "a number or '('")
        self._index += 1

    def _operator(self, symbols: str) -> str | None:
        """Consume the next token if it is one of ``symbols``."""
        token = self._tokens[self._index]
        if not token.symbol or token.symbol not in symbols:
            return None
        if token.symbol not in self._grammar.operators:
            allowed = " ".join(self._grammar.operators)
            message = f"The operator '{token.symbol}' is not allowed; use {allowed}"
            raise ExpressionError("operator_not_allowed", message, token.position)
        self._index += 1
        return token.symbol

    def _enter(self, token: _Token) -> None:
        self._depth += 1
        if self._depth > self._limits.max_depth:
            message = f"The expression is nested deeper than {self._limits.max_depth} levels."
            raise ExpressionError("too_deep", message, token.position)


def _tokenize(text: str, limits: Limits) -> list[_Token]:
    """Cut ``text`` into tokens, an end mark behind the last."""
    text = text.strip()
    if not text:
        raise ExpressionError("empty", "There is no expression.")
    if len(text) > limits.max_chars:
        raise ExpressionError("too_long", f"The expression is longer than {limits.max_chars} characters.")
    # One character for one: positions stay those of the text.
    text = text.translate(_ALIASES)
    tokens = []
    for match in _TOKEN.finditer(text):
        digits, symbol = match.groups()
        if digits is None:
            tokens.append(_Token(_WORDS.get(symbol, symbol), 0, match.start()))
            continue
        if len(digits) > limits.max_digits:
            message = f"A number has more than {limits.max_digits} digits."
            raise ExpressionError("number_too_large", message, match.start())
        if len(digits) > 1 and digits[0] == "0":
            raise ExpressionError("syntax", "Write numbers without leading zeros.", match.start())
        tokens.append(_Token("0", int(digits), match.start()))
    tokens.append(_Token("", 0, len(text)))
    return tokens


def _unexpected(token: _Token, wanted: str) -> ExpressionError:
    if not token.symbol:
        return ExpressionError("syntax", f"The expression ends where {wanted} should follow.", token.position)
    found = str(token.number) if token.symbol == "0" else token.symbol
    shown = found if found.isprintable() else "a character that cannot be shown"
    message = f"Expected {wanted} at character {token.position + 1}, found '{shown}'."
    return ExpressionError("syntax", message, token.position)


def _compute(postfix: _Postfix, limits: Limits) -> tuple[int | Fraction, bool]:
    """Value and :attr:`Evaluated.natural`. Whole numbers stay ``int``, which is ten times as fast as ``Fraction``."""
    stack: list[int | Fraction] = []
    natural = True
    for item in postfix:
        if isinstance(item, int):
            stack.append(item)
            continue
        value: int | Fraction
        if item == "~":
            value = -stack.pop()
        else:
            right = stack.pop()
            value = _apply(item, stack.pop(), right, limits)
        if natural and (value < 0 or not isinstance(value, int)):
            natural = False
        _check_bits(value, limits)
        stack.append(value)
    return stack[0], natural


def _apply(operator: str, left: int | Fraction, right: int | Fraction, limits: Limits) -> int | Fraction:
    value: int | Fraction
    if operator == "+":
        value = left + right
    elif operator == "-":
        value = left - right
    elif operator == "*":
        value = left * right
    elif operator == "/":
        if right == 0:
            raise ExpressionError("division_by_zero", "The expression divides by zero.")
        whole = isinstance(left, int) and isinstance(right, int) and left % right == 0
        value = left // right if whole else Fraction(left) / right
    else:
        value = _raise_to(left, right, limits)
    if isinstance(value, Fraction) and value.denominator == 1:
        return value.numerator
    return value


def _raise_to(base: int | Fraction, exponent: int | Fraction, limits: Limits) -> int | Fraction:
    if not isinstance(exponent, int):
        raise ExpressionError("exponent_not_integer", "An exponent is not a whole number.")
    if abs(exponent) > limits.max_exponent:
        message = f"An exponent is larger than {limits.max_exponent}."
        raise ExpressionError("exponent_too_large", message)
    if exponent < 0 and base == 0:
        raise ExpressionError("division_by_zero", "Zero has no negative power.")
    exact = Fraction(base)
    # Before the power is taken: it has at least (bits - 1) * exponent bits.
    bits = max(exact.numerator.bit_length(), exact.denominator.bit_length())
    if (bits - 1) * abs(exponent) > limits.max_bits:
        raise _too_large()
    if exponent < 0:
        exact, exponent = 1 / exact, -exponent
    return Fraction(exact.numerator**exponent, exact.denominator**exponent)


def _check_bits(value: int | Fraction, limits: Limits) -> None:
    if value.numerator.bit_length() > limits.max_bits or value.denominator.bit_length() > limits.max_bits:
        raise _too_large()


def _too_large() -> ExpressionError:
    return ExpressionError("number_too_large", "An intermediate result is too large.")
