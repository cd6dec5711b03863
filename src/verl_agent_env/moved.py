"""Former names of modules, of their contents and of arguments: usable for one version, with a warning that gives the new name."""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def moved(old: str, new: str) -> Callable[[str], Any]:
    """Make the ``__getattr__`` of a module that has moved.

    Args:
        old: Its former name.
        new: Name of the module that has its contents now.

    Returns:
        Looks a name up in the new module, after a ``DeprecationWarning``.
    """

    def look_up(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        warnings.warn(
            f"'{old}' has moved to '{new}'; import it from there.", DeprecationWarning, stacklevel=2
        )
        return getattr(importlib.import_module(new), name)

    return look_up


def renamed(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Make the ``__getattr__`` of a module in which some things have other names now.

    Args:
        module: Name of the module.
        names: Former name to present name.

    Returns:
        Looks a former name up, after a ``DeprecationWarning``.
    """

    def look_up(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module '{module}' has no attribute '{name}'")
        warnings.warn(f"'{module}.{name}' is now '{module}.{names[name]}'.", DeprecationWarning, stacklevel=2)
        return getattr(importlib.import_module(module), names[name])

    return look_up


def renamed_argument(former: str, present: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Have a function take a keyword argument under its former name, too, with a ``DeprecationWarning``."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            if former in kwargs:
                warnings.warn(
                    f"The argument '{former}' is now '{present}'.", DeprecationWarning, stacklevel=2
                )
                kwargs[present] = kwargs.pop(former)
            return function(*args, **kwargs)

        return call

    return decorate
