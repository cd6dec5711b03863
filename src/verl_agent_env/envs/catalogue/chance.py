"""A random generator for each episode of packages that draw from Python's global one, and seed it."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class RandomStandIn:
    """Takes the place of the module ``random`` in modules of a package: what they draw comes from the running episode's own.

    Nothing global is touched, so episodes do not disturb each other, in whatever order and threads they are played.
    """

    def __init__(self) -> None:
        self._running = threading.local()

    @contextmanager
    def drawing_from(self, generator: random.Random) -> Iterator[None]:
        """Have this thread draw from ``generator``."""
        before = getattr(self._running, "generator", None)
        self._running.generator = generator
        try:
            yield
        finally:
            self._running.generator = before

    def __getattr__(self, name: str) -> Any:
        generator = getattr(self._running, "generator", None)
        # Of the module alone: classes such as Random.
        return getattr(generator, name) if hasattr(generator, name) else getattr(random, name)

    def install(self, package: str) -> None:
        """Take the place of ``random`` in a package and all modules below it that are imported by now."""
        for name, module in list(sys.modules.items()):
            if f"{name}.".startswith(f"{package}.") and getattr(module, "random", None) is random:
                module.random = self  # type: ignore[attr-defined]
