"""An environment with a state whose snapshots can be told to fail, in each way to run and to be kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium
import orjson

from verl_agent_env.envs.registry import EnvSpec

MODULE = "tests.engine.persistence.ledger"


class Ledger(gymnasium.Env[Any, Any]):
    """Adds up the numbers that it is given."""

    deterministic: ClassVar[bool] = True
    execution: ClassVar[str] = "inline"
    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}  # type: ignore[misc]
    broken: ClassVar[Any] = None
    """What ``snapshot`` raises or gives in place of the state, for all of them."""
    on_restore: ClassVar[Callable[[], object]] = staticmethod(lambda: None)
    """Called while one of them is restored."""

    def __init__(self, **kwargs: Any) -> None:
        self.total = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        """Begin at the seed."""
        self.total = seed or 0
        return self._look(), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        """Add the action; ``raise`` raises when it is added."""
        if action == "raise":
            self.total += 1_000
            raise ValueError("told to")
        self.total += int(action)
        return self._look(), 0.0, False, False, {}

    def snapshot(self) -> bytes:
        """The sum."""
        if isinstance(Ledger.broken, BaseException):
            raise Ledger.broken
        state: bytes = Ledger.broken if Ledger.broken is not None else orjson.dumps(self.total)
        return state

    def restore(self, state: bytes) -> None:
        """Go on from a sum."""
        Ledger.on_restore()
        self.total = orjson.loads(state)

    def _look(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": str(self.total)}]


class InlineLedger(Ledger):
    """Runs inline."""


class ThreadLedger(Ledger):
    """Runs in a thread."""

    execution = "thread"


class LiveLedger(Ledger):
    """Runs inline and cannot be played again."""

    deterministic = False


class LiveThreadLedger(ThreadLedger):
    """Runs in a thread and cannot be played again."""

    deterministic = False


class AsyncLedger(Ledger):
    """Is awaited."""

    execution = "async"

    async def areset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, Any]:
        """See :meth:`Ledger.reset`."""
        return self.reset(seed=seed, options=options)

    async def astep(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        """See :meth:`Ledger.step`."""
        return self.step(action)

    async def aclose(self) -> None:
        """Free nothing."""


PLAYED_AGAIN = ("inline", "thread", "async")
LIVE = ("live", "live_thread")
SPECS = tuple(
    EnvSpec(f"ledger/{kind}-v0", f"{MODULE}:{kind.title().replace('_', '')}Ledger")
    for kind in (*PLAYED_AGAIN, *LIVE)
)
