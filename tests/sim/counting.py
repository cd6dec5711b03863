"""An environment that costs next to nothing, and whose answers tell every action that led to them."""

from __future__ import annotations

import zlib
from typing import Any, ClassVar

import gymnasium
import orjson

from verl_agent_env.envs.registry import EnvSpec, Registry

JOURNAL, SNAPSHOT = "sim/journal-v0", "sim/snapshot-v0"


class Counting(gymnasium.Env[Any, Any]):
    """A checksum over seed and actions."""

    deterministic: ClassVar[bool] = True
    execution: ClassVar[str] = "inline"
    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}  # type: ignore[misc]

    def __init__(self) -> None:
        self.state = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        """Begin at the seed."""
        self.state = seed or 0
        return self._look(), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        """Add the action to the checksum."""
        self.state = zlib.crc32(str(action).encode(), self.state)
        return self._look(), float(self.state % 7), False, False, {}

    def snapshot(self) -> bytes:
        """The checksum."""
        # Not with orjson, whose writer leaves a hole of kilobytes behind each of its texts.
        return b"%d" % self.state

    def restore(self, state: bytes) -> None:
        """Go on from a checksum."""
        self.state = orjson.loads(state)

    def _look(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": f"{self.state:08x}"}]


class UpgradedCounting(Counting):
    """The same in the words of another version."""

    def _look(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": f"{UPGRADED}{self.state:08x}"}]


# Another package has another fingerprint: to the server this is other code.
UpgradedCounting.__module__ = "upgraded.counting"
UPGRADED = "now "
"""How everything begins that the other version says."""


def counting_registry(*, is_upgraded: bool = False) -> Registry:
    """It, under one name for each way to keep it, in one of two versions."""
    entry = f"tests.sim.counting:{'Upgraded' if is_upgraded else ''}Counting"
    return Registry({name: EnvSpec(name, entry) for name in (JOURNAL, SNAPSHOT)})
