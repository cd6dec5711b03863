"""Methods of a class made of an environment's tools, with the types and the docstring from which TRL makes a tool's schema."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from verl_agent_env.integrations.errors import TrainingSetupError
from verl_agent_env.messages.tools import Tool

RESERVED = ("reset", "get_reward")
"""Methods that TRL calls itself."""

_TYPES: dict[str, Any] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}


def method_of(tool: Tool, call: Callable[[Any, str, dict[str, Any]], Any]) -> Callable[..., Any]:
    """Make the method of a tool.

    Args:
        tool: Its name, description and the JSON Schema of its arguments.
        call: Called with the instance, the tool's name and the arguments that were given, whatever their names: the
            environment answers wrong ones.

    Raises:
        TrainingSetupError: The tool or an argument has a name that no method of TRL can have.
    """
    if tool.name in RESERVED or tool.name.startswith("_"):
        raise TrainingSetupError(
            f"TRL cannot offer the tool '{tool.name}': it calls methods of this name itself, or takes them for private."
        )

    def method(self: Any, /, **arguments: Any) -> Any:
        return call(self, tool.name, arguments)

    properties: Mapping[str, Any] = tool.parameters.get("properties", {})
    required: Sequence[str] = tool.parameters.get("required", ())
    # Python wants those without a default first.
    names = sorted(properties, key=lambda name: name not in required)
    annotations = {name: type_of(properties[name], optional=name not in required) for name in names}
    try:
        parameters = [
            _parameter(name, annotations[name], properties[name], name in required) for name in names
        ]
        signature = inspect.Signature([_SELF, *parameters], return_annotation=str)
    except ValueError as error:
        raise TrainingSetupError(f"TRL cannot offer the tool '{tool.name}': {error}.") from None
    method.__name__ = tool.name
    method.__qualname__ = f"ToolEnvironment.{tool.name}"
    method.__doc__ = _docstring(tool, {name: properties[name] for name in names})
    method.__annotations__ = {**annotations, "return": str}
    method.__signature__ = signature  # type: ignore[attr-defined]
    return method


def type_of(schema: Any, *, optional: bool = False) -> Any:
    """Return the Python type of a value with this JSON Schema; ``Any`` where there is none.

    Args:
        schema: Of the value; may be a truth value, as JSON Schema allows.
        optional: True to allow None, too: the value of an argument that is not given.
    """
    found = _type_in(schema) if isinstance(schema, Mapping) else Any
    return found | None if optional and found is not Any else found


def _type_in(schema: Mapping[str, Any]) -> Any:
    choices = schema.get("enum")
    if isinstance(choices, list) and choices and all(isinstance(one, str | int | bool) for one in choices):
        return Literal[tuple(choices)]
    options = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(options, list) and options:
        return _union([type_of(option) for option in options])
    kinds = schema.get("type")
    if isinstance(kinds, list) and kinds:
        return _union([_type_in({**schema, "type": kind}) for kind in kinds])
    if kinds == "array" and isinstance(schema.get("items"), Mapping):
        return list[_type_in(schema["items"])]  # type: ignore[misc]
    return _TYPES.get(str(kinds), Any)


def _union(types: list[Any]) -> Any:
    if Any in types:
        return Any
    union = types[0]
    for one in types[1:]:
        union = union | one
    return union


_SELF = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _parameter(name: str, annotation: Any, schema: Any, required: bool) -> inspect.Parameter:
    default: Any = inspect.Parameter.empty
    if not required:
        default = schema.get("default") if isinstance(schema, Mapping) else None
    return inspect.Parameter(
        name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=annotation
    )


def _docstring(tool: Tool, properties: Mapping[str, Any]) -> str:
    lines = [tool.description or tool.name]
    if properties:
        lines += ["", "Args:"]
    for name, schema in properties.items():
        told = schema.get("description") if isinstance(schema, Mapping) else None
        # In one line: TRL would take a line with a colon for the next argument.
        lines.append(f"    {name}: {' '.join(str(told or name).split())}")
    return "\n".join(lines)
