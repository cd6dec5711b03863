"""Names, arguments and bare values as models write them."""

from __future__ import annotations

from typing import Any

import pytest

from verl_agent_env.messages import Tool, parse_action
from verl_agent_env.messages.actions import read_single_call
from verl_agent_env.messages.reading import clean_name, read_arguments
from verl_agent_env.messages.reading.arguments import read_text_as

TOOLS = {"move_right": Tool("move_right", ""), "functions.odd": Tool("functions.odd", "")}


@pytest.mark.parametrize(
    "name",
    [
        *("move_right", " move_right ", "functions.move_right", "function.move_right", "tools.move_right"),
        *(
            "default_api.move_right",
            "move_right<|channel|>commentary",
            "move_right<|constrain|>json",
            "`move_right`",
        ),
        *(
            "move_right()",
            "functions.move_right<|channel|>commentary",
            "move_right\n",
            "functions/move_right",
        ),
    ],
)
def test_what_runs_into_a_name_is_taken_away(name: str) -> None:
    assert clean_name(name, TOOLS) == clean_name(name, {}) == "move_right"
    calls = [{"id": "c", "type": "function", "function": {"name": name, "arguments": "{}"}}]
    [call] = parse_action({"role": "assistant", "tool_calls": calls}, TOOLS).calls
    assert (call.name, call.fault) == ("move_right", None)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "move_right:0",
            "functions.move_right:12",
            "move_right({})",
            "move_right.call",
            "move_rightcommentary",
        ),
        *(
            "move_right json",
            "to=functions.move_right",
            "assistant<|channel|>commentary to=functions.move_right",
        ),
        *(
            "function<｜tool▁sep｜>move_right",
            "mcp__game__move_right",
            "game.move_right",
            "functions:move_right",
        ),
        *("<move_right>", "move_right.", "/move_right", "move_right</tool_call>", "move_right[ARGS]"),
        *("Move_Right", "MOVE_RIGHT", "move-right", "move right", "moveRight", "move_right\u200b"),
    ],
)
def test_the_only_known_tool_that_a_name_can_mean_is_read(name: str) -> None:
    assert clean_name(name, TOOLS) == "move_right"


@pytest.mark.parametrize(
    "name", ["move_right_1", "right", "not_move_right", "move_right move_left", "go.left"]
)
def test_a_name_that_is_not_quite_a_tools_is_none_of_them(name: str) -> None:
    assert clean_name(name, TOOLS) == name


def test_a_name_that_could_be_two_tools_is_neither() -> None:
    tools = {name: Tool(name, "") for name in ("go_up", "Go_Up")}
    assert clean_name("GO UP", tools) == "GO UP"


def test_a_tool_of_that_very_name_wins() -> None:
    assert clean_name("functions.odd", TOOLS) == "functions.odd"


@pytest.mark.parametrize("name", [None, 5, [], {}, "", " ", "<|channel|>"])
def test_what_is_no_name_is_none(name: Any) -> None:
    assert clean_name(name, TOOLS) == ""


@pytest.mark.parametrize(
    "arguments",
    [
        *(
            '{"x": 1}',
            ' {"x": 1}\n',
            '"{\\"x\\": 1}"',
            '"\\"{\\\\\\"x\\\\\\": 1}\\""',
            '{"x": 1,}',
            "{'x': 1}",
        ),
        *("{x: 1}", "{“x”: 1}", '{"x": 1, // one\n}', '{"x": /* one */ 1}', '[{"x": 1}]', '["{\\"x\\": 1}"]'),
        *(
            '{"x": 1}</tool_call>',
            '{"x": 1}<|call|>',
            '{"x": 1};',
            '{"x": 1}}',
            '{}{"x": 1}',
            '\ufeff{"x": 1}',
        ),
        *('```json\n{"x": 1}\n```', '```\n{"x": 1}\n```', '```{"x": 1}```', b'{"x": 1}', {"x": 1}),
    ],
)
def test_arguments_are_read(arguments: Any) -> None:
    assert read_arguments(arguments) == {"x": 1}


@pytest.mark.parametrize(
    "arguments", ["", " ", "\n", "null", '"{}"', '"\\"{}\\""', '""', "```json\n```", None, "{}", {}]
)
def test_nothing_is_an_empty_object(arguments: Any) -> None:
    assert read_arguments(arguments) == {}


@pytest.mark.parametrize(
    "arguments",
    [
        "[]",
        '[{"x": 1}, {"x": 2}]',
        '{"x": 1}{"y": 2}',
        '{"x": 1',
        '{"x": ',
        "[1]",
        "5",
        "x=1",
        '{"x": 1} or {"x": 2}',
        '{"x": NaN}',
        5,
        True,
    ],
)
def test_what_is_no_object_is_none(arguments: Any) -> None:
    assert read_arguments(arguments) is None


@pytest.mark.parametrize(
    "arguments",
    [
        '{"arguments": {"x": 1}}',
        '{"parameters": "{\\"x\\": 1}"}',
        '{"name": "f", "arguments": {"x": 1}}',
        {"input": {"x": 1}},
    ],
)
def test_arguments_within_arguments_are_taken_out_if_the_tool_has_none_of_that_name(arguments: Any) -> None:
    action = {
        "role": "assistant",
        "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": arguments}}],
    }
    tool = Tool("f", "", {"type": "object", "properties": {"x": {"type": "integer"}}})
    assert [call.arguments for call in parse_action(action, {"f": tool}).calls] == [{"x": 1}]
    assert read_single_call(action, {"f"}) is None
    keeping = Tool(
        "f", "", {"type": "object", "properties": {key: {} for key in ("arguments", "parameters", "input")}}
    )
    [kept] = parse_action(action, {"f": keeping}).calls
    assert kept.arguments == read_arguments(arguments)


@pytest.mark.parametrize(
    "written",
    [
        '{"function": {"name": "f", "arguments": {"x": 1}}}',
        '{"type": "function", "function": {"name": "f", "arguments": "{\\"x\\": 1}"}}',
        '{"function": "f", "arguments": {"x": 1}}',
        '{"tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]}',
        '{"tool": "f", "args": {"x": 1}}',
        '{"action": "f", "action_input": {"x": 1}}',
        '{"name": "multi_tool_use.parallel", "arguments": {"tool_uses": [{"recipient_name": "functions.f", "parameters": {"x": 1}}]}}',
        "{'name': 'f', 'arguments': {'x': 1}}",
        '{"name": "f", "arguments": {"x": 1}},',
        '```json\n{"name": "f", "arguments": {"x": 1}}\n```',
    ],
)
def test_wrappers_of_a_call_are_taken_away(written: str) -> None:
    [call] = parse_action(f"<tool_call>{written}</tool_call>").calls
    assert (call.name, call.arguments, call.fault) == ("f", {"x": 1}, None)


def test_two_lines_of_json_in_one_tag_are_two_calls() -> None:
    calls = parse_action('<tool_call>\n{"name": "a"}\n{"name": "b"}\n</tool_call>').calls
    assert [(call.name, call.fault) for call in calls] == [("a", None), ("b", None)]


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ('<tool_call>{"name": "a"}\n{"name": }</tool_call>', [True, False]),
        ('<tool_call>{"name": }\n{"name": "a"}</tool_call>', [False, True]),
        ('<tool_call>{"name": "a"}</tool_call><tool_call>{"name": </tool_call>', [True, False]),
        ('<tool_call>{"name": <tool_call>{"name": "a"}</tool_call>', [False, True]),
        ('<tool_call>{"name": "a"}</tool_call><tool_call>{"name": "b", "arguments": {"x', [True, False]),
        ('[TOOL_CALLS]a[ARGS]{}[TOOL_CALLS]b[ARGS]{"x": ', [True, False]),
        ("<function=a></function><function=b><parameter=x>1", [True, False]),
    ],
)
def test_a_malformed_call_beside_a_good_one_is_told(text: str, whole: list[bool]) -> None:
    assert [call.fault is None for call in parse_action(text).calls] == whole


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "a", "arguments": {"x": "in </tool_call> tags"}}</tool_call>',
        '<tool_call>{"name": "a", "arguments": {"x": "in <tool_call> tags"}}</tool_call>',
        '<tool_call>{"name": "a", "arguments": {"x": "in <tool_call> and </tool_call> tags"}}</tool_call> Done.',
    ],
)
def test_an_argument_may_hold_the_marks_of_a_call(text: str) -> None:
    [call] = parse_action(text).calls
    assert call.fault is None
    assert str(call.arguments["x"]).startswith("in <")


@pytest.mark.parametrize(
    "text", ["I use no <tool_call> here.", "There is no `<tool_call>` here.", "[TOOL_CALLS] are no words"]
)
def test_a_mark_of_a_call_that_is_mentioned_is_none(text: str) -> None:
    assert parse_action(f"<answer>up</answer> {text}").words == ["up"]


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        ("5", {"type": "integer"}, 5),
        ("\n5\n", {"type": "integer"}, 5),
        ("5.0", {"type": "integer"}, 5),
        ("5", {"type": "string"}, "5"),
        ("\n a\n", {"type": "string"}, " a"),
        ("true", {"type": "boolean"}, True),
        ("False", {"type": "boolean"}, False),
        ("0.5", {"type": "number"}, 0.5),
        ("-3", {"type": "number"}, -3),
        ("null", {"type": ["string", "null"]}, None),
        ("null", {"type": "string"}, "null"),
        ('{"a": 1}', {"type": "object"}, {"a": 1}),
        ("['a', 1]", {"type": "array"}, ["a", 1]),
        ("5", {"anyOf": [{"type": "integer"}, {"type": "string"}]}, 5),
        ("2", {"enum": [1, 2]}, 2),
        ("a", {"enum": ["a", "b"]}, "a"),
        ("five", {"type": "integer"}, "five"),
        ("5", {}, "5"),
        ("5", None, "5"),
        ("5", {"$ref": "#/$defs/n"}, 5),
        ("5", {"$ref": "#/$defs/loop"}, "5"),
        ("5", {"$ref": "#/nowhere"}, "5"),
    ],
)
def test_bare_texts_are_read_as_their_schema_wants_them(text: str, schema: Any, value: Any) -> None:
    root = {"$defs": {"n": {"type": "integer"}, "loop": {"$ref": "#/$defs/loop"}}}
    found = read_text_as(text, schema, root)
    assert (found, type(found)) == (value, type(value))
