"""Environments that end, or block, the process that runs them: what becomes of the calls of others, and of their own."""

from __future__ import annotations

import collections
import ctypes
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import gymnasium

from tests.waiting import NEVER_S

INLINE = "deadly/inline-v0"
THREADED = "deadly/thread-v0"

WAYS: dict[str, Callable[[], object]] = {
    # A signal that a thread sends its own process ends it a little later, when the thread is somewhere else.
    "crash": lambda: ctypes.string_at(0),
    "exit": lambda: os._exit(3),
    "leave": lambda: os._exit(0),
    # In C, and so without ever letting another thread have the interpreter.
    "hang": lambda: collections.deque(itertools.repeat(None), maxlen=0),
}
"""How an action, or the argument ``begins_with``, ends the process."""


class DeadlyEnv(gymnasium.Env[Any, Any]):
    """Counts its steps; ends its process as its action says (:data:`WAYS`).

    An action ``{"entered": <folder>, "gate": <file>}`` makes a file in the folder and waits until the other one is there.
    """

    execution: ClassVar[str] = "inline"
    deterministic: ClassVar[bool] = True

    def __init__(self, begins_with: str = "") -> None:
        self.action_space = gymnasium.spaces.Text(1000)
        self.observation_space = gymnasium.spaces.Text(1000)
        self._begins_with = begins_with
        self._count = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        how = self._begins_with or (options or {}).get("how", "")
        if how:
            WAYS[how]()
        self._count = 0
        return [{"role": "user", "content": "0"}], {"seed": seed}

    def step(self, action: Any) -> tuple[list[dict[str, Any]], float, bool, bool, dict[str, Any]]:
        if isinstance(action, dict) and "gate" in action:
            Path(action["entered"], f"{id(self)}-{os.getpid()}").touch()
            end = time.monotonic() + NEVER_S
            while not Path(action["gate"]).exists() and time.monotonic() < end:
                time.sleep(0.01)
            action = action.get("then", "")
        if action in WAYS:
            WAYS[action]()
        self._count += 1
        return [{"role": "user", "content": str(self._count)}], 0.0, False, False, {"count": self._count}


class ThreadedDeadlyEnv(DeadlyEnv):
    """The same in a thread."""

    execution: ClassVar[str] = "thread"
