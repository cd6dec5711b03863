"""Malformed actions, which every environment must answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_HUGE = 200_000


def malformed_actions(tool_name: str) -> Iterator[tuple[str, Any]]:
    """Yield pairs of a description and an action; ``tool_name`` is a tool that the environment has, or any word."""
    yield from _WRONG_TYPES
    yield from _texts()
    for description, call in _calls(tool_name):
        yield f"tool call {description}", _message([call])
    for description, tool_calls in _TOOL_CALLS:
        yield f"tool_calls {description}", {"role": "assistant", "content": None, "tool_calls": tool_calls}
    for description, content in _CONTENTS:
        yield f"content {description}", {"role": "assistant", "content": content}
    yield from _lists(tool_name)


def _message(tool_calls: list[Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": "", "tool_calls": tool_calls}


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


_WRONG_TYPES: tuple[tuple[str, Any], ...] = (
    ("None", None),
    ("a number", 5),
    ("a float", float("nan")),
    ("a truth value", True),
    ("bytes", b"\xff"),
    ("an empty list", []),
    ("an empty object", {}),
    ("an object of other things", {"foo": {"bar": 1}}),
    ("a message of the user", {"role": "user", "content": "hello"}),
    ("a role of a wrong type", {"role": 5, "content": {}}),
    ("nothing but a role", {"role": "assistant"}),
    ("deep nesting", _nested(5_000)),
)

_TOOL_CALLS: tuple[tuple[str, Any], ...] = (
    ("none", None),
    ("an empty list", []),
    ("text", "move"),
    ("a number", 7),
    ("an object", {"name": "x"}),
    ("a list of nothing", [None, 3, "x", [], {}]),
    ("deeply nested", _nested(5_000)),
)

_CONTENTS: tuple[tuple[str, Any], ...] = (
    ("none", None),
    ("a number", 3),
    ("an object", {"type": "text", "text": "up"}),
    ("an empty list", []),
    ("a list of nothing", [None, 3, [], {}, {"type": 5}, {"type": "text", "text": None}]),
    ("a picture", [{"type": "image_url", "image_url": {"url": "data:,"}}]),
    ("an empty tool use", [{"type": "tool_use"}]),
    ("a tool use of wrong types", [{"type": "tool_use", "id": 5, "name": [], "input": "no"}]),
    ("a tool use of unknown name", [{"type": "tool_use", "id": "t", "name": "no_such_tool", "input": {}}]),
    (
        "a tool use that JSON cannot hold",
        [{"type": "tool_use", "id": "t", "name": "x", "input": {"a": "\ud800", "b": 1 << 200}}],
    ),
)


def _calls(tool_name: str) -> Iterator[tuple[str, Any]]:
    arguments: tuple[tuple[str, Any], ...] = (
        ("without JSON", "{not json"),
        ("with a JSON list", "[]"),
        ("with a JSON number", "5"),
        ("with JSON null", "null"),
        ("with a list", [1]),
        ("with a number", 5),
        ("with unknown arguments", '{"no_such_argument": {"a": [1, null]}}'),
        ("with a lone surrogate in JSON", '{"a": "\\ud800"}'),
        ("with a lone surrogate", "\ud800"),
        ("with a lone surrogate in an object", {"a": "\udfff"}),
        ("with deep nesting", "[" * 50_000),
        ("with deep objects", '{"a":' * 50_000),
        ("with a huge number", '{"a": 1e999999}'),
        ("with huge text", '{"a": "' + "x" * _HUGE + '"}'),
    )
    for description, value in arguments:
        yield description, {
            "id": "c",
            "type": "function",
            "function": {"name": tool_name, "arguments": value},
        }
    names: tuple[tuple[str, Any], ...] = (
        ("of an unknown tool", "no_such_tool"),
        ("of no name", ""),
        ("of a name of a wrong type", {"a": 1}),
        ("of a name with a lone surrogate", "\ud83d"),
        ("of a huge name", "n" * _HUGE),
    )
    for description, name in names:
        yield description, {"id": "c", "type": "function", "function": {"name": name, "arguments": "{}"}}
    function = {"name": tool_name, "arguments": '{"no_such_argument": 1'}
    yield "without an id", {"type": "function", "function": function}
    yield "with an id of a wrong type", {"id": {"a": 1}, "type": "function", "function": function}
    yield "with a lone surrogate in its id", {"id": "\udc00", "type": "function", "function": function}
    yield "without a function", {"id": "c", "type": "function"}
    yield "with a function of a wrong type", {"id": "c", "type": "function", "function": "move"}


def _texts() -> Iterator[tuple[str, str]]:
    texts = (
        *("", " \n\t", "\x00", "\ud800", "\u202e🙂é\u0301", "no_such_action", "||||", "{}", "null", "[]"),
        *("<tool_call>", "<tool_call></tool_call>", "<tool_call>{</tool_call>", "<tool_call>5</tool_call>"),
        *("<tool_call>{}</tool_call>", '<tool_call>{"name": 5, "arguments": []}</tool_call>'),
        *('<tool_call>{"name": "no_such_tool", "arguments": {}}', "</tool_call><tool_call>"),
        *(
            "<answer>",
            "<answer></answer>",
            "<answer>||</answer>",
            "<answer>\ud800</answer>",
            "</answer><answer>",
        ),
        *("\\boxed{", "\\boxed{}", "\\boxed{{{}", "<action></action>", "<think>", "</think>", "<think>up"),
    )
    for text in texts:
        yield f"the text {text!r}", text
    for piece in ("x", "<tool_call>", "<answer>", "<think>", "\\boxed{", "up||", "é", "{", " "):
        yield f"{piece!r} over and over", piece * (_HUGE // len(piece))


def _lists(tool_name: str) -> Iterator[tuple[str, Any]]:
    bad_call = {"id": "c", "type": "function", "function": {"name": tool_name, "arguments": "{no"}}
    yield "a list of nothing", [None, 5, [], [[]], {}]
    yield "a list of messages of others", [{"role": "user", "content": "up"}, {"role": "system"}]
    yield "a list of a good and a bad message", [
        _message([bad_call]),
        {"role": "assistant", "tool_calls": "x"},
    ]
    yield "many bad calls", _message([{**bad_call, "id": f"c{number}"} for number in range(200)])
    yield "many texts", [""] * 10_000
