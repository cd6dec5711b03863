"""Tokenizer of the number grammar, and the values of numerals."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from typing import Literal, NamedTuple, TypeAlias

MAX_NUMERAL_CHARS = 64
"""Longest numeral."""
MAX_EXPONENT = 400
"""Largest power of ten, in either direction; checked before any large number is computed."""

_REPEATS = 3
"""Times that a period must stand before "…"."""

Kind: TypeAlias = Literal["numeral", "fraction", "superscript", "word", "command", "symbol", "end"]


class QuantityToken(NamedTuple):
    """Token of a number."""

    kind: Kind
    text: str
    """Text of the token; a superscript as plain text: ``-3`` for ``⁻³``."""
    is_apart: bool
    """True if it follows a blank."""


# Blanks group digits in threes, but in "1 123/456" they part a whole number from a fraction.
_GROUPED = r"[0-9]{1,3}(?: [0-9]{3})+(?![0-9]|\s*/)(?:[.,][0-9]+)?"
# 0.1\overline{6} and 0.1(6), a decimal that repeats, and so does 0.1666...
_REPEATING = r"[0-9]+\.[0-9]*(?:\\(?:overline|bar|dot) ?\{[0-9]+\}|\([0-9]+\))|[0-9]+\.[0-9]{3,}(?:\.\.\.|…| ?\\l?dots(?![A-Za-z]))"
_DIGITS = rf"(?:{_GROUPED}|[0-9]+(?:[.,'_][0-9]+)*|\.[0-9]+)"
_TOKEN = re.compile(
    rf"(?P<blank> ?)(?:(?P<numeral>{_REPEATING}|{_DIGITS}(?:[eE][-+]?[0-9]+(?![0-9.]))?)"
    r"|(?P<superscript>[⁺⁻]?[⁰¹²³⁴-⁹]+)"
    r"|(?P<fraction>[¼-¾⅐-⅟↉])"
    # "x" between two numbers multiplies.
    r"|(?P<times>[xX](?= ?[0-9]))"
    r"|(?P<word>[^\W\d_](?:[^\W_⁰¹²³⁴-⁹¼-¾⅐-⅟↉]|'(?=[^\W\d_]))*)"
    r"|(?P<command>\\[A-Za-z]+)"
    r"|(?P<symbol>\*\*|\\?\S))"
)
_KINDS: dict[str, Kind] = {
    "numeral": "numeral",
    "fraction": "fraction",
    "word": "word",
    "command": "command",
    "symbol": "symbol",
}
SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")

_WESTERN_GROUPS = re.compile(r"[1-9][0-9]{0,2}(?:S[0-9]{3})+")
_INDIAN_GROUPS = re.compile(r"[1-9][0-9]?(?:S[0-9]{2})+S[0-9]{3}")


def tokenize(text: str) -> list[QuantityToken]:
    """Split ``text``, a result of :func:`plain_text`, into tokens with an end mark."""
    tokens: list[QuantityToken] = []
    for match in _TOKEN.finditer(text):
        is_apart = bool(match["blank"])
        kind = match.lastgroup
        found = match[kind or "symbol"]
        if kind == "times":
            tokens.append(QuantityToken("symbol", "×", is_apart))
        elif kind == "superscript":
            tokens.append(QuantityToken("superscript", found.translate(SUPERSCRIPTS), is_apart))
        else:
            tokens.append(QuantityToken(_KINDS[kind or "symbol"], found, is_apart))
    tokens.append(QuantityToken("end", "", False))
    return tokens


def numeral_value(text: str) -> Fraction | None:
    """Return the value of a numeral token; ``None`` if its digits are not grouped as a number's, or are too many.

    A lone comma before exactly three digits groups thousands, as in English (``1,234``), unless nothing but a decimal
    comma makes sense there (``0,123``); everywhere else the kind of mark that comes last and once is the decimal one.
    """
    if len(text) > MAX_NUMERAL_CHARS:
        return None
    if text.endswith(("}", ")")):
        return _repeating_value(text)
    if text.endswith(("...", "…", "dots")):
        return _continued_value(text.rstrip(".… \\ldots"))
    mantissa, _, exponent = text.lower().partition("e")
    if exponent and abs(int(exponent)) > MAX_EXPONENT:
        return None
    digits = _decimal_digits(mantissa)
    return None if digits is None else Fraction(digits) * Fraction(10) ** int(exponent or "0")


def has_decimal_comma(text: str) -> bool:
    """Return true if a comma is the decimal mark of a numeral token, so that it could also separate two numbers."""
    return text.count(",") == 1 and not _WESTERN_GROUPS.fullmatch(text.partition(".")[0].replace(",", "S"))


def fraction_value(character: str) -> Fraction:
    """Return the value of a character such as ``½``."""
    _, _, codes = unicodedata.decomposition(character).partition(" ")
    shown = "".join(chr(int(code, 16)) for code in codes.split())
    numerator, _, denominator = shown.partition("⁄")
    # U+215F, the numerator one, has no denominator of its own.
    return Fraction(int(numerator), int(denominator or "1"))


def _repeating_value(text: str) -> Fraction:
    """Return the value of ``0.1\\overline{6}``, or of ``0.1(6)``."""
    digits, _, rest = text.partition("\\" if "\\" in text else "(")
    period = rest.rpartition("{")[2][:-1]
    return _with_period(digits, period)


def _continued_value(digits: str) -> Fraction:
    """Return the value of ``0.1666…``: its end is a period if it was written three times; else the number was cut."""
    decimals = digits.partition(".")[2]
    for length in range(1, len(decimals) // _REPEATS + 1):
        period = decimals[-length:]
        if decimals.endswith(period * _REPEATS):
            return _with_period(digits, period)
    return Fraction(digits)


def _with_period(digits: str, period: str) -> Fraction:
    shift = Fraction(10) ** len(digits.partition(".")[2])
    return Fraction(digits.rstrip(".")) + Fraction(int(period), 10 ** len(period) - 1) / shift


def _decimal_digits(mantissa: str) -> str | None:
    """Return ``mantissa`` with a point as its decimal mark and without group separators."""
    marks = [character for character in mantissa if not character.isdigit()]
    if not marks:
        return mantissa
    kinds = set(marks)
    last = marks[-1]
    if last in ".," and marks.count(last) == 1:
        whole, _, decimals = mantissa.rpartition(last)
        others = kinds - {last}
        if not others:
            if last == "," and len(decimals) == 3 and _WESTERN_GROUPS.fullmatch(mantissa.replace(",", "S")):
                return mantissa.replace(",", "")
            # ".5" is a number, ",5" is none.
            return f"{whole or '0'}.{decimals}" if whole or last == "." else None
        grouped = _ungrouped(whole, others)
        return None if grouped is None else f"{grouped}.{decimals}"
    return _ungrouped(mantissa, kinds)


def _ungrouped(digits: str, marks: set[str]) -> str | None:
    """Remove one kind of group separator from ``digits``; ``None`` if it does not group them as a number."""
    if len(marks) != 1:
        return None
    mark = marks.pop()
    pattern = digits.replace(mark, "S")
    if _WESTERN_GROUPS.fullmatch(pattern) or (mark == "," and _INDIAN_GROUPS.fullmatch(pattern)):
        return digits.replace(mark, "")
    return None
