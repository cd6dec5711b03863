"""Every form in which models write an action, and what is not one."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_agent_env.messages import ParsedAction, ToolCall, parse_action
from verl_agent_env.messages.actions import parse_arguments, read_single_call


def openai(name: Any = "move", arguments: Any = "{}", call_id: Any = "c1") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def message(*calls: Any, content: Any = None) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}


def calls_of(action: object) -> list[ToolCall]:
    return parse_action(action).calls


def only_call(action: object) -> ToolCall:
    [call] = calls_of(action)
    return call


# --- forms --------------------------------------------------------------------------------------------------


def test_openai_message_gives_its_calls_in_order_with_ids() -> None:
    parsed = parse_action(message(openai("a"), openai("b", '{"x": 1}', "c2"), content="I think"))
    assert parsed == ParsedAction("I think", [ToolCall("a", {}, "c1"), ToolCall("b", {"x": 1}, "c2")], [])


def test_anthropic_message_gives_its_tool_uses() -> None:
    content = [
        {"type": "text", "text": "I go."},
        {"type": "tool_use", "id": "toolu_1", "name": "move", "input": {"steps": 2}},
        {"type": "tool_use", "id": "toolu_2", "name": "stop", "input": {}},
    ]
    parsed = parse_action({"role": "assistant", "content": content})
    assert parsed.text == "I go."
    assert parsed.calls == [ToolCall("move", {"steps": 2}, "toolu_1"), ToolCall("stop", {}, "toolu_2")]


def test_list_of_messages_gives_the_assistants_calls() -> None:
    tool = {"role": "tool", "tool_call_id": "c0", "content": "move"}
    action = [{"role": "user", "content": "left"}, tool, message(openai("up"))]
    assert parse_action(action) == parse_action(message(openai("up")))


def test_two_assistant_messages_are_one_action() -> None:
    parsed = parse_action([message(openai("a", call_id="1")), "up", message(openai("b", call_id="2"))])
    assert [call.id for call in parsed.calls] == ["1", "2"]
    assert parsed.words == []


def test_a_bad_message_beside_a_good_one_leaves_its_calls_to_be_answered() -> None:
    parsed = parse_action(
        [message(openai("a"), openai("b", call_id="c2")), {"role": "assistant", "tool_calls": "x"}]
    )
    assert parsed.fault is None
    assert [call.id for call in parsed.calls] == ["c1", "c2"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("up", ["up"]),
        ("  Up.\n", ["Up."]),
        ("<answer>Up || Left</answer>", ["Up", "Left"]),
        ("<think>maybe <answer>Down</answer></think> so <answer>Up</answer>", ["Up"]),
        ("<answer>Up</answer> no, <answer>Left||Left</answer>", ["Left", "Left"]),
        ("I go \\boxed{up}", ["up"]),
        ("\\boxed{down} or rather \\boxed{\\text{up}}", ["up"]),
        ("<action>up</action>", ["up"]),
        ("thinking aloud</think>up", ["up"]),
        ("", []),
        ("<answer> || </answer>", []),
        ("<think>never ends: up", []),
    ],
)
def test_raw_text_gives_words(text: str, words: list[str]) -> None:
    assert parse_action(text) == ParsedAction(text, [], words)
    assert parse_action({"role": "assistant", "content": text}) == ParsedAction(text, [], words)
    assert parse_action({"role": "assistant", "content": [{"type": "text", "text": text}]}).words == words


def test_hermes_text_gives_calls_without_ids() -> None:
    text = (
        "<think>hm</think><tool_call>\n"
        '{"name": "a", "arguments": {"x": 1}}\n</tool_call>\n<tool_call>{"name": "b"}'
    )
    assert calls_of(text) == [ToolCall("a", {"x": 1}), ToolCall("b", {})]


@pytest.mark.parametrize("key", ["arguments", "parameters"])
def test_arguments_in_hermes_text_may_be_json_text_themselves(key: str) -> None:
    assert only_call(f'<tool_call>{{"name": "a", "{key}": "{{\\"x\\": 1}}"}}</tool_call>').arguments == {
        "x": 1
    }


def test_tool_call_in_text_wins_over_an_answer() -> None:
    parsed = parse_action('<answer>up</answer><tool_call>{"name": "a"}</tool_call>')
    assert (parsed.calls, parsed.words) == ([ToolCall("a", {})], [])


def test_structured_calls_win_over_text() -> None:
    parsed = parse_action(message(openai("a"), content="<answer>up</answer>"))
    assert (len(parsed.calls), parsed.words) == (1, [])


def test_empty_list_of_calls_leaves_the_text() -> None:
    assert parse_action({"role": "assistant", "content": "up", "tool_calls": []}).words == ["up"]


def test_flat_calls_are_read() -> None:
    assert only_call(message({"name": "a", "arguments": {"x": 1}, "id": "i"})) == ToolCall("a", {"x": 1}, "i")


# --- faults -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call", [None, 5, "x", [], {}, {"function": "x"}, openai(""), openai(None), openai({})]
)
def test_call_without_a_name_is_a_fault(call: Any) -> None:
    found = only_call(message(call))
    assert found.name == ""
    assert found.fault is not None


def test_faulty_call_keeps_its_id() -> None:
    assert only_call(message(openai("", call_id="c9"))).id == "c9"
    assert only_call(message(openai("a", "{no", "c9"))).id == "c9"


@pytest.mark.parametrize("call_id", [None, 5, {"a": 1}, ["c"]])
def test_id_that_is_no_text_is_none(call_id: Any) -> None:
    assert only_call(message(openai("a", call_id=call_id))).id is None


@pytest.mark.parametrize("arguments", ["{", "[]", "5", '"x"', "\ud800", b"\xff", 5, [1], True, "[" * 9999])
def test_arguments_that_are_no_object_are_a_fault(arguments: Any) -> None:
    call = only_call(message(openai("a", arguments)))
    assert (call.name, call.arguments) == ("a", {})
    assert call.fault is not None


@pytest.mark.parametrize("arguments", ["", "{}", "null", None, {}, b"{}"])
def test_no_arguments_are_an_empty_object(arguments: Any) -> None:
    assert parse_arguments(arguments) == {}


@pytest.mark.parametrize("arguments", [{"a": "\ud800"}, {"a": 1 << 70}, {1: 2}, {"a": {1, 2}}])
def test_objects_that_json_cannot_hold_are_no_arguments(arguments: Any) -> None:
    assert parse_arguments(arguments) is None


def test_lone_surrogates_are_replaced_where_they_come_back() -> None:
    assert only_call(message(openai("a\ud800", call_id="c\udfff"))) == ToolCall("a?", {}, "c?")
    assert parse_action("\ud800up").words == ["?up"]
    assert parse_action("naïve 🙂").words == ["naïve 🙂"]


def test_huge_name_is_shown_cut() -> None:
    assert len(str(only_call(message(openai("n" * 10_000, "{"))).fault)) < 200


@pytest.mark.parametrize("action", [None, 5, 1.5, True, b"up", object(), {"up"}])
def test_what_is_no_message_is_a_fault(action: object) -> None:
    parsed = parse_action(action)
    assert (parsed.calls, parsed.words) == ([], [])
    assert parsed.fault is not None


@pytest.mark.parametrize("tool_calls", ["up", 5, {"name": "a"}])
def test_tool_calls_that_are_no_list_are_a_fault(tool_calls: Any) -> None:
    assert parse_action({"role": "assistant", "tool_calls": tool_calls}).fault is not None


# --- the short way ------------------------------------------------------------------------------------------


def test_short_way_reads_one_plain_call() -> None:
    assert read_single_call(message(openai("a"))) == ToolCall("a", {}, "c1")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(
            ["role", "content", "tool_calls", "function", "name", "arguments", "id", "type", "input"]
        ),
        inner | st.sampled_from(["assistant", "{}", "tool_use", "text"]),
        max_size=6,
    ),
    max_leaves=25,
)
PIECES = [
    "<tool_call>",
    "</tool_call>",
    "<answer>",
    "</answer>",
    "<think>",
    "</think>",
    "\\boxed{",
    "}",
    "{",
    "||",
]
TAGGED = st.lists(st.sampled_from([*PIECES, "up", '{"name":"a"}', "\ud800", " "]), max_size=30).map("".join)


@given(JSON | TAGGED)
def test_nothing_raises_and_calls_exclude_words(action: Any) -> None:
    parsed = parse_action(action)
    assert not (parsed.calls and parsed.words)
    assert all(word and word == word.strip() for word in parsed.words)


@given(JSON)
def test_short_way_agrees_with_the_long_one(action: Any) -> None:
    wrapped = {"tool_calls": [{"id": "c", "function": action}]}
    for one in (action, wrapped):
        call = read_single_call(one)
        if call is not None:
            assert calls_of(one) == [call]


@pytest.mark.parametrize(
    "piece", [*PIECES, "x", " ", "\\", "<", "é", '<tool_call>{"a":', "<answer>a||</answer>"]
)
def test_time_is_linear_in_the_length_of_the_text(piece: str) -> None:
    def seconds(length: int) -> float:
        text = piece * (length // len(piece))
        best = float("inf")
        for _ in range(3):
            before = time.perf_counter()
            parse_action(text)
            best = min(best, time.perf_counter() - before)
        return best

    # Sixteen times as long; a quadratic search would take 256 times as long.
    assert seconds(320_000) < 80 * max(seconds(20_000), 1e-4)
