"""An environment that blocks until a file appears: what a slow one does to a server in another process."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, ClassVar

import gymnasium

from tests.waiting import NEVER_S

ENTRY_POINT = f"{__name__}:GatedEnv"


class GatedEnv(gymnasium.Env[Any, Any]):
    """Waits in a thread for whatever file its action names.

    Action: ``{"entered": <file to make>, "gate": <file to wait for>}``, or anything else to return at once.
    """

    execution: ClassVar[str] = "thread"
    deterministic: ClassVar[bool] = False

    def __init__(self) -> None:
        self.action_space = gymnasium.spaces.Text(1000)
        self.observation_space = gymnasium.spaces.Text(1000)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        return [{"role": "user", "content": "waiting"}], {"seed": seed}

    def step(self, action: Any) -> tuple[list[dict[str, Any]], float, bool, bool, dict[str, Any]]:
        if action == "raise":
            raise RuntimeError("told to raise")
        if isinstance(action, dict) and "gate" in action:
            Path(action["entered"]).touch()
            end = time.monotonic() + NEVER_S
            while not Path(action["gate"]).exists() and time.monotonic() < end:
                time.sleep(0.005)
        return [{"role": "user", "content": "done"}], 1.0, False, False, {}


class ReplayedGatedEnv(GatedEnv):
    """The same, but it can be played again, and so lives on elsewhere."""

    deterministic: ClassVar[bool] = True
