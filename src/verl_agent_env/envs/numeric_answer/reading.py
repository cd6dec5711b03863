"""Reading of a number from an answer: labels, equation and emphasis are removed, the rest is parsed.

Read: ``1,234.5``, ``1.234,5``, ``12,34,567``, ``1 234``, ``1'234``, ``-7``, ``minus 7``, ``.5``, ``5e3``, ``5 × 10^3``, ``2^{10}``,
``3/4``, ``1 1/2``, ``½``, ``\\frac12``, ``50%``, ``50 percent``, ``$5``, ``1.5 million``, ``1.5k``, ``5 cm²``, ``g of CO2`` behind a number,
a remark in brackets, a label (``x = 5``, ``Answer: 5``, ``The length is 5 m``), and digits of all scripts. Not read: number words,
ordinals, ``3\\sqrt{2}``, ``2\\pi``, ``10:30``, ``3:4``, ``4!``, ``5-3``, ``±5``, ``>5``, lists, ranges, anything that holds two numbers.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Literal, TypeAlias

from verl_agent_env.envs.numeric_answer.grammar import Quantity, parse_quantity
from verl_agent_env.envs.plain_text import plain_text

PercentRule: TypeAlias = Literal["divide", "ignore", "either"]
"""Value of ``50%``: 0.5, or 50, or either of them."""

MAX_ANSWER_CHARS = 1024
"""Longest text that can be a number."""

_MAX_LABELS = 3
_QUOTES = (
    ("**", "**"),
    ("__", "__"),
    ("*", "*"),
    ("_", "_"),
    ("`", "`"),
    ('"', '"'),
    ("'", "'"),
    ("“", "”"),
    ("«", "»"),
    ("「", "」"),
    ("$", "$"),
)
_LABEL = re.compile(
    # Letters, and digits only where they number something: x_1, x1, f(2).
    # No character can be matched in two ways, so nothing is tried twice.
    r"(?P<label>(?:[^\W\d_][0-9]{0,2}(?![0-9])|\([0-9]{1,3}\)"
    r"|_(?:[0-9]{1,3}(?![0-9])|\{[0-9]{1,3}\}|(?![0-9{]))|(?:_?\{|\()(?![0-9])|[ \\})|'\"*^,./#-])*?)"
    r"(?P<says>=|:|≈|\\approx|(?<![^\W_])(?:is|are|was|equals|equal|be|comes|gives|makes|becomes|get|obtain|yields)(?![^\W_])"
    r"(?: (?:equal|up|out))?(?: to)?(?![^\W_])[:=]?|(?<=[^\W\d_])'s(?= )|是|为|為|等于)"
)
_NO_LABELS = frozenset(
    {
        *(
            "not",
            "never",
            "cannot",
            "wrong",
            "incorrect",
            "false",
            "except",
            "previous",
            "unless",
            "if",
            "whether",
        ),
        *("instead", "let", "suppose", "assume", "assuming", "could", "may", "might", "maybe", "perhaps"),
    }
)
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
# "**42** apples"; "2**10" is a power.
_EMPHASIS = re.compile(r"(?<![^\s\"'(])\*\*([^*]{1,200})\*\*(?![\w({*])")
# A heading, or an item of a list; "- 5" is a number.
_BULLET = re.compile(r"(?:#{1,6}|[*×•]) (?=\S)")
_EQUAL = re.compile(r"=|≈|\\approx|\\simeq")
_NEARLY = Fraction(1, 100)


def read_number(text: str, percent: PercentRule = "divide") -> Fraction | None:
    """Read ``text`` as a number; ``None`` if it is anything else, not finite, or too long."""
    quantity = read_quantity(text)
    return None if quantity is None else values_of(quantity, percent)[0]


def values_of(quantity: Quantity, percent: PercentRule) -> tuple[Fraction, ...]:
    """Return the values of ``quantity`` under a rule for percent signs: one value, or two with ``either``."""
    divided = quantity.value / quantity.percent_divisor
    if percent == "divide" or quantity.percent_divisor == 1:
        return (divided,)
    return (quantity.value,) if percent == "ignore" else (divided, quantity.value)


def read_quantity(text: str, *, uncertain: bool = False) -> Quantity | None:
    """Read ``text`` as one number with optional unit and label; ``None`` if it is anything else.

    Args:
        text: An answer. Longer ones than :data:`MAX_ANSWER_CHARS` are none.
        uncertain: Whether ``3.14 ± 0.01`` is a number.
    """
    if len(text) > MAX_ANSWER_CHARS:
        return None
    plain = _unquoted(plain_text(text))
    for _ in range(_MAX_LABELS):
        quantity = parse_quantity(plain, uncertain=uncertain)
        if quantity is not None:
            return quantity
        stripped = _without_label(plain)
        if stripped is None:
            break
        plain = _unquoted(stripped)
    return _chain(plain)


def without_labels(text: str) -> str:
    """Remove labels such as ``x =``, ``Answer:`` and ``The length is``."""
    for _ in range(_MAX_LABELS):
        stripped = _without_label(text)
        if stripped is None:
            break
        text = stripped
    return text.strip()


def _unquoted(text: str) -> str:
    """Remove quotes and emphasis."""
    text = _EMPHASIS.sub(r"\1", _BULLET.sub("", text, count=1) if _BULLET.match(text) else text)
    for _ in range(len(_QUOTES)):
        inner = text.strip().rstrip(".,;").rstrip()
        for opening, closing in _QUOTES:
            if (
                len(inner) > len(opening) + len(closing)
                and inner.startswith(opening)
                and inner.endswith(closing)
            ):
                text = inner[len(opening) : -len(closing)]
                break
        else:
            return text.strip()
    return text.strip()


def _without_label(text: str) -> str | None:
    """Return the text after ``x =``, ``Answer:`` or ``The length is``; ``None`` if there is no such label."""
    match = _LABEL.match(text)
    if match is None:
        return None
    words = {word.casefold() for word in _WORD.findall(match["label"])}
    is_denied = any(word.endswith("n't") for word in words)
    return None if is_denied or words & _NO_LABELS else text[match.end() :]


def _chain(text: str) -> Quantity | None:
    """Return the value of ``1/2 = 0.5`` or ``1/3 ≈ 0.333``: one number, written in several ways."""
    parts = _EQUAL.split(text, maxsplit=4)
    if not 2 <= len(parts) <= 4:
        return None
    signs = _EQUAL.findall(text)
    first: Quantity | None = None
    for sign, part in zip(["=", *signs], parts, strict=True):
        quantity = parse_quantity(part.strip(), uncertain=False)
        if quantity is None:
            return None
        if first is None:
            first = quantity
            continue
        distance = abs(values_of(first, "divide")[0] - values_of(quantity, "divide")[0])
        allowed = _NEARLY * abs(first.value) if sign != "=" else Fraction(0)
        if distance > allowed:
            return None
    return first
