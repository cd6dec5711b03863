"""Countdowns written for the version before: hooks under the names that they had then."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from verl_agent_env.envs.base import ChatEnv
from verl_agent_env.envs.turn import Outcome
from verl_agent_env.messages import Tool, ToolCall
from verl_agent_env.types import Action, Content


class LaunchEnv(ChatEnv):
    """Count down from three, then launch.

    ## Action Space

    Two tools without arguments, ``count`` and, in the place of both after the last count, ``launch``.

    ## Observation

    The count.

    ## Rewards

    1 for the launch, -0.5 for a turn in which nothing is done.

    ## Episode End

    Terminated by the launch; truncated after ``max_steps`` moves (100).

    ## Arguments

    See :class:`EnvArguments`.
    """

    env_name = "acme/launch-v0"
    tools = (Tool("count", "Count down by one."), Tool("launch", "Launch."))

    def task_prompt_text(self) -> str:
        return "Count down to zero, then launch."

    def begin_episode(self, options: Mapping[str, Any]) -> None:
        self._count = 3

    def look(self) -> Content:
        return f"{self._count} left."

    def first_look(self) -> Content:
        return f"Ready? {super().first_look()}"

    def idle_reward(self) -> float:
        return super().idle_reward() - 0.5

    def guess(self, dice: random.Random) -> Action:
        return "launch" if self._count == 0 else dice.choice(["count", "count."])

    def act(self, call: ToolCall) -> Outcome:
        if (call.name == "launch") != (self._count == 0):
            return Outcome(fault="Not now.", effective=False)
        if call.name == "launch":
            return Outcome("Lift-off!", 1.0, terminated=True, success=True)
        self._count -= 1
        if self._count == 0:
            self._offer(self.tools[1:])
        return Outcome()

    def dump_state(self) -> Any:
        return self._count

    def load_state(self, state: Any) -> None:
        self._count = state


class LoudLaunchEnv(LaunchEnv):
    """A launch with an exclamation mark; as :class:`LaunchEnv` otherwise.

    ## Action Space

    As :class:`LaunchEnv`.

    ## Observation

    As :class:`LaunchEnv`, but loud.

    ## Rewards

    As :class:`LaunchEnv`.

    ## Episode End

    As :class:`LaunchEnv`.

    ## Arguments

    See :class:`EnvArguments`.
    """

    env_name = "acme/loud_launch-v0"

    def look(self) -> Content:
        return f"{super().look()}!"
