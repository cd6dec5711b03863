"""Tools that an environment offers, in the schemas of OpenAI and Anthropic, and the schema of a valid action."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_NO_PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {},
    "required": [],
    "additionalProperties": False,
}

_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}

DRAFT = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool: what it is called, what it does, and the JSON Schema of its arguments."""

    name: str
    description: str
    parameters: dict[str, Any] = field(default_factory=lambda: _NO_PARAMETERS)
    """JSON Schema (Draft 2020-12) of an object. An ``examples`` list in it serves to sample actions."""

    def fault(self, arguments: dict[str, Any]) -> str | None:
        """What is wrong with ``arguments``, for the model to read: missing ones and those of a wrong type.

        Arguments that the tool does not know are passed over: models add some.
        """
        if not arguments and not self.parameters.get("required"):
            return None
        for name in self.parameters.get("required", ()):
            if name not in arguments:
                return f"The tool '{self.name}' needs the argument '{name}'."
        properties = self.parameters.get("properties", {})
        for name, value in arguments.items():
            schema = properties.get(name)
            # A schema may also be a truth value, and a type a list of them.
            expected = schema.get("type") if isinstance(schema, dict) else None
            types = [expected] if isinstance(expected, str) else expected or []
            if types and not any(_is_json_type(value, one) for one in types):
                return f"The argument '{name}' of '{self.name}' must be of type {' or '.join(types)}."
        return None

    @classmethod
    def from_openai(cls, schema: Mapping[str, Any]) -> Tool:
        """The tool that :meth:`openai` gave the schema of."""
        function = schema["function"]
        return cls(function["name"], function.get("description", ""), function.get("parameters", {}))

    def openai(self) -> dict[str, Any]:
        """The tool as OpenAI's chat-completions API takes it."""
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description,
                "parameters": self.parameters,
            },
        }

    def anthropic(self) -> dict[str, Any]:
        """The tool as Anthropic's messages API takes it."""
        return {"name": self.name, "description": self.description, "input_schema": self.parameters}


def action_schema(tools: Sequence[Tool], *, parallel: bool, takes_text: bool = True) -> dict[str, Any]:
    """JSON Schema (Draft 2020-12) of a valid action: an assistant message, a list with one, or raw text.

    Args:
        tools: What may be called.
        parallel: Whether one message may hold several calls.
        takes_text: Whether a message without tool calls, or raw text, is an action.
    """
    message: dict[str, Any] = {
        "type": "object",
        "properties": {"role": {"const": "assistant"}, "content": _CONTENT},
        "required": ["role"],
    }
    if tools:
        calls: dict[str, Any] = {"type": "array", "items": {"anyOf": [_call_schema(tool) for tool in tools]}}
        if not parallel:
            calls["maxItems"] = 1
        if not takes_text:
            calls["minItems"] = 1
            message["required"] = ["role", "tool_calls"]
        message["properties"]["tool_calls"] = calls
    if not tools:
        message["required"] = ["role", "content"]
    reference = {"$ref": "#/$defs/assistant_message"}
    options: list[dict[str, Any]] = [reference, {"type": "array", "items": reference, "minItems": 1}]
    if takes_text:
        options.append({"type": "string"})
    return {
        "$schema": DRAFT,
        "title": "Action",
        "$defs": {"assistant_message": message},
        "anyOf": options,
    }


_CONTENT: dict[str, Any] = {
    "anyOf": [{"type": "string"}, {"type": "null"}, {"type": "array", "items": {"type": "object"}}]
}


def _is_json_type(value: object, expected: str) -> bool:
    if isinstance(value, bool):
        return expected == "boolean"
    return isinstance(value, _PYTHON_TYPES[expected])


def _call_schema(tool: Tool) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "type": {"const": "function"},
            "function": {
                "type": "object",
                "properties": {
                    "name": {"const": tool.name},
                    "arguments": {
                        "type": "string",
                        "contentMediaType": "application/json",
                        "contentSchema": tool.parameters,
                    },
                },
                "required": ["name", "arguments"],
            },
        },
        "required": ["type", "function"],
    }
