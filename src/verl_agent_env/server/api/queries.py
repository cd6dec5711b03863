"""Reads the query of a request."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar
from urllib.parse import parse_qs

from verl_agent_env.errors import InvalidRequestError
from verl_agent_env.server.http.types import Request

T = TypeVar("T", bound=str)

MAX_DIGITS = 19


def query_of(request: Request) -> dict[str, list[str]]:
    """Return the values of each parameter, in order."""
    return parse_qs(request.query.decode("latin-1"), keep_blank_values=True)


def require_known(query: Mapping[str, list[str]], names: Sequence[str]) -> None:
    """Refuse parameters of other names: a filter whose name is misspelt would find everything.

    Raises:
        InvalidRequestError: There is one.
    """
    faults = [
        {"loc": ["query", name], "msg": f"is unknown; there are {', '.join(names)}"}
        for name in query
        if name not in names
    ]
    if faults:
        raise InvalidRequestError(faults[:8])


def whole_number(query: Mapping[str, list[str]], name: str, default: int, lowest: int, highest: int) -> int:
    """Return a parameter that is a whole number.

    Raises:
        InvalidRequestError: It is none, or out of range.
    """
    text = query.get(name, [str(default)])[-1]
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS and int(text) >= lowest):
        raise InvalidRequestError(
            [{"loc": ["query", name], "msg": f"must be a whole number of at least {lowest}"}]
        )
    if int(text) > highest:
        raise InvalidRequestError([{"loc": ["query", name], "msg": f"must be {highest} at most"}])
    return int(text)


def positive_number(query: Mapping[str, list[str]], name: str) -> float | None:
    """Return a parameter that is a number above 0; None where it is not given.

    Raises:
        InvalidRequestError: It is none.
    """
    number = _number(query, name)
    if number is not None and not 0.0 < number < math.inf:
        raise InvalidRequestError([{"loc": ["query", name], "msg": "must be a number above 0"}])
    return number


def a_number(query: Mapping[str, list[str]], name: str) -> float | None:
    """Return a parameter that is a number; None where it is not given.

    Raises:
        InvalidRequestError: It is none.
    """
    number = _number(query, name)
    if number is not None and not math.isfinite(number):
        raise InvalidRequestError([{"loc": ["query", name], "msg": "must be a number"}])
    return number


def one_of(query: Mapping[str, list[str]], name: str, known: Sequence[T]) -> T | None:
    """Return a parameter that is one of some words; None where it is not given.

    Raises:
        InvalidRequestError: It is none of them.
    """
    if name not in query:
        return None
    text = query[name][-1]
    for word in known:
        if word == text:
            return word
    raise InvalidRequestError([{"loc": ["query", name], "msg": f"must be one of {', '.join(known)}"}])


def yes_or_no(query: Mapping[str, list[str]], name: str) -> bool | None:
    """Return a parameter that is ``true`` or ``false``; None where it is not given.

    Raises:
        InvalidRequestError: It is neither.
    """
    word = one_of(query, name, ("true", "false"))
    return None if word is None else word == "true"


def _number(query: Mapping[str, list[str]], name: str) -> float | None:
    """Return a parameter as a number: None where it is not given, NaN where it is none."""
    if name not in query:
        return None
    try:
        return float(query[name][-1])
    except ValueError:
        return math.nan
