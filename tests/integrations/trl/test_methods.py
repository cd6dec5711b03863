"""Methods that are made of tools."""

from __future__ import annotations

import inspect
from typing import Any, Literal

import pytest

from verl_agent_env.integrations.errors import TrainingSetupError
from verl_agent_env.integrations.trl.methods import method_of, type_of
from verl_agent_env.messages.tools import Tool


def search(properties: dict[str, Any]) -> Tool:
    return Tool("search", "Find pages.", {"type": "object", "properties": properties, "required": ["query"]})


def made(given: Tool) -> Any:
    return method_of(given, lambda _, name, arguments: (name, arguments))


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string"}, str),
        ({"type": "integer"}, int),
        ({"type": "number"}, float),
        ({"type": "boolean"}, bool),
        ({"type": "object"}, dict),
        ({"type": "array"}, list),
        ({"type": "array", "items": {"type": "integer"}}, list[int]),
        ({"type": "array", "items": {"type": ["integer", "string"]}}, list[int | str]),
        ({"type": ["string", "null"]}, str | None),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, int | None),
        ({"enum": ["a", "b"], "type": "string"}, Literal["a", "b"]),
        ({}, Any),
        (True, Any),
        ({"type": "no such"}, Any),
        ({"anyOf": [{}, {"type": "string"}]}, Any),
    ],
)
def test_types_of_schemas(schema: Any, expected: Any) -> None:
    assert type_of(schema) == expected


def test_the_method_has_types_defaults_and_a_docstring() -> None:
    properties = {
        "limit": {"type": "integer", "description": "At most\n  so: many.", "default": 3},
        "query": {"type": "string", "description": "What to find."},
        "site": {"type": "string"},
    }
    method = made(search(properties))
    signature = inspect.signature(method)
    assert list(signature.parameters) == ["self", "query", "limit", "site"]
    assert [parameter.default for parameter in signature.parameters.values()][1:] == [
        inspect.Parameter.empty,
        3,
        None,
    ]
    assert method.__annotations__ == {"query": str, "limit": int | None, "site": str | None, "return": str}
    assert method.__name__ == "search"
    assert method.__doc__.splitlines() == [
        "Find pages.",
        "",
        "Args:",
        "    query: What to find.",
        "    limit: At most so: many.",
        "    site: site",
    ]


def test_arguments_go_on_as_they_were_given() -> None:
    method = made(search({"query": {"type": "string"}}))
    # Models leave arguments out and add some; the environment answers that.
    assert method(object(), self=1, query=["x"], **{"no-name": 2}) == (
        "search",
        {"self": 1, "query": ["x"], "no-name": 2},
    )
    assert method(object()) == ("search", {})


@pytest.mark.parametrize("name", ["reset", "get_reward", "_private"])
def test_a_tool_with_a_name_of_trl_is_refused(name: str) -> None:
    with pytest.raises(TrainingSetupError, match=name):
        made(Tool(name, "Does it."))


@pytest.mark.parametrize("name", ["no-name", "self", "class"])
def test_an_argument_that_python_cannot_name_is_refused(name: str) -> None:
    with pytest.raises(TrainingSetupError, match="search"):
        made(search({name: {"type": "string"}}))
