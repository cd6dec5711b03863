"""Echo: a plain ``gymnasium.Env`` that knows of this project only its spaces, and blocks a little."""

from __future__ import annotations

import time
from typing import Any

import gymnasium

from verl_agent_env.envs.spaces import ActionSpace, ObservationSpace


class EchoEnv(gymnasium.Env[Any, Any]):
    """Answer each message with how often a message came, a few times.

    Args:
        num_turns: Turns until the episode is over.
        delay_s: How long each step blocks, as a call of a service would, in seconds.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - as Gymnasium declares it
    observation_space = ObservationSpace()
    action_space = ActionSpace((), parallel=False)
    execution = "thread"

    def __init__(self, render_mode: str | None = None, num_turns: int = 5, delay_s: float = 0.001) -> None:
        self.render_mode = render_mode
        self._num_turns = num_turns
        self._delay_s = delay_s
        self._turn = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        super().reset(seed=seed)
        self._turn = 0
        number = int(self.np_random.integers(1000))
        return [{"role": "user", "content": f"Talk to me about {number}."}], {}

    def step(self, action: Any) -> tuple[list[dict[str, Any]], float, bool, bool, dict[str, Any]]:
        time.sleep(self._delay_s)
        self._turn += 1
        said = [{"role": "user", "content": f"That was turn {self._turn}."}]
        return said, 0.0, self._turn >= self._num_turns, False, {"turn": self._turn}
