"""Former names of hooks of ``ChatEnv``: usable for one version, with a warning that gives the new name."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

_Function = TypeVar("_Function", bound=Callable[..., Any])

RENAMED: Mapping[str, str] = {
    "look": "observe",
    "first_look": "initial_observation",
    "guess": "sample_action",
    "idle_reward": "no_op_reward",
    "_offer": "_set_tools",
}
"""New name of each hook by its former one."""


def former_name(former: str, function: _Function) -> _Function:
    """Wrap a hook so that calling it under its former name gives a ``DeprecationWarning``."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        warnings.warn(_advice(former), DeprecationWarning, stacklevel=2)
        return function(*args, **kwargs)

    return cast("_Function", call)


def support_former_names(env_class: type) -> None:
    """Let a new class define its hooks under their former names, and be called under both.

    A class ends up with both names of each hook that it defines, and each runs this class's own function: so ``super()``
    finds it under either name, and an override under one name never calls itself under the other.
    """
    for former, name in RENAMED.items():
        definer = next(base for base in env_class.__mro__ if name in vars(base) or former in vars(base))
        defined = vars(definer)
        if name not in defined and former in defined:
            warnings.warn(f"{env_class.__qualname__}: {_advice(former)}", DeprecationWarning, stacklevel=3)
            setattr(env_class, name, defined[former])
        elif former not in defined and inspect.isfunction(defined.get(name)):
            setattr(env_class, former, former_name(former, defined[name]))


def _advice(former: str) -> str:
    return f"the hook '{former}' is now named '{RENAMED[former]}'; the former name goes with the next version"
