"""Writes packages of one environment in several versions, as an author would release them."""

from __future__ import annotations

from pathlib import Path

ENV_NAME = "wayfarer/road-v0"

_SOURCE = '''
"""A road to walk along."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from verl_agent_env.envs.base import ChatEnv, EnvArguments
from verl_agent_env.envs.turn import Outcome
from verl_agent_env.messages import ToolCall
from verl_agent_env.messages.tools import Tool


class RoadArguments(EnvArguments):
    """Arguments of the road."""

    max_steps: int = 10_000
    """Moves after which the episode is truncated."""


class RoadEnv(ChatEnv):
    """Walk along a road."""

    env_name = "{env_name}"
    Arguments = RoadArguments
    execution = "{execution}"
    state_version = {state_version}
    tools = (Tool("walk", "Walk on."), Tool("turn", "Turn round."))

    def task_prompt_text(self) -> str:
        return "{prompt}"

    def begin_episode(self, options: Mapping[str, Any]) -> None:
        self.at = self.episode_seed * {start}
        self.way = 1

    def observe(self) -> str:
        return f"{prompt}, at {{self.at}}"

    def act(self, call: ToolCall) -> Outcome:
        if call.name == "turn":
            self.way = -self.way
        else:
            self.at += self.way * {stride}
        return Outcome(reward={reward})

{state}
'''

_STATE = """
    def dump_state(self) -> Any:
        return {written}

    def load_state(self, state: Any) -> None:
        {read}
"""

_STATES = {
    1: ("[self.at, self.way]", "self.at, self.way = state"),
    2: (
        "{'at': self.at, 'way': self.way, 'laps': 0}",
        "self.at, self.way = state['at'], state['way']",
    ),
}


def write_package(
    folder: Path,
    *,
    module: str = "wayfarer",
    prompt: str = "You walk along a road",
    stride: int = 1,
    start: int = 1,
    reward: str = "0.0",
    state_version: int | None = 1,
    execution: str = "inline",
) -> Path:
    """Write a version of the package to a folder that can be put on the path, entry point included.

    Args:
        folder: Where to.
        module: Name of the package; of two names, both versions can be loaded by one process.
        prompt: What is said, in different words in each version.
        stride: How far a step leads.
        start: The seed is multiplied by it.
        reward: Of a step, as Python.
        state_version: Form in which the state is kept; None for none.
        execution: How a server runs it.
    """
    state = ""
    if state_version is not None:
        written, read = _STATES[state_version]
        state = _STATE.format(written=written, read=read)
    source = _SOURCE.format(
        env_name=ENV_NAME,
        prompt=prompt,
        stride=stride,
        start=start,
        reward=reward,
        state_version=state_version or 1,
        execution=execution,
        state=state,
    )
    package, metadata = folder / module, folder / f"{module}-1.0.dist-info"
    for made in (package, metadata):
        made.mkdir(parents=True)
    (package / "__init__.py").write_text(source, "utf-8")
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n", "utf-8")
    entry = f"[verl_agent_env.envs]\n{ENV_NAME} = {module}:RoadEnv\n"
    (metadata / "entry_points.txt").write_text(entry, "utf-8")
    return folder
