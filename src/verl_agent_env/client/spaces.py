"""Gymnasium spaces of environments on a server, equal to those of the environments themselves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gymnasium

from verl_agent_env.envs.spaces import ActionSpace
from verl_agent_env.messages import Tool


def action_space_of(tools: Iterable[dict[str, Any]], *, parallel: bool) -> ActionSpace:
    """Return the action space of tools.

    Args:
        tools: Tools in OpenAI's schema.
        parallel: True if one action may hold several calls.
    """
    return ActionSpace([Tool.from_openai(tool) for tool in tools], parallel=parallel)


class RepeatedSpace(gymnasium.Space[Any]):
    """Tuples of ``num_envs`` members of one space; takes the memory of one space."""

    def __init__(self, space: gymnasium.Space[Any], num_envs: int) -> None:
        super().__init__(shape=None, dtype=None)
        self.space = space
        self.num_envs = num_envs

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def seed(self, seed: int | None = None) -> Any:
        return self.space.seed(seed)

    def contains(self, x: Any) -> bool:
        return isinstance(x, tuple | list) and len(x) == self.num_envs and all(map(self.space.contains, x))

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> tuple[Any, ...]:
        return tuple(self.space.sample() for _ in range(self.num_envs))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RepeatedSpace) and (self.space, self.num_envs) == (
            other.space,
            other.num_envs,
        )

    __hash__ = None  # type: ignore[assignment]
