"""Reads the expression that an answer holds: alone, as one side of an equation, or with words around it.

In the notation ``lenient`` a text without words is its equation. Of a text with words it is what follows the last "answer" or
"equation", else the last one in it; reasons behind a "because" are left out. Only what stands alone between words and stops
counts, never a piece: not ``(4) + 2`` of ``sqrt(4) + 2``. Of an equation, one side is the expression, and the others are its result:
numbers, or steps that have the same value.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from verl_agent_env.envs.countdown.parser import Parsed, parse
from verl_agent_env.envs.countdown.rules import (
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
"""Only so much of the end of a text is read: its answer stands there."""

DEFAULT_LIMITS = Limits()
DEFAULT_GRAMMAR = Grammar()

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
_DECORATION = frozenset({"`", "$", '"', "'", "“", "*", "**", "_", "="})
_BEGINNINGS = frozenset({NUMBER, FRACTION, "(", WORD})
_EMPHASIS = frozenset({"*", "**"})
_SEEN_TOKENS = 64
"""So far around an expression the emphasis and the brackets are looked for that it stands in."""
_STOPS = frozenset(".,;:?\"'`$_|“”")


def evaluate(text: str, limits: Limits = DEFAULT_LIMITS, grammar: Grammar = DEFAULT_GRAMMAR) -> Evaluated:
    """The exact value of the expression that ``text`` holds, and the number literals in it.

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
    """Whether ``text`` tries to be an equation: digits without words, or, if ``lenient``, an expression among words."""
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
    """The lines of ``text`` as tokens, without what wraps all of it and without stops at its end."""
    if len(text) > MAX_TEXT_CHARS:
        # Not from within a number.
        text = text[-MAX_TEXT_CHARS:].partition(" ")[2]
    for _ in range(4):
        inner = unwrap(text).strip().rstrip(".,;")
        if inner == text:
            break
        text = inner
    return [_unnumbered(line) for line in lenient_lines(text)]


def _unnumbered(line: list[ExpressionToken]) -> list[ExpressionToken]:
    """``line`` without the number of an item in a list: ``1. (1 + 2) * 3``."""
    is_item = len(line) > 2 and line[0].symbol == NUMBER and line[1].text == "." and line[2].is_apart
    return line[2:] if is_item and line[2].symbol in _BEGINNINGS else line


def _has_words(lines: list[list[ExpressionToken]]) -> bool:
    return any(token.symbol == WORD for line in lines for token in line)


# --- equations ------------------------------------------------------------------------------------------------


def _equation(tokens: list[ExpressionToken], limits: Limits, grammar: Grammar) -> Parsed:
    """The expression of an equation: the one side of it that is more than a number, or its only side."""
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
    return expressions[0]


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
    """A side of an equation; a number there may be anything, as it means nothing."""
    signed = tokens[1:] if tokens and tokens[0].symbol in ("-", "+") else tokens
    if len(signed) == 1 and signed[0].symbol == NUMBER:
        return Parsed([0], limits)
    return parse(tokens, limits, grammar)


# --- equations among words ------------------------------------------------------------------------------------


class _Found(NamedTuple):
    equation: Parsed
    is_introduced: bool
    """Whether the text says that it is the answer."""
    is_reason: bool
    """Whether it stands behind a "because" or the like, and another equation before that."""


def _equation_among_words(
    lines: list[list[ExpressionToken]], limits: Limits, grammar: Grammar
) -> Parsed | None:
    """The equation that a text with words gives as its answer, else the last one in it; ``None`` if it holds none."""
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
    """Where ``line`` has no words: the longest stretches of numbers, operators and brackets."""
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
    """Whether a "is" or a colon stands before ``start``, or the line begins there."""
    before = [token for token in line[:start] if token.text not in _DECORATION]
    return not before or before[-1].text.casefold() in _INTRODUCING


def _standing_alone(
    line: list[ExpressionToken], run: range, limits: Limits, grammar: Grammar
) -> Parsed | None:
    """The equation of a run; ``None`` if it is none, has no operator, or touches what is not part of it."""
    first, last = line[run.start], line[run.stop - 1]
    if run.start > 0:
        before = line[run.start - 1]
        is_parted = first.is_apart or before.text in _STOPS or first.symbol in (RELATION, ")")
        if before.text.casefold() in _DENYING or not is_parted:
            return None
    if run.stop < len(line):
        behind = line[run.stop]
        is_parted = behind.is_apart or behind.text in _STOPS or last.symbol in (RELATION, "(")
        # "= 9!" is said with joy.
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
    """The tokens of a run without a list's mark, emphasis, and brackets that belong to words."""
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
            # It ends what is emphasised before, or begins it here.
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
