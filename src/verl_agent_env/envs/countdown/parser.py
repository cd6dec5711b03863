"""Parser of expressions.

The grammar, from weakest to strongest binding; ``^`` exists only where a :class:`Grammar` names it, ``//`` and ``%`` only in
the notation ``python``::

    sum      = product {("+" | "-") product}
    product  = signed {("*" | "/" | "//" | "%") signed}
    signed   = [("-" | "+")] signed | power
    power    = atom ["^" signed]
    atom     = number | "(" sum ")" | "\\frac" argument argument
"""

from __future__ import annotations

from fractions import Fraction
from typing import TypeAlias

from verl_agent_env.envs.countdown.arithmetic import compute
from verl_agent_env.envs.countdown.rules import Evaluated, ExpressionError, Grammar, Limits
from verl_agent_env.envs.countdown.tokens import (
    END,
    FRACTION,
    NUMBER,
    RELATION,
    ExpressionToken,
    literal_value,
)

# Expressions are kept in postfix order: numbers, binary operators, and "~" for a change of sign.
_Postfix: TypeAlias = "list[int | Fraction | str]"

_SUMS = frozenset("+-")
_PRODUCTS = frozenset({"*", "/", "//", "%"})
_MAX_SHOWN_CHARS = 20


def parse(tokens: list[ExpressionToken], limits: Limits, grammar: Grammar) -> Parsed:
    """Parse all of ``tokens`` into an expression.

    Raises:
        ExpressionError: The tokens break the grammar or a limit.
    """
    return Parsed(_ExpressionParser(tokens, limits, grammar).parse(), limits)


class Parsed:
    """Well-formed expression."""

    __slots__ = ("_limits", "_postfix", "numbers")

    def __init__(self, postfix: _Postfix, limits: Limits) -> None:
        self._postfix = postfix
        self._limits = limits
        self.numbers: tuple[int, ...] = tuple(item for item in postfix if isinstance(item, int))

    @property
    def is_number(self) -> bool:
        """True if the expression is a single number, with or without a sign."""
        return len(self._postfix) - self._postfix.count("~") == 1

    def evaluate(self) -> Evaluated:
        """Compute the exact value.

        Raises:
            ExpressionError: The value does not exist, or is beyond a limit.
        """
        try:
            value, natural = compute(self._postfix, self._limits)
        except ExpressionError as error:
            error.numbers, error.is_undefined = self.numbers, True
            raise
        return Evaluated(Fraction(value), self.numbers, natural)


class _ExpressionParser:
    """Recursive-descent parser; ``limits.max_depth`` bounds the recursion."""

    __slots__ = ("_depth", "_grammar", "_index", "_limits", "_output", "_tokens")

    def __init__(self, tokens: list[ExpressionToken], limits: Limits, grammar: Grammar) -> None:
        self._limits = limits
        self._grammar = grammar
        end = tokens[-1].position + len(tokens[-1].text) if tokens else 0
        self._tokens = [*tokens, ExpressionToken(END, "", end, False)]
        self._index = 0
        self._depth = 0
        self._output: _Postfix = []

    def parse(self) -> _Postfix:
        self._sum()
        token = self._tokens[self._index]
        if token.symbol == ")":
            raise ExpressionError("syntax", "A closing parenthesis has no opening one.", token.position)
        if token.symbol == RELATION:
            raise ExpressionError("syntax", "Write only the expression, without '='.", token.position)
        if token.symbol:
            raise _unexpected(token, "an operator")
        return self._output

    def _sum(self) -> None:
        self._product(leading=True)
        while (symbol := self._operator(_SUMS)) is not None:
            self._product(leading=False)
            self._output.append(symbol)

    def _product(self, leading: bool) -> None:
        self._signed(leading)
        while (symbol := self._operator(_PRODUCTS)) is not None:
            self._signed(leading=False)
            self._output.append(symbol)

    def _signed(self, leading: bool) -> None:
        token = self._tokens[self._index]
        if token.symbol not in _SUMS:
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
        if self._operator(frozenset("^")) is not None:
            self._enter(token)
            self._signed(leading=False)
            self._depth -= 1
            # Python has rational powers.
            self._output.append("**" if self._grammar.notation == "python" else "^")

    def _atom(self) -> None:
        token = self._tokens[self._index]
        if token.symbol == NUMBER:
            self._output.append(self._number(token))
            self._index += 1
        elif token.symbol == "(":
            self._group()
        elif token.symbol == FRACTION:
            self._fraction()
        else:
            raise _unexpected(token, "a number or '('")

    def _group(self) -> None:
        token = self._tokens[self._index]
        self._index += 1
        self._enter(token)
        self._sum()
        self._depth -= 1
        if self._tokens[self._index].symbol != ")":
            raise _unexpected(self._tokens[self._index], "an operator or ')'")
        self._index += 1

    def _fraction(self) -> None:
        """Parse ``\\frac{3}{4}``, ``\\frac34`` and the like as a quotient."""
        self._require_allowed("/", self._tokens[self._index])
        self._index += 1
        token = self._tokens[self._index]
        if token.symbol == NUMBER and len(token.text) == 2 and token.text.isdigit():
            self._index += 1
            self._output += [int(token.text[0]), int(token.text[1])]
        else:
            for _ in range(2):
                self._argument()
        self._output.append("/")

    def _argument(self) -> None:
        token = self._tokens[self._index]
        if token.symbol == "(":
            self._group()
        elif token.symbol == NUMBER and len(token.text) == 1:
            self._index += 1
            self._output.append(int(token.text))
        else:
            raise _unexpected(token, "an argument of '\\frac'")

    def _number(self, token: ExpressionToken) -> int | Fraction:
        if len(token.text) > self._limits.max_digits:
            message = f"A number has more than {self._limits.max_digits} digits."
            raise ExpressionError("number_too_large", message, token.position)
        value = literal_value(token, self._grammar.notation)
        if value is None:
            message = "Write whole numbers, without leading zeros."
            raise ExpressionError("syntax", message, token.position)
        return value

    def _operator(self, symbols: frozenset[str]) -> str | None:
        """Consume the next token if it is one of ``symbols``."""
        token = self._tokens[self._index]
        if token.symbol not in symbols:
            return None
        self._require_allowed(token.symbol, token)
        self._index += 1
        return token.symbol

    def _require_allowed(self, operator: str, token: ExpressionToken) -> None:
        if not self._grammar.allows(operator):
            allowed = " ".join(self._grammar.operators)
            message = f"The operator '{operator}' is not allowed; use {allowed}"
            raise ExpressionError("operator_not_allowed", message, token.position)

    def _enter(self, token: ExpressionToken) -> None:
        self._depth += 1
        if self._depth > self._limits.max_depth:
            message = f"The expression is nested deeper than {self._limits.max_depth} levels."
            raise ExpressionError("too_deep", message, token.position)


def _unexpected(token: ExpressionToken, wanted: str) -> ExpressionError:
    if token.symbol == END:
        return ExpressionError("syntax", f"The expression ends where {wanted} should follow.", token.position)
    found = token.text[:_MAX_SHOWN_CHARS]
    shown = found if found.isprintable() else "a character that cannot be shown"
    message = f"Expected {wanted} at character {token.position + 1}, found '{shown}'."
    return ExpressionError("syntax", message, token.position)
