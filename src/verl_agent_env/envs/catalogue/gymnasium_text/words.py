"""Words for the values of Gymnasium's spaces, and tools for their actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from verl_agent_env.messages import Tool

_MAX_NUMBERS = 64
_MAX_NAMES = 256
_TEXT = "text"
_ACTION = "action"


def lacks_words(space: Space[Any]) -> str:
    """Explain why a model cannot be shown values of a space; empty if it can."""
    match space:
        case spaces.Text() | spaces.Discrete() | spaces.MultiDiscrete() | spaces.MultiBinary():
            return ""
        case spaces.Box():
            count = int(np.prod(space.shape))
            return "" if count <= _MAX_NUMBERS else f"a Box of {count} numbers"
        case spaces.Dict():
            return next((fault for inner in space.values() if (fault := lacks_words(inner))), "")
        case spaces.Tuple():
            return next((fault for inner in space.spaces if (fault := lacks_words(inner))), "")
    return f"a {type(space).__name__}"


def words_of(value: Any) -> str:
    """A value of a space in words: text as it is, numbers as numbers, a dictionary a line for each key."""
    match value:
        case str():
            return value
        case Mapping():
            return "\n".join(f"{key}: {words_of(inner)}" for key, inner in value.items())
        case tuple() | list():
            return ", ".join(words_of(inner) for inner in value)
        case np.ndarray():
            return str([round(float(number), 4) for number in value.ravel()])
        case float() | np.floating():
            return f"{float(value):.4g}"
        case bool() | np.bool_():
            return "yes" if value else "no"
    return str(value)


class ActionWords:
    """Form of a space's actions: a tool whose arguments are the action's parts, and words where an action is one."""

    def __init__(self, space: Space[Any], names: Sequence[str]) -> None:
        """Find words for all actions.

        Args:
            space: Discrete, Text, or a Dict of these.
            names: Of the values of a Discrete space, from its first; numbers where there are none.

        Raises:
            ValueError: There are none for this space.
        """
        self._space = space
        self._names = names
        parts = space.spaces if isinstance(space, spaces.Dict) else {self._part_name(space): space}
        self._parts: dict[str, Space[Any]] = dict(parts)
        properties = {str(name): self._schema(inner) for name, inner in self._parts.items()}
        self.tool = Tool(
            "act",
            "Act.",
            {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            },
        )

    def arguments_of_word(self, word: str) -> dict[str, Any] | None:
        """The tool's arguments that a word stands for; ``None`` where an action has several parts."""
        if isinstance(self._space, spaces.Dict):
            return None
        (name,) = self._parts
        return {name: word.strip()}

    def action_of(self, arguments: Mapping[str, Any]) -> Any:
        """The action that the tool's arguments stand for.

        Raises:
            ValueError: It is none of the space; the text is for the model.
        """
        values = {name: self._value(inner, arguments[str(name)]) for name, inner in self._parts.items()}
        action = values if isinstance(self._space, spaces.Dict) else next(iter(values.values()))
        if not self._space.contains(action):
            raise ValueError(f"{words_of(action)!r:.80} is not an action of this environment.")
        return action

    @staticmethod
    def _part_name(space: Space[Any]) -> str:
        return _TEXT if isinstance(space, spaces.Text) else _ACTION

    def _schema(self, space: Space[Any]) -> dict[str, Any]:
        match space:
            case spaces.Text():
                return {"type": "string", "minLength": space.min_length, "maxLength": space.max_length}
            case spaces.Discrete() if space.n <= _MAX_NAMES:
                return {"type": "string", "enum": self._names_of(space)}
        raise ValueError(f"its action space is {space}, which has no words")

    def _names_of(self, space: spaces.Discrete) -> list[str]:
        start, count = int(space.start), int(space.n)
        if len(self._names) == count:
            return [str(name) for name in self._names]
        return [str(number) for number in range(start, start + count)]

    def _value(self, space: Space[Any], said: Any) -> Any:
        if not isinstance(space, spaces.Discrete):
            return said
        names = [name.casefold() for name in self._names_of(space)]
        if str(said).strip().casefold() not in names:
            raise ValueError(f"'{said!s:.60}' is none of {', '.join(self._names_of(space))}.")
        return np.int64(space.start + names.index(str(said).strip().casefold()))
