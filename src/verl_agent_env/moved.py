"""Old names of modules: usable for one version, with a warning that gives the new name."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any


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
