"""Calls that begin when they are awaited, as those of a client do."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from verl_agent_env.engine import AwaitableOrValue, await_maybe

P = ParamSpec("P")
T = TypeVar("T")


async def ask(function: Callable[P, AwaitableOrValue[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function of a host, and wait for its result if there is anything to wait for."""
    return await await_maybe(function(*args, **kwargs))
