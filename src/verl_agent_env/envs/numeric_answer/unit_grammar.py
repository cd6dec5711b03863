"""Grammar of the text after a number: its unit, and a remark in brackets."""

from __future__ import annotations

from verl_agent_env.envs.numeric_answer.tokens import QuantityToken
from verl_agent_env.envs.numeric_answer.units import (
    CALCULATIONS,
    CURRENCY_SIGNS,
    PREFIXES,
    UNIT_COMMANDS,
    continues_unit,
    is_unit,
    joins_units,
)

MAX_UNIT_TOKENS = 24
_CLOSING = {"(": ")", "[": "]"}
_UNIT_SIGNS = frozenset({"°", "Ω", "′", "″", "'", '"', *CURRENCY_SIGNS})
_MULTIPLIED = frozenset({"×", "*", "\\cdot", "\\times"})
_REMARKS = frozenset({"or", "sf", "dp", "ie", "eg", "to"})
_OPERATORS = frozenset({"+", "-", "*", "/", "×", "^"})
_UNIT_FRACTIONS = frozenset({"\\frac", "\\dfrac", "\\tfrac"})


def skip_unit(tokens: list[QuantityToken], start: int) -> int:
    """Return the index after the unit at ``start``; ``start`` itself if there is none.

    An incomplete unit (``m/``, ``g of``) ends at its last complete part.
    """
    index = whole_until = start
    while index - start < MAX_UNIT_TOKENS:
        token = tokens[index]
        has_unit = index > start
        if token.kind == "word" and joins_units(token.text) and token.is_apart and not is_unit(token.text):
            index += 1
            continue
        # "5-inch"; "5 - x" is a difference.
        is_hyphen = token.text == "-" and not token.is_apart and not tokens[index + 1].is_apart
        if token.text in ("/", "\\per") or is_hyphen or (has_unit and token.text in _MULTIPLIED):
            index += 1
            continue
        following = _unit_factor(tokens, index, has_unit)
        if following == index:
            break
        index = whole_until = following
    return whole_until


def skip_remark(tokens: list[QuantityToken], start: int) -> int:
    """Return the index after a remark in brackets that ends the text; ``start`` if there is none.

    Brackets that touch the number or hold no words multiply it: ``2(x + 1)``, ``5 (3)``.
    """
    closing = _CLOSING.get(tokens[start].text)
    if closing is None or not (tokens[start].is_apart or tokens[start - 1].kind == "word"):
        return start
    end = len(tokens) - 2
    while end > start and tokens[end].text in (".", ",", ";"):
        end -= 1
    if tokens[end].text != closing or not _is_remark(tokens[start + 1 : end]):
        return start
    return end + 1


def _unit_factor(tokens: list[QuantityToken], index: int, has_unit: bool) -> int:
    """Return the index after one unit with its exponent."""
    token = tokens[index]
    if token.text in PREFIXES and tokens[index + 1].text in UNIT_COMMANDS:
        return _skip_exponent(tokens, index + 2)
    if token.kind == "word":
        if not (continues_unit(token.text) if has_unit else is_unit(token.text)):
            return index
        index += 1
        if tokens[index].text == "." and len(token.text) <= 4 and tokens[index + 1].kind != "end":
            # An abbreviation.
            index += 1
        return _skip_exponent(tokens, index)
    if token.text in _UNIT_SIGNS or token.text in UNIT_COMMANDS:
        return _skip_exponent(tokens, index + 1)
    if token.text == "^":
        # 90^\circ, 90^{\circ}
        braced = tokens[index + 1].text == "{"
        sign = index + 1 + braced
        if tokens[sign].text not in UNIT_COMMANDS and tokens[sign].text != "°":
            return index
        return sign + 2 if braced and tokens[sign + 1].text == "}" else sign + 1
    is_divided = token.text == "(" and tokens[index - 1].text in ("/", "×", "\\per")
    if token.text in _UNIT_FRACTIONS or token.text == "{" or is_divided:
        return _skip_braced(tokens, index)
    return index


def _skip_braced(tokens: list[QuantityToken], index: int) -> int:
    """Return the index after ``{unit}``, ``(unit)`` or ``\\frac{unit}{unit}``; ``index`` itself if there is none."""
    start = index
    groups = 1
    if tokens[index].text in _UNIT_FRACTIONS:
        groups, index = 2, index + 1
    for _ in range(groups):
        closing = {"{": "}", "(": ")"}.get(tokens[index].text)
        if closing is None:
            return start
        inner = skip_unit(tokens, index + 1)
        if inner == index + 1 or tokens[inner].text != closing:
            return start
        index = inner + 1
    return _skip_exponent(tokens, index)


def _skip_exponent(tokens: list[QuantityToken], index: int) -> int:
    """Return the index after ``^2``, ``^{-1}``, ``²`` or ``**2`` of a unit."""
    if tokens[index].kind == "superscript":
        return index + 1
    if tokens[index].text not in ("^", "**"):
        return index
    start, index = index, index + 1
    braced = tokens[index].text in ("{", "(")
    index += braced
    if tokens[index].text in ("-", "+"):
        index += 1
    if tokens[index].kind != "numeral" or not tokens[index].text.isdigit():
        return start
    index += 1
    if braced:
        if tokens[index].text not in ("}", ")"):
            return start
        index += 1
    return index


def _is_remark(inside: list[QuantityToken]) -> bool:
    """Return true if tokens in brackets are a remark on the number and not a factor."""
    if not inside:
        return False
    if inside[0].text in ("=", "≈", "~", "\\approx"):
        return True
    words = [token.text for token in inside if token.kind == "word"]
    if any(word.casefold() in CALCULATIONS for word in words):
        return False
    if any(len(word) >= 3 or is_unit(word) or word in _REMARKS for word in words):
        return True
    # "(2 s.f.)" is a remark, "(x + y)" a factor.
    return len(words) >= 2 and not any(token.text in _OPERATORS for token in inside)
