"""The reference server of ORS around the frozen lake: ``uvicorn loadtests.peers.ors_app:app``, where ``openreward`` is installed."""

from __future__ import annotations

from typing import Any

from openreward.environments import Environment, Server, TextBlock, ToolOutput, tool
from pydantic import BaseModel

from loadtests.peers.lake import new_lake, text_of


class Nothing(BaseModel):
    """Input of a tool without arguments."""


class FrozenLake(Environment):
    """The frozen lake, as the reference server has environments."""

    def __init__(self, task_spec: dict[str, Any] = {}, secrets: dict[str, str] = {}) -> None:  # noqa: B006
        super().__init__(task_spec, secrets)
        self._env = new_lake()
        self._observation, _ = self._env.reset(seed=task_spec.get("seed", 0))

    @classmethod
    def name(cls) -> str:
        """Name the environment as this project does."""
        return "frozen_lake"

    @classmethod
    def list_splits(cls) -> list[str]:
        """Name the splits."""
        return ["train"]

    @classmethod
    def list_tasks(cls, split: str) -> list[dict[str, Any]]:
        """List the tasks of a split."""
        return [{"split": split, "seed": seed} for seed in range(4096)]

    def get_prompt(self) -> list[TextBlock]:
        """Show what the episode began with."""
        return [TextBlock(text=text_of(self._observation))]

    @tool
    def move_right(self, params: Nothing) -> ToolOutput:
        """Go right."""
        return self._moved("right")

    @tool
    def move_left(self, params: Nothing) -> ToolOutput:
        """Go left."""
        return self._moved("left")

    def _moved(self, direction: str) -> ToolOutput:
        observation, reward, terminated, truncated, info = self._env.step(f"<action>{direction}</action>")
        return ToolOutput(
            blocks=[TextBlock(text=text_of(observation))],
            metadata={**info, "terminated": terminated, "truncated": truncated},
            reward=reward,
            finished=terminated or truncated,
        )


app = Server([FrozenLake]).app
