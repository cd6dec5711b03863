"""Tokenizer of the expression grammar, in one of two notations.

``lenient`` accepts what models write: operators and brackets of all kinds, typographic, full-width or in LaTeX. ``python``
accepts Python's arithmetic, as the projects that evaluate answers with it.
"""

from __future__ import annotations

import html
import re
from fractions import Fraction
from typing import Literal, NamedTuple, TypeAlias

from verl_agent_env.envs.plain_text import plain_text

Notation: TypeAlias = Literal["lenient", "python"]

NUMBER = "0"
FRACTION = "\\frac"
RELATION = "="
WORD = "w"
END = ""

OPERATOR_SYMBOLS = frozenset({"+", "-", "*", "/", "^", "//", "%"})
EQUATION_SYMBOLS = OPERATOR_SYMBOLS | {NUMBER, FRACTION, RELATION, "(", ")"}


class ExpressionToken(NamedTuple):
    """Token of an expression."""

    symbol: str
    """Operator, bracket as ``(`` or ``)``, :data:`NUMBER`, :data:`FRACTION`, :data:`RELATION`, :data:`WORD`, :data:`END`, or
    any other character."""
    text: str
    """Text of the token, in plain text."""
    position: int
    """Position of its first character in its line of plain text, from 0."""
    is_apart: bool
    """True if it follows a blank, or begins a line."""


_LENIENT = re.compile(
    r"(?P<blank>\s*)(?:(?P<number>[0-9]+(?:[.,:'_][0-9]+)*)"
    r"|(?P<relation>=+>?|--?>|[≈→⇒⟶⟹↦≡≃⇔]|\\(?:approx|to|rightarrow|Rightarrow|implies|longrightarrow|equiv|simeq|iff)(?![A-Za-z]))"
    r"|(?P<operator>\*\*|[-+*/^×÷➗]|\\(?:times|cdot|cdotp|ast|star|bullet|div)(?![A-Za-z]))"
    r"|(?P<times>[xX](?=\s*(?:[0-9(\[{]|\\[dtc]?frac)))"
    r"|(?P<spoken>(?:times|multiplied by|divided by|plus|minus)(?=\s*(?:[0-9(\[{]|\\[dtc]?frac)))"
    r"|(?P<open>[(\[{【〔]|\\(?:lbrace|lbrack|lparen)(?![A-Za-z]))|(?P<close>[)\]}】〕]|\\(?:rbrace|rbrack|rparen)(?![A-Za-z]))"
    r"|(?P<fraction>\\[dtc]?frac(?![A-Za-z]))"
    r"|(?P<word>\\[A-Za-z]+|[^\W\d]+(?:'[^\W\d]+)?)|(?P<other>\S))"
)
_PYTHON = re.compile(
    r"(?P<blank>[^\S\n]*)(?:(?P<number>[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)|(?P<operator>\*\*|//|[-+*/%])"
    r"|(?P<open>\()|(?P<close>\))|(?P<word>[^\W\d]\w*)|(?P<other>\n|\S))"
)
_MEANT = {
    **dict.fromkeys(("×", "\\times", "\\cdot", "\\cdotp", "\\ast", "\\star", "\\bullet"), "*"),
    **dict.fromkeys(("÷", "➗", "\\div"), "/"),
    "**": "^",
}
_SPOKEN = {"times": "*", "multiplied by": "*", "divided by": "/", "plus": "+", "minus": "-"}
_SYMBOLS = {
    "number": NUMBER,
    "relation": RELATION,
    "times": "*",
    "open": "(",
    "close": ")",
    "fraction": FRACTION,
    "word": WORD,
}
_MAX_RUN_CHARS = 30
_WHOLE = re.compile(r"[0-9]+(?:\.0+)?")


def lenient_lines(text: str) -> list[list[ExpressionToken]]:
    """Split each line of ``text`` into tokens; lines without any are omitted."""
    if "&" in text:
        text = html.unescape(text)
    lines = (_cut(_LENIENT, plain_text(line)) for line in text.splitlines())
    return [line for line in lines if line]


def python_tokens(text: str) -> list[ExpressionToken]:
    """Split ``text`` into the tokens of Python's arithmetic; a line end counts outside brackets, where it ends an expression."""
    tokens: list[ExpressionToken] = []
    depth = 0
    for token in _cut(_PYTHON, text):
        depth += (token.symbol == "(") - (token.symbol == ")")
        if token.text != "\n" or depth <= 0:
            tokens.append(token)
    return tokens


def digit_runs(text: str) -> tuple[int, ...]:
    """Return all runs of digits in ``text`` as numbers."""
    # No given number is as long as what is cut here.
    return tuple(int(run[:_MAX_RUN_CHARS]) for run in re.findall(r"\d+", text))


def literal_value(token: ExpressionToken, notation: Notation) -> int | Fraction | None:
    """Return the value of a number; ``None`` if it is none: with a leading zero, or, in ``lenient``, not whole."""
    digits = token.text
    if notation == "lenient":
        if _WHOLE.fullmatch(digits) is None:
            return None
        digits = digits.partition(".")[0]
    if "." in digits:
        return Fraction(f"0{digits}".rstrip("."))
    if len(digits) > 1 and digits[0] == "0" and (notation == "lenient" or digits.strip("0")):
        return None
    return int(digits)


def _cut(pattern: re.Pattern[str], text: str) -> list[ExpressionToken]:
    tokens: list[ExpressionToken] = []
    for match in pattern.finditer(text):
        kind = match.lastgroup or "other"
        written = match[kind]
        if kind == "other" and not written.isascii():
            # A check mark or a root sign counts as a word.
            kind = "word"
        if kind in ("times", "spoken") and not (tokens and tokens[-1].symbol in (NUMBER, ")")):
            kind = "word"
        meant = {"operator": _MEANT, "spoken": _SPOKEN}.get(kind, {})
        symbol = _SYMBOLS.get(kind) or meant.get(written, written)
        is_apart = bool(match["blank"]) or not tokens
        tokens.append(ExpressionToken(symbol, written, match.end() - len(written), is_apart))
    return tokens
