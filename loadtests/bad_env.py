"""Environments that behave badly on request: what it does to the others on its server is what matters."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import gymnasium

ENV_NAME = "bad_neighbour"
COUNTER_NAME = "breakable_counter"
_LEAK_BYTES = 1 << 20
_leaked: list[bytes] = []


class BadNeighbourEnv(gymnasium.Env[Any, Any]):
    """Does what its action says: ``block`` for thirty seconds, ``raise`` an error, or ``leak`` a megabyte."""

    execution: ClassVar[str] = "thread"
    deterministic: ClassVar[bool] = False

    def __init__(self) -> None:
        self.action_space = gymnasium.spaces.Text(1000)
        self.observation_space = gymnasium.spaces.Text(1000)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Begin; there is nothing to see."""
        return [{"role": "user", "content": "What now?"}], {}

    def step(self, action: Any) -> tuple[list[dict[str, Any]], float, bool, bool, dict[str, Any]]:
        """Misbehave."""
        if action == "raise":
            raise RuntimeError("as it was told")
        if action == "block":
            time.sleep(30)
        elif action == "leak":
            _leaked.append(bytes(_LEAK_BYTES))
        return [{"role": "user", "content": "What now?"}], 0.0, False, False, {}


class BreakableCounterEnv(gymnasium.Env[Any, Any]):
    """Counts its steps, and says how many there were; told to ``raise`` it raises an error, told to ``exit`` it ends its worker."""

    durability: ClassVar[str] = "snapshot"

    def __init__(self) -> None:
        self.action_space = gymnasium.spaces.Text(1000)
        self.observation_space = gymnasium.spaces.Text(1000)
        self._count = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Begin to count."""
        self._count = 0
        return [{"role": "user", "content": "0"}], {}

    def step(self, action: Any) -> tuple[list[dict[str, Any]], float, bool, bool, dict[str, Any]]:
        """Count on, raise, or end the process."""
        if action == "exit":
            os._exit(3)
        self._count += 1
        if action == "raise":
            raise RuntimeError("as it was told")
        return [{"role": "user", "content": str(self._count)}], 0.0, False, False, {}

    def snapshot(self) -> bytes:
        """The count."""
        return str(self._count).encode()

    def restore(self, snapshot: bytes) -> None:
        """Count on from there."""
        self._count = int(snapshot)


def write_package(folder: Path) -> str:
    """Make an installed package of them; gives the entry for ``PYTHONPATH`` with which servers find it."""
    about = folder / "bad_neighbour-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: bad-neighbour\nVersion: 1\n", "utf-8")
    classes = {ENV_NAME: BadNeighbourEnv, COUNTER_NAME: BreakableCounterEnv}
    entries = "".join(f"{name} = {__name__}:{env.__name__}\n" for name, env in classes.items())
    (about / "entry_points.txt").write_text(f"[verl_agent_env.envs]\n{entries}", "utf-8")
    return f"{folder}:{Path(__file__).parents[1]}"


@contextlib.contextmanager
def installed(folder: Path) -> Iterator[None]:
    """Have servers that are started meanwhile find the package, which is made in ``folder``."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = write_package(folder)
    try:
        yield
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
