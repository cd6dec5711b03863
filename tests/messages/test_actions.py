"""Every form in which models write an action, and what is not one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.messages.reading.timing import assert_linear
from verl_agent_env.messages import MAX_CALLS_PER_TURN, ParsedAction, Tool, ToolCall, parse_action
from verl_agent_env.messages.actions import read_single_call
from verl_agent_env.messages.reading import FORMAT_NAMES, read_arguments, read_usual


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
    calls = [ToolCall("a", {}, "c1"), ToolCall("b", {"x": 1}, "c2")]
    assert parsed == ParsedAction("I think", calls, [], form="tool_calls")


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


def test_a_bad_message_beside_a_good_one_is_told_and_leaves_its_calls_to_be_answered() -> None:
    parsed = parse_action(
        [message(openai("a"), openai("b", call_id="c2")), {"role": "assistant", "tool_calls": "x"}]
    )
    assert parsed.fault is None
    assert [(call.id, call.fault is None) for call in parsed.calls] == [
        ("c1", True),
        ("c2", True),
        (None, False),
    ]


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
        (
            '<details type="reasoning" done="true"><answer>Down</answer></details> so <answer>Up</answer>',
            ["Up"],
        ),
    ],
)
def test_raw_text_gives_words(text: str, words: list[str]) -> None:
    parsed = parse_action(text)
    assert (parsed.text, parsed.calls, parsed.words, parsed.fault) == (text, [], words, None)
    assert parse_action({"role": "assistant", "content": text}) == parsed
    assert parse_action({"role": "assistant", "content": [{"type": "text", "text": text}]}) == parsed


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


@pytest.mark.parametrize("call_id", [None, 5, "", {"a": 1}, ["c"]])
def test_id_that_is_no_text_is_replaced_by_one_of_ours(call_id: Any) -> None:
    action = message(
        openai("a", call_id=call_id), openai("b", call_id="call_0_0"), openai("c", "{no", call_id)
    )
    assert [call.id for call in parse_action(action, turn=7).calls] == ["call_7_0", "call_0_0", "call_7_2"]


def test_ids_are_told_apart() -> None:
    action = message(openai("a"), openai("b"), openai("c", call_id="call_0_1"), None, openai("d"))
    assert [call.id for call in calls_of(action)] == ["c1", "call_0_1_", "call_0_1", "call_0_3", "call_0_4"]


def test_a_call_without_an_id_gets_one_in_every_form() -> None:
    without = {"type": "function", "function": {"name": "a", "arguments": "{}"}}
    assert only_call(message(without)).id == "call_0_0"
    assert only_call({"role": "assistant", "content": [{"type": "tool_use", "name": "a"}]}).id == "call_0_0"
    assert (
        only_call({"role": "assistant", "function_call": {"name": "a", "arguments": "{}"}}).id == "call_0_0"
    )


@pytest.mark.parametrize("arguments", ["{", "[]", "5", '"x"', "\ud800", b"\xff", 5, [1], True, "[" * 9999])
def test_arguments_that_are_no_object_are_a_fault(arguments: Any) -> None:
    call = only_call(message(openai("a", arguments)))
    assert (call.name, call.arguments) == ("a", {})
    assert call.fault is not None


@pytest.mark.parametrize("arguments", ["", "{}", "null", None, {}, b"{}"])
def test_no_arguments_are_an_empty_object(arguments: Any) -> None:
    assert read_arguments(arguments) == {}


@pytest.mark.parametrize("arguments", [{"a": "\ud800"}, {"a": 1 << 70}, {1: 2}, {"a": {1, 2}}])
def test_objects_that_json_cannot_hold_are_no_arguments(arguments: Any) -> None:
    assert read_arguments(arguments) is None


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
    assert read_single_call(message(openai("a")), {"a"}) == ToolCall("a", {}, "c1")


def test_short_way_reads_arguments_too() -> None:
    assert read_single_call(message(openai("a", '{"x": 1}')), {"a"}) == ToolCall("a", {"x": 1}, "c1")


def test_short_way_leaves_what_is_unusual() -> None:
    malformed = (openai("a", "{"), openai("a", "[]"), openai("a", ""), openai("a", {}), openai("a", None))
    for unusual in (openai("b"), openai(" a "), openai("a", call_id=""), openai([]), *malformed):
        assert read_single_call(message(unusual), {"a"}) is None


NAMES = {"name", "role", "{}", "text"}
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
    *(
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
    ),
    *(
        "<tools>",
        "<function=a>",
        "</function>",
        "<parameter=x>",
        "</parameter>",
        "<invoke name='a'>",
        "</invoke>",
    ),
    *("[TOOL_CALLS]", "[ARGS]", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<|tool_call_argument_begin|>"),
    *("<|tool_call_begin|>", "<|tool_call_end|>", "a<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    *(
        "<|channel|>",
        "<|message|>",
        "to=a",
        "<|python_tag|>",
        "```tool_code\n",
        "```json\n",
        "\n```\n",
        "[a(",
        ")",
    ),
    *(
        "x=1",
        ",",
        "]",
        "'",
        '"',
        "\\",
        "\nAction: a",
        "\nAction Input:",
        "\nThought:",
        "\na\n",
        "<|im_end|>",
        "`",
    ),
    *('<|tool_call>call:a{x:<|"|>', '<|"|>', "}<tool_call|>", "functools[", "commentary to=a json", "[[[["),
    *(
        "✿FUNCTION✿:",
        "✿ARGS✿:",
        "<tool id=1>",
        "<function>",
        "~~~json\n{",
        "a[ARGS]{",
        "a = a(",
        "print(a)",
        "Action: a[",
    ),
    *(
        "<|begin_of_box|>",
        "</ans",
        '{"name":"a","arguments":{}}',
        '{"function":{"name":"a"}}',
        "<tool_code>",
        "print(",
        "#",
        "-",
        "1",
    ),
]
TAGGED = st.lists(st.sampled_from([*PIECES, "up", '{"name":"a"}', "\ud800", " "]), max_size=30).map("".join)


TOOLS = {"a": Tool("a", "", {"type": "object", "properties": {"x": {"type": "integer"}}})}


@given(JSON | TAGGED, st.sampled_from([{}, TOOLS]), st.sampled_from(["auto", *FORMAT_NAMES]))
def test_nothing_raises_and_calls_exclude_words(action: Any, tools: Any, action_format: Any) -> None:
    parsed = parse_action(action, tools, action_format)
    assert not (parsed.calls and parsed.words)
    assert all(word and word == word.strip() for word in parsed.words)


USUAL = [
    *(
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        "<action>",
        "</action>",
        "<tool_call>",
        "</tool_call>",
        " ",
        "||",
    ),
    *(
        "up",
        "push_up",
        "Up",
        "(1 + 2) * 3",
        "9",
        "_",
        ".",
        "analysis",
        "commentary",
        "X",
        "\n",
        "*",
        "`",
        "<|im_end|>",
    ),
    *(
        '{"name": "a", "arguments": {"x": 1}}',
        '{"name": "b", "arguments": {}}',
        '{"name": "a"}',
        "\\boxed{up}",
        "[",
        "(",
    ),
    *(
        "<think>left</think>",
        "<answer>up</answer>",
        "<answer>Up || push_left</answer>",
        "f(1)",
        "- 1",
        "</answer>.",
    ),
]


@given(st.lists(st.sampled_from(USUAL), max_size=6).map("".join), st.sampled_from([{}, TOOLS]))
def test_usual_texts_are_read_as_by_the_whole_reader(text: str, tools: Any) -> None:
    whole = parse_action(text, tools, FORMAT_NAMES)
    assert parse_action(text, tools) == whole


@pytest.mark.parametrize(
    "text",
    [
        *(
            "up",
            " push_up.\n",
            "Up || Left",
            "<answer>up</answer>",
            "<think>a</think>\n<answer>\n(1 + 2) * 3\n</answer>\n",
        ),
        *("<action>up</action>", '<think>a</think><tool_call>\n{"name": "a", "arguments": {}}\n</tool_call>'),
    ],
)
def test_usual_texts_take_the_short_way(text: str) -> None:
    assert read_usual(text, TOOLS) is not None


@pytest.mark.parametrize("text", ["analysisWe go left", "analysisWe go left assistantfinal up", "_up_"])
def test_texts_that_look_usual_are_read_by_the_whole_reader(text: str) -> None:
    assert parse_action(text) == parse_action(text, action_format=FORMAT_NAMES)
    assert parse_action(text).words != [text]


@given(JSON)
@example({"id": "assistant", "name": "{}", "arguments": "{}"})
@example({"tool_calls": [{"id": "assistant", "function": {"name": "{}", "arguments": "{}", "id": "c"}}]})
def test_short_way_agrees_with_the_long_one(action: Any) -> None:
    wrapped = {"tool_calls": [{"id": "c", "function": action}]}
    for one in (action, wrapped):
        call = read_single_call(one, NAMES)
        if call is not None:
            assert calls_of(one) == [call]


@pytest.mark.parametrize(
    "piece",
    [
        *PIECES,
        "x",
        " ",
        "<",
        "é",
        '<tool_call>{"a":',
        "<answer>a||</answer>",
        '{"a":',
        "f(1)\n",
        "\n{",
        "\nf(",
    ],
)
def test_time_is_linear_in_the_length_of_the_text(piece: str) -> None:
    for before in ("", "<tool_call>", '<tool_call>{"name":"', "[TOOL_CALLS]", "f("):

        def read(text: str, before: str = before) -> object:
            return parse_action(f"{before}{text}", TOOLS)

        assert_linear(read, piece)


@pytest.mark.parametrize("count", [MAX_CALLS_PER_TURN + 1, 500])
@pytest.mark.parametrize("structured", [True, False])
def test_of_too_many_calls_none_is_read_and_each_is_answered(count: int, structured: bool) -> None:
    function = {"name": "up", "arguments": "{}"}
    action: Any = '<tool_call>{"name": "up", "arguments": {}}</tool_call>' * count
    if structured:
        action = {
            "role": "assistant",
            "tool_calls": [{"id": f"c{n}", "function": function} for n in range(count)],
        }
    parsed = parse_action(action)
    assert len(parsed.calls) == count
    assert {call.name for call in parsed.calls} == {""}
    assert {call.fault for call in parsed.calls} == {
        f"An action holds at most {MAX_CALLS_PER_TURN} tool calls; this one holds {count}."
    }
    assert [call.id for call in parsed.calls] == [f"c{n}" if structured else None for n in range(count)]
    assert not any(call.fault for call in parse_action(action, max_calls=count).calls)


@pytest.mark.parametrize(
    "action",
    [
        {"role": "assistant", "tool_calls": [{"function": {"name": "up"}}] * 2000},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "up", "input": {}}] * 2000},
        [{"role": "assistant", "content": "up"}] * 2000,
    ],
)
def test_more_than_any_model_writes_is_not_looked_at(action: Any) -> None:
    parsed = parse_action(action)
    faults = [parsed.fault, *(call.fault for call in parsed.calls)]
    assert any(fault is not None and "more than 1024" in fault for fault in faults)
