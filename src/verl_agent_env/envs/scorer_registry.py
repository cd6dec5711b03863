"""Python callables that an environment's arguments may refer to by name, and what they are told.

A server registers them with :func:`register_scorer`, an installed package by an entry point of the group
``verl_agent_env.scorers``. A caller can name them but never bring code.
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
    """What a scorer may look at besides the answer."""

    chat_history: Sequence[Message] = ()
    """The messages before the answer."""
    seed: int | None = None
    """The episode's seed."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Whatever the environment adds."""


NO_CONTEXT = ScoreContext()

ScorerFunction: TypeAlias = Callable[[str, ScoreContext, Mapping[str, Any]], float]
"""Takes the extracted answer, the context and the caller's ``arguments``; returns a finite number."""

_Function = TypeVar("_Function", bound=ScorerFunction)

_registered: dict[str, ScorerFunction] = {}


def register_scorer(name: str) -> Callable[[_Function], _Function]:
    """Decorator: callers may refer to the function as ``{"type": "callable", "name": name}``.

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
    """Forget ``name``; nothing happens if it is unknown."""
    _registered.pop(name, None)


def find_scorer(name: str) -> ScorerFunction:
    """The callable registered as ``name``, here or by the entry point of that name.

    Raises:
        ValueError: There is none.
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
    """All names that :func:`find_scorer` knows, sorted."""
    return sorted({*_registered, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))})
