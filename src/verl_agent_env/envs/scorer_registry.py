"""Registry of Python callables that score answers and that arguments of environments name.

A server registers them with :func:`register_scorer`, an installed package by an entry point of the group
``verl_agent_env.scorers``. A caller can name them but cannot send code.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, TypeAlias, TypeVar

from verl_agent_env.types import Message

ENTRY_POINT_GROUP = "verl_agent_env.scorers"

_NAME = re.compile(r"[a-z0-9][a-z0-9_./-]{0,63}")


@dataclass(frozen=True, slots=True)
class ScoreContext:
    """Context of an answer for a scorer."""

    chat_history: Sequence[Message] = ()
    """Messages before the answer."""
    seed: int | None = None
    """Seed of the episode."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Additional values of the environment."""


NO_CONTEXT = ScoreContext()

ScorerFunction: TypeAlias = Callable[[str, ScoreContext, Mapping[str, Any]], float]
"""Function of the extracted answer, the context and the caller's ``arguments``; returns a finite number."""

_Function = TypeVar("_Function", bound=ScorerFunction)

_registered: dict[str, ScorerFunction] = {}


def register_scorer(name: str) -> Callable[[_Function], _Function]:
    """Register the decorated function: callers may refer to it as ``{"type": "callable", "name": name}``.

    Raises:
        ValueError: The name is taken, or not made of small letters, digits and ``_ . / -``.
    """
    if _NAME.fullmatch(name) is None:
        raise ValueError("a scorer's name is 1 to 64 small letters, digits and '_', '.', '/', '-'")

    def register(function: _Function) -> _Function:
        if _registered.get(name, function) is not function:
            raise ValueError(f"another scorer is registered as '{name}'")
        _registered[name] = function
        return function

    return register


def unregister_scorer(name: str) -> None:
    """Remove ``name`` from the registry; an unknown name is ignored."""
    _registered.pop(name, None)


def find_scorer(name: str) -> ScorerFunction:
    """Return the callable registered as ``name``, by this process or as an entry point.

    Raises:
        ValueError: The name is unknown.
    """
    function = _registered.get(name)
    if function is not None:
        return function
    for entry_point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        loaded: ScorerFunction = entry_point.load()
        return register_scorer(name)(loaded)
    known = registered_scorers()
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"; did you mean {' or '.join(repr(other) for other in close)}?" if close else ""
    raise ValueError(f"no scorer is registered under this name{hint}")


def registered_scorers() -> list[str]:
    """Return all names that :func:`find_scorer` knows, sorted."""
    return sorted({*_registered, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))})
