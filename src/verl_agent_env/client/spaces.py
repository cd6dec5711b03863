"""Gymnasium spaces of a remote environment: what it says and what it can be told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import orjson

from verl_agent_env.types import Action, Observation

_ROLES = frozenset({"system", "user", "assistant", "tool"})


class RemoteObservationSpace(gymnasium.Space[Observation]):
    """Non-empty lists of chat messages."""

    def __init__(self) -> None:
        super().__init__(shape=None, dtype=None)

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def contains(self, x: Any) -> bool:
        return isinstance(x, list) and bool(x) and all(map(_is_message, x))

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> Observation:
        return [{"role": "user", "content": f"message {int(self.np_random.integers(1000))}"}]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteObservationSpace)

    __hash__ = None  # type: ignore[assignment]


class RemoteActionSpace(gymnasium.Space[Action]):
    """Assistant messages with calls of the given tools, lists that hold some, and raw text."""

    def __init__(self, tools: Sequence[dict[str, Any]] = ()) -> None:
        """The space of these tools, in OpenAI's schema."""
        super().__init__(shape=None, dtype=None)
        self.tools = list(tools)

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def contains(self, x: Any) -> bool:
        if isinstance(x, str):
            return True
        if isinstance(x, list):
            return bool(x) and all(isinstance(message, dict) and self.contains(message) for message in x)
        return isinstance(x, dict) and x.get("role") == "assistant" and ("content" in x or "tool_calls" in x)

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> Action:
        """An assistant message: one call of a random tool, or text if there are none."""
        if not self.tools:
            return {"role": "assistant", "content": f"answer {int(self.np_random.integers(1000))}"}
        function = self.tools[int(self.np_random.integers(len(self.tools)))]["function"]
        arguments = _sample(function.get("parameters", {}), self.np_random)
        return {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": f"call_{int(self.np_random.integers(1 << 32)):08x}",
                    "type": "function",
                    "function": {"name": function["name"], "arguments": orjson.dumps(arguments).decode()},
                }
            ],
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteActionSpace) and self.tools == other.tools

    __hash__ = None  # type: ignore[assignment]


class RepeatedSpace(gymnasium.Space[Any]):
    """``num_envs`` members of one space, as a tuple; keeps one space, however many there are."""

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


def _is_message(message: Any) -> bool:
    return (
        isinstance(message, dict)
        and message.get("role") in _ROLES
        and isinstance(message.get("content"), str | list)
    )


def _sample(schema: dict[str, Any], rng: np.random.Generator) -> Any:
    """A value of a JSON Schema, as far as tools use it; a server tells the model about anything else."""
    for known in ("examples", "enum"):
        if schema.get(known):
            return schema[known][int(rng.integers(len(schema[known])))]
    if "const" in schema:
        return schema["const"]
    low = int(schema.get("minimum", 0))
    match schema.get("type"):
        case "object":
            properties = schema.get("properties", {})
            return {
                name: _sample(inner, rng) for name, inner in properties.items() if isinstance(inner, dict)
            }
        case "array":
            return []
        case "integer":
            return int(rng.integers(low, int(schema.get("maximum", low + 9)) + 1))
        case "number":
            return float(low + rng.random())
        case "boolean":
            return bool(rng.integers(2))
        case "null":
            return None
    return f"text {int(rng.integers(10))}"
