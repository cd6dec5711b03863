"""Parser of values as models write them: JSON, near-JSON and Python.

Accepts trailing commas, single and typographic quotes, keys without quotes, comments, ``True`` and ``None``, raw line breaks in
a string and escapes unknown to JSON; cut off or missing parts are errors. One pass over the text, of bounded depth, without Python's own parser, whose memory is
unbounded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import orjson

_MAX_DEPTH = 64
_MAX_DIGITS = 400

_BLANKS = re.compile(r"(?:\s|#[^\n]*+|//[^\n]*+|/\*(?:[^*]|\*(?!/))*+\*/)*+")
_STRING = re.compile(
    r'[rRuU]?(?:"""(?P<triple>(?:[^"\\]|\\.|"(?!""))*+)"""'
    r"|'''(?P<triple_single>(?:[^'\\]|\\.|'(?!''))*+)'''"
    r'|"(?P<double>(?:[^"\\]|\\.)*+)"'
    r"|'(?P<single>(?:[^'\\]|\\.)*+)'"
    r"|“(?P<curly>[^“”]*+)”)",
    re.DOTALL,
)
_NUMBER = re.compile(r"[+-]?(?:\d++(?P<point>\.\d*+)?+|\.\d++)(?P<exponent>[eE][+-]?\d++)?+(?![\w.])")
_WORD = re.compile(r"[^\W\d]\w*+")
_NAME = re.compile(r"[^\W\d][\w.\-]*+")
_BARE_KEY = re.compile(r"[^\W\d]\w*+(?=\s*+:)")
_KEYWORD = re.compile(r"([^\W\d]\w*+)\s*+=(?!=)")
ASSIGNED = re.compile(r"[^\W\d]\w*+[ \t]*+=(?!=)[ \t]*+(?=[^\W\d][\w.]*+[ \t]*+\()")
"""The name that the result of a call gets: ``x = f(1)``."""
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|\n|.)", re.DOTALL)
_ESCAPED = {
    "n": "\n",
    "t": "\t",
    "r": "\r",
    "b": "\b",
    "f": "\f",
    "0": "\0",
    "\n": "",
    "/": "/",
    "\\": "\\",
    '"': '"',
    "'": "'",
}
_WORDS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}


class MalformedError(ValueError):
    """The text is no value."""


class PythonCall(NamedTuple):
    """Call in Python's syntax: ``name(1, x=2)``."""

    name: str
    positional: list[Any]
    keywords: dict[str, Any]


def read_value(text: str) -> Any:
    """Parse ``text`` as one value.

    Raises:
        MalformedError: The text is no value, or more than one.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        value, end = scan_value(text, 0)
        if skip_blanks(text, end) != len(text):
            raise MalformedError from None
        return value


def scan_value(text: str, position: int) -> tuple[Any, int]:
    """Parse the value at ``position``, after blanks, and return it with its end.

    Raises:
        MalformedError: Nothing readable begins there.
    """
    return _scan(text, skip_blanks(text, position), 0)


def scan_call(text: str, position: int) -> tuple[PythonCall, int]:
    """Parse the call in Python's syntax at ``position`` and return it with its end.

    ``print(f(1))`` and ``x = f(1)`` give the call of ``f``.

    Raises:
        MalformedError: Nothing readable begins there.
    """
    assigned = ASSIGNED.match(text, skip_blanks(text, position))
    name, position = _scan_callee(text, position if assigned is None else assigned.end())
    if name != "print":
        return _scan_arguments(text, position, name)
    name, position = _scan_callee(text, position + 1)
    call, position = _scan_arguments(text, position, name)
    position = skip_blanks(text, position)
    if text[position : position + 1] != ")":
        raise MalformedError
    return call, position + 1


def skip_blanks(text: str, position: int) -> int:
    """Return the position of the next character that is neither a blank nor part of a comment."""
    blanks = _BLANKS.match(text, position)
    return position if blanks is None else blanks.end()


def _scan_callee(text: str, position: int) -> tuple[str, int]:
    """Return the name before an opening parenthesis, and the position of the parenthesis."""
    name = _NAME.match(text, skip_blanks(text, position))
    if name is None:
        raise MalformedError
    position = skip_blanks(text, name.end())
    if text[position : position + 1] != "(":
        raise MalformedError
    return name[0], position


def _scan_arguments(text: str, position: int, name: str) -> tuple[PythonCall, int]:
    call = PythonCall(name, [], {})

    def item(position: int) -> int:
        keyword = _KEYWORD.match(text, position)
        value, end = _scan(text, skip_blanks(text, keyword.end() if keyword else position), 1)
        if keyword is None:
            if call.keywords:
                raise MalformedError
            call.positional.append(value)
        elif keyword[1] in call.keywords:
            raise MalformedError
        else:
            call.keywords[keyword[1]] = value
        return end

    return call, _scan_items(text, position, ")", item)


def _scan(text: str, position: int, depth: int) -> tuple[Any, int]:
    if depth > _MAX_DEPTH:
        raise MalformedError
    first = text[position : position + 1]
    if first == "{":
        return _scan_object(text, position, depth)
    if first in ("[", "("):
        values: list[Any] = []

        def item(position: int) -> int:
            value, end = _scan(text, position, depth + 1)
            values.append(value)
            return end

        return values, _scan_items(text, position, "]" if first == "[" else ")", item)
    string = _STRING.match(text, position)
    if string is not None:
        return _string(string), string.end()
    number = _NUMBER.match(text, position)
    if number is not None:
        return _number(number), number.end()
    word = _WORD.match(text, position)
    if word is not None and word[0] in _WORDS:
        return _WORDS[word[0]], word.end()
    raise MalformedError


def _scan_object(text: str, position: int, depth: int) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}

    def item(position: int) -> int:
        bare = _BARE_KEY.match(text, position)
        key, position = _scan(text, position, depth + 1) if bare is None else (bare[0], bare.end())
        position = skip_blanks(text, position)
        if not isinstance(key, str) or text[position : position + 1] != ":":
            raise MalformedError
        found[key], end = _scan(text, skip_blanks(text, position + 1), depth + 1)
        return end

    return found, _scan_items(text, position, "}", item)


def _scan_items(text: str, position: int, closing: str, item: Callable[[int], int]) -> int:
    """Parse items separated by commas, from an opening bracket to the closing one; return the position after it."""
    position = skip_blanks(text, position + 1)
    while text[position : position + 1] != closing:
        position = skip_blanks(text, item(position))
        if text[position : position + 1] == ",":
            position = skip_blanks(text, position + 1)
        elif text[position : position + 1] != closing:
            raise MalformedError
    return position + 1


def _string(string: re.Match[str]) -> str:
    inside = next(part for part in string.groups() if part is not None)
    return inside if string[0][0] in "rR" or "\\" not in inside else _unescape(inside)


def _unescape(text: str) -> str:
    unescaped = _ESCAPE.sub(_unescaped, text)
    if unescaped.isascii():
        return unescaped
    # Two halves of a character that were escaped one by one.
    return unescaped.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _unescaped(escape: re.Match[str]) -> str:
    code = escape[1]
    if len(code) > 1:
        return chr(int(code[1:], 16))
    # An escape that is none, as in LaTeX, is what it looks like.
    return _ESCAPED.get(code, escape[0])


def _number(number: re.Match[str]) -> int | float:
    if len(number[0]) > _MAX_DIGITS:
        raise MalformedError
    if number["point"] is None and number["exponent"] is None and "." not in number[0]:
        return int(number[0])
    value = float(number[0])
    if not math.isfinite(value):
        raise MalformedError
    return value
