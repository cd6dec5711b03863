"""Gymnasium spaces of chat observations and tool-call actions, built once per class and shared by its instances."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import gymnasium
import orjson

from verl_agent_env.envs.sampling import sample_value
from verl_agent_env.messages import Tool, action_schema
from verl_agent_env.types import Action, Observation

_ROLES = frozenset({"user", "tool", "system", "assistant"})


class ObservationSpace(gymnasium.Space[Observation]):
    """Space of lists of chat messages with ``role`` and ``content``; tool messages name their call."""

    def __init__(self) -> None:
        super().__init__(shape=None, dtype=None)

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def contains(self, x: Any) -> bool:
        return isinstance(x, list) and bool(x) and all(is_message(message) for message in x)

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> Observation:
        return [{"role": "user", "content": f"message {int(self.np_random.integers(1000))}"}]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObservationSpace)

    __hash__ = None  # type: ignore[assignment]


class ActionSpace(gymnasium.Space[Action]):
    """Space of assistant messages with calls of the given tools, lists that hold some, and raw text.

    ``contains`` checks the form only; environments also answer actions outside of the space.
    """

    def __init__(self, tools: Sequence[Tool], *, parallel: bool) -> None:
        super().__init__(shape=None, dtype=None)
        self.tools = tuple(tools)
        self.parallel = parallel

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
        """Sample an assistant message: one call of a random tool with random arguments, or text without tools."""
        if not self.tools:
            return {"role": "assistant", "content": f"answer {int(self.np_random.integers(1000))}"}
        tool = self.tools[int(self.np_random.integers(len(self.tools)))]
        arguments = sample_value(tool.parameters, self.np_random)
        return {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": f"call_{int(self.np_random.integers(1 << 32)):08x}",
                    "type": "function",
                    "function": {"name": tool.name, "arguments": orjson.dumps(arguments).decode()},
                }
            ],
        }

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON Schema (Draft 2020-12) of a valid action."""
        return action_schema(self.tools, parallel=self.parallel)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActionSpace) and (self.tools, self.parallel) == (other.tools, other.parallel)

    __hash__ = None  # type: ignore[assignment]


def action_space_for(tools: tuple[Tool, ...], *, parallel: bool) -> ActionSpace:
    """Return the shared action space of these tools."""
    return _action_space(_Identity(tools), parallel)


class _Identity:
    """Hashable key of a tuple of tools, compared by the tools' identities."""

    def __init__(self, tools: tuple[Tool, ...]) -> None:
        self.tools = tools
        self._key = tuple(id(tool) for tool in tools)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self._key == other._key


@functools.lru_cache(maxsize=256)
def _action_space(identity: _Identity, parallel: bool) -> ActionSpace:
    return ActionSpace(identity.tools, parallel=parallel)


def is_message(message: Any) -> bool:
    """Return true if ``message`` has a known role, a content of text or parts, and, for a tool message, the id of its call."""
    if not isinstance(message, dict) or message.get("role") not in _ROLES:
        return False
    if message["role"] == "tool" and not isinstance(message.get("tool_call_id"), str):
        return False
    content = message.get("content")
    return isinstance(content, str) or (
        isinstance(content, list) and all(isinstance(part, dict) and "type" in part for part in content)
    )
