"""An environment that runs on the event loop and raises whatever it is told to."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium

ENTRY_POINT = f"{__name__}:RudeEnv"

_RAISED: dict[str, type[BaseException]] = {
    "raise": RuntimeError,
    "exit": SystemExit,
    "interrupt": KeyboardInterrupt,
}


class RudeEnv(gymnasium.Env[Any, Any]):
    """Raises what its action names, or returns at once."""

    execution: ClassVar[str] = "inline"
    deterministic: ClassVar[bool] = True

    def __init__(self) -> None:
        self.action_space = gymnasium.spaces.Text(1000)
        self.observation_space = gymnasium.spaces.Text(1000)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        return [{"role": "user", "content": "well?"}], {"seed": seed}

    def step(self, action: Any) -> tuple[list[dict[str, Any]], float, bool, bool, dict[str, Any]]:
        if action in _RAISED:
            raise _RAISED[action]("told to")
        return [{"role": "user", "content": "fine"}], 1.0, False, False, {}
