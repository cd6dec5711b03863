"""Tools of an environment, in the schemas of OpenAI and Anthropic, and the schema of a valid action."""

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
    """Tool: its name, its description, and the JSON Schema of its arguments."""

    name: str
    description: str
    parameters: dict[str, Any] = field(default_factory=lambda: _NO_PARAMETERS)
    """JSON Schema (Draft 2020-12) of an object. Samples of actions come from its ``examples`` lists."""

    def fault(self, arguments: dict[str, Any]) -> str | None:
        """Describe the fault of ``arguments`` for the model: missing ones and wrong types; ``None`` if there is none.

        Unknown arguments are ignored, as models add some.
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

    def permitted(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return those arguments that the schema permits: all of them, unless it excludes additional ones."""
        schema = self.parameters
        if schema.get("additionalProperties") is not False or "patternProperties" in schema:
            return arguments
        properties = schema.get("properties", {})
        return {name: value for name, value in arguments.items() if name in properties}

    @classmethod
    def from_openai(cls, schema: Mapping[str, Any]) -> Tool:
        """Make a tool from the result of :meth:`openai`."""
        function = schema["function"]
        return cls(function["name"], function.get("description", ""), function.get("parameters", {}))

    def openai(self) -> dict[str, Any]:
        """Return the tool in the form of OpenAI's chat-completions API."""
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description,
                "parameters": self.parameters,
            },
        }

    def anthropic(self) -> dict[str, Any]:
        """Return the tool in the form of Anthropic's messages API."""
        return {"name": self.name, "description": self.description, "input_schema": self.parameters}


def action_schema(tools: Sequence[Tool], *, parallel: bool, takes_text: bool = True) -> dict[str, Any]:
    """Return the JSON Schema (Draft 2020-12) of a valid action: an assistant message, a list with one, or raw text.

    Args:
        tools: Available tools.
        parallel: True if one message may hold several calls.
        takes_text: True if a message without tool calls, or raw text, is an action.
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
