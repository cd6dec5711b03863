"""Tools: their schemas, what is wrong with arguments, the schema of an action."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from verl_agent_env.messages import Tool, action_schema

MOVE = Tool("move", "Move.")
TYPED: dict[str, Any] = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "share": {"type": "number"},
        "flag": {"type": "boolean"},
        "items": {"type": "array"},
        "either": {"type": ["string", "null"]},
        "any": True,
    },
    "required": ["text"],
}
TOOL = Tool("write", "Write.", TYPED)


@pytest.mark.parametrize(
    "arguments",
    [
        {"text": ""},
        {"text": "a", "count": 1, "share": 0.5, "flag": True, "items": [], "either": None, "any": {}},
        {"text": "a", "share": 1, "either": "b", "unknown": object()},
    ],
)
def test_fitting_arguments_have_no_fault(arguments: dict[str, Any]) -> None:
    assert TOOL.fault(arguments) is None


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({}, "text"),
        ({"count": 1}, "text"),
        ({"text": 5}, "string"),
        ({"text": "", "count": 1.5}, "count"),
        ({"text": "", "count": True}, "count"),
        ({"text": "", "flag": 1}, "flag"),
        ({"text": "", "share": "1"}, "share"),
        ({"text": "", "items": {}}, "items"),
        ({"text": "", "either": 5}, "string or null"),
    ],
)
def test_fault_names_what_is_wrong(arguments: dict[str, Any], named: str) -> None:
    assert named in str(TOOL.fault(arguments))


def test_tool_without_parameters_takes_anything() -> None:
    assert MOVE.fault({}) is None
    assert MOVE.fault({"extra": 1}) is None


@pytest.mark.parametrize(
    ("parameters", "permitted"),
    [
        ({}, {"text", "more"}),
        ({"properties": {"text": {}}}, {"text", "more"}),
        ({"properties": {"text": {}}, "additionalProperties": True}, {"text", "more"}),
        ({"properties": {"text": {}}, "additionalProperties": {"type": "string"}}, {"text", "more"}),
        ({"properties": {"text": {}}, "additionalProperties": False}, {"text"}),
        ({"patternProperties": {"^m": {}}, "additionalProperties": False}, {"text", "more"}),
        ({"additionalProperties": False}, set()),
    ],
)
def test_arguments_that_the_schema_excludes_are_left_out(
    parameters: dict[str, Any], permitted: set[str]
) -> None:
    arguments = {"text": "", "more": "x"}
    assert Tool("write", "Write.", parameters).permitted(arguments) == {
        name: arguments[name] for name in permitted
    }


def test_schemas_of_both_apis_hold_the_same() -> None:
    assert TOOL.openai() == {
        "type": "function",
        "function": {"name": "write", "description": "Write.", "parameters": TYPED},
    }
    assert TOOL.anthropic() == {"name": "write", "description": "Write.", "input_schema": TYPED}


def call(name: str = "move") -> dict[str, Any]:
    return {"id": "c", "type": "function", "function": {"name": name, "arguments": "{}"}}


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("takes_text", [False, True])
def test_action_schema_says_what_is_valid(parallel: bool, takes_text: bool) -> None:
    schema = action_schema([MOVE], parallel=parallel, takes_text=takes_text)
    Draft202012Validator.check_schema(schema)
    valid = Draft202012Validator(schema).is_valid
    one = {"role": "assistant", "tool_calls": [call()]}
    assert valid(one)
    assert valid([one])
    assert valid({"role": "assistant", "content": None, "tool_calls": [call(), call()]}) is parallel
    assert valid("up") is takes_text
    assert valid({"role": "assistant", "content": "up"}) is takes_text
    assert not valid({"role": "user", "content": "up"})
    assert not valid({"role": "assistant", "tool_calls": [call("fly")]})
    assert not valid([])
    assert not valid(5)


def test_without_tools_an_action_is_text() -> None:
    valid = Draft202012Validator(action_schema([], parallel=False)).is_valid
    assert valid("hello")
    assert valid({"role": "assistant", "content": "hello"})
    assert not valid({"role": "assistant"})
