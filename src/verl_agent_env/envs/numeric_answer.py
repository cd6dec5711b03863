"""Reads numbers as people and models write them, exactly and within fixed bounds.

Understood: ``1,234.5``, ``-7``, ``.5``, ``1e-3``, ``3/4``, ``50%``, and of LaTeX ``\\frac{3}{4}``, ``1{,}234``,
``\\$5`` and ``50\\%``. Not understood: words, mixed numbers (``1 1/2``), ``10^3``, a comma as the decimal point.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Literal, TypeAlias

PercentRule: TypeAlias = Literal["divide", "ignore"]
"""What ``50%`` is worth: 0.5, or 50."""

MAX_SEARCHED_CHARS = 4096
"""Only the end of a text is searched for its last number."""

_MAX_NUMBER_CHARS = 64
_MAX_EXPONENT = 400

_CLEANED = {
    "\\dfrac": "\\frac",
    "\\tfrac": "\\frac",
    "{,}": ",",
    "\\,": "",
    "\\!": "",
    "\\%": "%",
    "\\$": "",
    "$": "",
}
_CLEANED |= {"−": "-", "–": "-"}

# No alternative can match the same characters in two ways at length, and the text is bounded: no backtracking to fear.
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.[0-9]+)?|(?<![0-9])\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_NUMBER = re.compile(
    # A sign behind a digit, a letter or a bracket is an operator.
    r"(?P<sign>(?<![\w)\]}])[-+])?"
    rf"(?:\\frac\{{\s*(?P<top>{_DECIMAL})\s*\}}\{{\s*(?P<bottom>{_DECIMAL})\s*\}}"
    rf"|(?P<first>{_DECIMAL})(?:\s?/\s?(?P<second>{_DECIMAL}))?)"
    r"(?P<percent>\s?%)?"
)


def read_number(text: str, percent: PercentRule = "divide") -> Fraction | None:
    """The number that ``text`` is, or ``None`` when it is anything else, not finite or too long."""
    if len(text) > MAX_SEARCHED_CHARS:
        return None
    match = _NUMBER.fullmatch(_clean(text).strip())
    return None if match is None else _value(match, percent)


def last_number(text: str, percent: PercentRule = "divide") -> Fraction | None:
    """The last number in ``text``, of which only the last :data:`MAX_SEARCHED_CHARS` characters are read."""
    last = None
    for match in _NUMBER.finditer(_clean(text[-MAX_SEARCHED_CHARS:])):
        last = match
    return None if last is None else _value(last, percent)


def _clean(text: str) -> str:
    for written, meant in _CLEANED.items():
        text = text.replace(written, meant)
    return text


def _value(match: re.Match[str], percent: PercentRule) -> Fraction | None:
    parts = match.groupdict()
    top = _decimal(parts["top"] or parts["first"])
    bottom_text = parts["bottom"] or parts["second"]
    bottom = Fraction(1) if bottom_text is None else _decimal(bottom_text)
    if top is None or not bottom:
        return None
    value = top / bottom
    if parts["sign"] == "-":
        value = -value
    return value / 100 if parts["percent"] and percent == "divide" else value


def _decimal(text: str) -> Fraction | None:
    """``text`` as an exact number; ``None`` beyond the bounds, before any large power of ten is computed."""
    if len(text) > _MAX_NUMBER_CHARS:
        return None
    mantissa, _, exponent = text.lower().partition("e")
    if exponent and abs(int(exponent)) > _MAX_EXPONENT:
        return None
    return Fraction(mantissa.replace(",", "")) * Fraction(10) ** int(exponent or "0")
