"""Extraction of the expression from an answer: alone, as one side of an equation, or among words.

In the notation ``lenient`` a text without words is an equation as a whole. In a text with words the equation after the last
"answer" or "equation" counts, else the last one; reasons after a "because" are ignored. An equation is delimited by words and
stops and never part of a longer formula: not ``(4) + 2`` of ``sqrt(4) + 2``. One side of an equation is the expression, the
others are its result: numbers, or steps of the same value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from verl_agent_env.envs.countdown.parser import Parsed, parse
from verl_agent_env.envs.countdown.rules import (
    DEFAULT_GRAMMAR,
    DEFAULT_LIMITS,
    ErrorKind,
    Evaluated,
    ExpressionError,
    Grammar,
    Limits,
    Signs,
)
from verl_agent_env.envs.countdown.tokens import (
    EQUATION_SYMBOLS,
    FRACTION,
    NUMBER,
    OPERATOR_SYMBOLS,
    RELATION,
    WORD,
    ExpressionToken,
    digit_runs,
    lenient_lines,
    python_tokens,
)
from verl_agent_env.messages.reading import unwrap

__all__ = [
    "ErrorKind",
    "Evaluated",
    "ExpressionError",
    "Grammar",
    "Limits",
    "Signs",
    "evaluate",
    "holds_equation",
]

MAX_TEXT_CHARS = 4096
"""Characters at the end of a text that are read; answers are at the end."""

_CUES = frozenset(
    {
        "answer",
        "equation",
        "expression",
        "solution",
        "result",
        "formula",
        "final",
        "antwort",
        "réponse",
        "respuesta",
    }
)
_REASONS = frozenset(
    {
        "because",
        "since",
        "check",
        "checking",
        "verify",
        "verification",
        "verifying",
        "indeed",
        "explanation",
        "where",
    }
)
_INTRODUCING = frozenset({"is", "be", "are", "was", ":", "est", "es", "ist"})
_DENYING = frozenset({"not", "never", "isn't", "except", "without"})
_CALCULATING = frozenset(
    {"times", "multiplied", "divided", "plus", "minus", "over", "modulo", "squared", "cubed"}
)
_DECORATION = frozenset({"`", "$", '"', "'", "“", "*", "**", "_", "="})
_ESCAPED = re.compile(r"\\([*+=/-])")
# "= **9**", "= 9!" and "(= 9)" at the end of a line.
_RESULT = re.compile(
    r"(?P<open>[(\[][ \t]*+)?(?<![=<>!])(?:=++(?!>)|≈|→)[ \t]*+(?P<mark>\*{1,2}|__|`)?(?P<result>-?[0-9]++(?:\.[0-9]++)?)"
    r"(?(mark)(?P=mark))!*+(?(open)[)\]])(?P<remark>[ \t.]*+)$",
    re.MULTILINE,
)
_BEGINNINGS = frozenset({NUMBER, FRACTION, "(", WORD})
_BULLETS = frozenset({"*", "×", ">"})
_EMPHASIS = frozenset({"*", "**"})
_SEEN_TOKENS = 64
"""Distance, in tokens, at which emphasis and brackets around an expression are searched."""
_STOPS = frozenset(".,;:?\"'`$_|“”")


def evaluate(text: str, limits: Limits = DEFAULT_LIMITS, grammar: Grammar = DEFAULT_GRAMMAR) -> Evaluated:
    """Evaluate the expression in ``text`` exactly, and return its value and its number literals.

    In the notation ``python`` all of the text is the expression, and its numbers are its runs of digits.

    Raises:
        ExpressionError: The text breaks the grammar or a limit, or has no value.
    """
    text = text.strip()
    if not text:
        raise ExpressionError("empty", "There is no expression.")
    if grammar.notation == "python":
        return _evaluate_python(text, limits, grammar)
    lines = _lines_of(text)
    if _has_words(lines):
        equation = _equation_among_words(lines, limits, grammar)
        if equation is None:
            raise ExpressionError("syntax", "There is no expression among the words; write it alone.")
        return equation.evaluate()
    if len(text) > limits.max_chars:
        raise _too_long(limits.max_chars)
    return _equation([token for line in lines for token in line], limits, grammar).evaluate()


def holds_equation(text: str, limits: Limits = DEFAULT_LIMITS, grammar: Grammar = DEFAULT_GRAMMAR) -> bool:
    """Return true if ``text`` attempts an equation: digits without words, or, if ``lenient``, an expression among words."""
    lines = _lines_of(text)
    if _has_words(lines):
        return grammar.notation == "lenient" and _equation_among_words(lines, limits, grammar) is not None
    return any(token.symbol == NUMBER for line in lines for token in line)


def _evaluate_python(text: str, limits: Limits, grammar: Grammar) -> Evaluated:
    numbers = digit_runs(text)
    try:
        if len(text) > limits.max_chars:
            raise _too_long(limits.max_chars)
        value = parse(python_tokens(text), limits, grammar).evaluate()
    except ExpressionError as error:
        error.numbers = numbers
        raise
    return value._replace(numbers=numbers)


def _lines_of(text: str) -> list[list[ExpressionToken]]:
    """Split ``text`` into lines of tokens, without decoration around the text and without stops at its end."""
    if len(text) > MAX_TEXT_CHARS:
        # Not inside a number.
        text = text[-MAX_TEXT_CHARS:].partition(" ")[2]
    text = _RESULT.sub(r" = \g<result>\g<remark>", _ESCAPED.sub(r"\1", text))
    for _ in range(4):
        inner = unwrap(text).strip().rstrip(".,;")
        if inner == text:
            break
        text = inner
    return [_unnumbered(line) for line in lenient_lines(text)]


def _unnumbered(line: list[ExpressionToken]) -> list[ExpressionToken]:
    """Remove the number or the mark of a list item or a quotation from ``line``: ``1. (1 + 2) * 3``."""
    is_item = len(line) > 2 and line[0].symbol == NUMBER and line[1].text == "." and line[2].is_apart
    if is_item and line[2].symbol in _BEGINNINGS:
        return line[2:]
    is_bullet = (
        len(line) > 2 and line[0].text in _BULLETS and line[1].is_apart and line[1].symbol in _BEGINNINGS
    )
    return line[1:] if is_bullet else line


def _has_words(lines: list[list[ExpressionToken]]) -> bool:
    return any(token.symbol == WORD for line in lines for token in line)


# --- equations ------------------------------------------------------------------------------------------------


def _equation(tokens: list[ExpressionToken], limits: Limits, grammar: Grammar) -> Parsed:
    """Return the expression of an equation: the side that is more than a number, or its only side."""
    if not tokens:
        raise ExpressionError("empty", "There is no expression.")
    if sum(len(token.text) + token.is_apart for token in tokens) > limits.max_chars:
        raise _too_long(limits.max_chars)
    sides = list(_sides(tokens))
    if len(sides) == 1 or not grammar.allow_result:
        return parse(tokens, limits, grammar)
    if not sides[0]:
        # "= (1 + 2) * 3"
        del sides[0]
    parsed = [_side(side, limits, grammar) for side in sides]
    expressions = [each for each in parsed if not each.is_number]
    if not expressions:
        raise ExpressionError("syntax", "Expected an expression on one side of '='.", tokens[0].position)
    if len(expressions) > 1 and len({each.evaluate().value for each in expressions}) > 1:
        raise ExpressionError("syntax", "The sides of '=' are different expressions.", tokens[0].position)
    # "(1 + 2) * 3 = 3 * 3 = 9", "9 = 3 * 3 = (1 + 2) * 3"
    return expressions[-1 if parsed[0].is_number else 0]


def _sides(tokens: list[ExpressionToken]) -> Iterator[list[ExpressionToken]]:
    side: list[ExpressionToken] = []
    for token in tokens:
        if token.symbol == RELATION:
            yield side
            side = []
        else:
            side.append(token)
    yield side


def _side(tokens: list[ExpressionToken], limits: Limits, grammar: Grammar) -> Parsed:
    """Parse a side of an equation; a number there is not restricted, as it is ignored."""
    signed = tokens[1:] if tokens and tokens[0].symbol in ("-", "+") else tokens
    if len(signed) == 1 and signed[0].symbol == NUMBER:
        return Parsed([0], limits)
    return parse(tokens, limits, grammar)


# --- equations among words ------------------------------------------------------------------------------------


class _Found(NamedTuple):
    equation: Parsed
    is_introduced: bool
    """True if the text introduces it as the answer."""
    is_reason: bool
    """True if it follows a "because" or the like, with another equation before that."""


def _equation_among_words(
    lines: list[list[ExpressionToken]], limits: Limits, grammar: Grammar
) -> Parsed | None:
    """Return the equation that a text with words gives as its answer, else its last one; ``None`` if it holds none."""
    found: list[_Found] = []
    has_cue = has_reason = False
    for line in lines:
        start = 0
        for run in (*_runs(line), range(len(line), len(line))):
            words = {token.text.casefold() for token in line[start : run.start] if token.symbol == WORD}
            if found and words & _REASONS:
                has_cue, has_reason = False, True
            has_cue = has_cue or bool(words & _CUES)
            equation = _standing_alone(line, run, limits, grammar) if run else None
            if equation is not None:
                found.append(_Found(equation, has_cue and _introduces(line, run.start), has_reason))
            start = run.stop
    for wanted in (
        [each for each in found if each.is_introduced],
        [each for each in found if not each.is_reason],
        found,
    ):
        if wanted:
            return wanted[-1].equation
    return None


def _runs(line: list[ExpressionToken]) -> Iterator[range]:
    """Yield the ranges of ``line`` without words: the longest runs of numbers, operators and brackets."""
    start: int | None = None
    for index, token in enumerate(line):
        if token.symbol in EQUATION_SYMBOLS:
            start = index if start is None else start
        elif start is not None:
            yield range(start, index)
            start = None
    if start is not None:
        yield range(start, len(line))


def _introduces(line: list[ExpressionToken], start: int) -> bool:
    """Return true if an "is" or a colon precedes ``start``, or the line begins there."""
    before = [token for token in line[:start] if token.text not in _DECORATION]
    return not before or before[-1].text.casefold() in _INTRODUCING


def _standing_alone(
    line: list[ExpressionToken], run: range, limits: Limits, grammar: Grammar
) -> Parsed | None:
    """Return the equation of a run; ``None`` if it is none, has no operator, or touches other tokens."""
    first, last = line[run.start], line[run.stop - 1]
    if run.start > 0:
        before = line[run.start - 1]
        is_parted = first.is_apart or before.text in _STOPS or first.symbol in (RELATION, ")")
        if before.text.casefold() in _DENYING | _CALCULATING or not is_parted:
            return None
    if run.stop < len(line):
        behind = line[run.stop]
        is_parted = behind.is_apart or behind.text in _STOPS or last.symbol in (RELATION, "(")
        if behind.text.casefold() in _CALCULATING:
            return None
        # The "!" of "= 9!" is punctuation.
        if not is_parted and not (behind.text == "!" and line[run.stop - 2].symbol == RELATION):
            return None
    tokens = _undecorated(line, run)
    if not any(token.symbol in OPERATOR_SYMBOLS or token.symbol == FRACTION for token in tokens):
        return None
    try:
        equation = _equation(tokens, limits, grammar)
    except ExpressionError:
        return None
    return None if equation.is_number else equation


def _undecorated(line: list[ExpressionToken], run: range) -> list[ExpressionToken]:
    """Return the tokens of a run without a list mark, emphasis, and brackets that belong to words."""
    tokens = line[run.start : run.stop]
    if run.start == 0 and len(tokens) > 2:
        if tokens[0].text in ("*", "×", "-", "+") and tokens[1].is_apart:
            del tokens[0]
        elif tokens[0].symbol == NUMBER and tokens[1].symbol == ")":
            del tokens[:2]
    before = line[max(0, run.start - _SEEN_TOKENS) : run.start]
    behind = line[run.stop : run.stop + _SEEN_TOKENS]
    if tokens[-1].symbol == RELATION and behind and behind[0].symbol == WORD:
        # "(1 + 2) * 3 = target"
        del tokens[-1]
    for marker in _EMPHASIS:
        is_open = [token.text for token in before].count(marker) % 2 == 1
        if tokens and tokens[0].text == marker:
            # A mark that ends or begins emphasis.
            del tokens[0]
            is_open = not is_open
        if is_open and tokens and tokens[-1].text == marker:
            del tokens[-1]
    depth = sum((token.symbol == "(") - (token.symbol == ")") for token in tokens)
    if depth == 1 and behind and behind[0].symbol == WORD and ")" in (token.symbol for token in behind):
        # "(1 + 2) * 3 (which is 9)", "((1 + 2) * 3 it is)"
        if tokens[-1].symbol == "(" and tokens[-1].is_apart:
            del tokens[-1]
        elif tokens[0].symbol == "(":
            del tokens[0]
    elif depth == -1 and before and before[-1].symbol == WORD and "(" in (token.symbol for token in before):
        # "(so) (1 + 2) * 3", "(that is (1 + 2) * 3)"
        if tokens[0].symbol == ")" and tokens[1:] and tokens[1].is_apart:
            del tokens[0]
        elif tokens[-1].symbol == ")":
            del tokens[-1]
    return tokens


def _too_long(limit: int) -> ExpressionError:
    return ExpressionError("too_long", f"An expression has at most {limit} characters.")
