"""Environments that do as they are told, well or badly, and note what is done to them."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import Any, ClassVar

import gymnasium
import numpy as np

from tests.waiting import NEVER_S, until

MODULE = "tests.engine.probes"


class Controls:
    """What the probes are told from outside, and what they noted."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        """``wait`` goes through once this is set."""
        self.holds_resets = False
        """Whether a reset waits for the gate as well."""
        self.broken: set[str] = set()
        """Commands, or ``reset``, ``build``, ``close``, that raise; ``woken`` is the end of a ``wait``."""
        self.entered: threading.Semaphore = threading.Semaphore(0)
        """Released for each ``wait``, or reset that is held, that has begun."""
        self.events: list[str] = []
        self.overlaps = 0
        self.counts: Counter[str] = Counter()

    def note(self, event: str) -> None:
        """Remember an event; raise if it is to fail."""
        self.events.append(event)
        self.counts[event] += 1
        self.require(event)

    def require(self, event: str) -> None:
        """Raise if an event is to fail."""
        if event in self.broken:
            raise RuntimeError(f"{event} is broken")


controls = Controls()


def renew() -> None:
    """Forget what was told and noted; whoever waits goes on."""
    controls.gate.set()
    vars(controls).clear()
    vars(controls).update(vars(Controls()))


class Probe(gymnasium.Env[Any, Any]):
    """Adds up numbers that start from its seed; commands make it fail in every known way."""

    deterministic: ClassVar[bool] = True
    execution: ClassVar[str] = "inline"
    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}  # type: ignore[misc]

    def __init__(self, cards: list[int] | None = None) -> None:
        controls.note("build")
        self.cards = cards if cards is not None else []
        self.total = 0
        self.busy = False
        self.closed = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        with _Busy(self):
            controls.note("reset")
            if controls.holds_resets and not controls.gate.is_set():
                controls.entered.release()
                controls.gate.wait(timeout=NEVER_S)
            if options:
                # Takes its options apart, as some do.
                self.total = options.pop("start")
            else:
                self.total = seed or 0
            return self._look(), {"seed": seed}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        with _Busy(self):
            command = str(action)
            controls.note(command)
            if command == "wait":
                controls.entered.release()
                controls.gate.wait(timeout=NEVER_S)
                controls.require("woken")
            return self._carry_out(command)

    def close(self) -> None:
        with _Busy(self):
            self.closed = True
            controls.note("close")

    def _look(self) -> list[dict[str, Any]]:
        return [{"role": "user", "content": str(self.total)}]

    def _carry_out(self, command: str) -> tuple[Any, Any, Any, Any, Any]:
        if command.isdigit():
            self.total += int(command)
        reward: Any = 0.5
        observation: Any = self._look()
        info: dict[Any, Any] = {"total": self.total}
        if command == "deal":
            info["card"] = self.cards.pop()
        elif command == "raise":
            self.total += 1000
            raise ValueError("told to")
        elif command == "out of memory":
            self.total += 1000
            raise MemoryError
        elif command == "exit":
            raise SystemExit(3)
        elif command == "interrupt":
            raise KeyboardInterrupt
        elif command == "exhaust":
            next(iter(()))
        elif command == "cancel":
            raise asyncio.CancelledError
        elif command == "own timeout":
            raise TimeoutError
        elif command == "nan":
            self.total += 1000
            reward = float("nan")
        elif command == "object":
            self.total += 1000
            observation = [{"role": "user", "content": object()}]
        elif command == "numpy":
            reward = np.float32(0.25)
            info = {"array": np.arange(3), "number": np.int64(7), 5: np.bool_(True)}
        elif command == "long":
            self.total += 1000
            observation = [{"role": "user", "content": "x" * 5000}]
        elif command == "short":
            return observation, reward  # type: ignore[return-value]
        return observation, reward, np.bool_(command == "end"), command == "cut", info


class InlineProbe(Probe):
    """Runs inline."""


class ThreadProbe(Probe):
    """Runs in a thread."""

    execution = "thread"


class LiveProbe(Probe):
    """Runs in a thread and cannot be replayed."""

    execution = "thread"
    deterministic = False


class LiveInlineProbe(Probe):
    """Runs inline and cannot be replayed."""

    deterministic = False


class AsyncProbe(Probe):
    """Is awaited."""

    execution = "async"

    async def areset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, Any]:
        await asyncio.sleep(0)
        if controls.holds_resets:
            controls.entered.release()
            await until(controls.gate.is_set)
        return self.reset(seed=seed, options=options)

    async def astep(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        with _Busy(self):
            controls.note(str(action))
            if action == "wait":
                controls.entered.release()
                await until(controls.gate.is_set)
                controls.require("woken")
            else:
                await asyncio.sleep(0.002)
            return self._carry_out(str(action))

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.close()


class AsyncLiveProbe(AsyncProbe):
    """Is awaited and cannot be replayed."""

    deterministic = False


class _Busy:
    def __init__(self, env: Probe) -> None:
        self._env = env

    def __enter__(self) -> None:
        if self._env.busy or self._env.closed:
            controls.overlaps += 1
        self._env.busy = True

    def __exit__(self, *raised: object) -> None:
        self._env.busy = False
