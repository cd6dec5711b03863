"""Answers as a conversation holds them, and as APIs take them back."""

from __future__ import annotations

import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.messages.test_actions import PIECES, TOOLS, USUAL
from tests.messages.test_forms import FORMS, ID_OF
from verl_agent_env.messages import assistant_message, message_of_text, parse_action, sendable


def call(call_id: Any = "c1", name: Any = "go", arguments: Any = "{}") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def message(*calls: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": "", "tool_calls": list(calls)}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_becomes_a_message_that_asks_for_the_same(form: str) -> None:
    said = assistant_message(FORMS[form])
    assert said["role"] == "assistant"
    assert parse_action(said).calls == parse_action(FORMS[form]).calls
    assert [each["id"] for each in said["tool_calls"]] == [ID_OF.get(form, "c1")]


@pytest.mark.parametrize(
    "answer", ["up", {"role": "assistant", "content": "up"}, [{"type": "text", "text": "up"}]]
)
def test_text_stays_text(answer: Any) -> None:
    assert assistant_message(answer) == {"role": "assistant", "content": "up"}


def test_a_message_that_is_whole_is_given_back_as_it_is() -> None:
    whole = {**message(call()), "refusal": None}
    assert assistant_message(whole) is whole
    assert sendable(whole) is whole


@pytest.mark.parametrize("call_id", [None, 7, "", "same"])
def test_each_call_has_an_id_of_its_own(call_id: Any) -> None:
    said = assistant_message(message(call("same"), call(call_id), call(call_id)), turn=3)
    assert [each["id"] for each in said["tool_calls"]] == ["same", "call_3_1", "call_3_2"]
    # The environment answers these ids.
    assert [each.id for each in parse_action(said).calls] == ["same", "call_3_1", "call_3_2"]


MALFORMED: list[Any] = [
    *(None, 5, "go", [], {}),
    *(call(name=""), call(name=None), call(name="go<|channel|>up"), call(name=" go "), call(name="ü" * 99)),
    *(
        call(arguments="{"),
        call(arguments=""),
        call(arguments="[]"),
        call(arguments={"a": 1}),
        call(arguments=None),
    ),
    *(call(arguments='"{}"'), call(arguments="\ud800"), call(arguments={"a": "\ud800"})),
]


@pytest.mark.parametrize("item", MALFORMED)
def test_what_is_malformed_can_be_sent_back_and_is_told_to_the_model(item: Any) -> None:
    said = assistant_message(message(item, call("c2")))
    before = parse_action(message(item, call("c2"))).calls
    now = parse_action(said).calls
    assert [each.fault is None for each in now] == [each.fault is None for each in before]
    assert [(each.name, each.arguments) for each in now] == [(each.name, each.arguments) for each in before]
    for each in sendable(said)["tool_calls"]:
        # OpenAI's API checks the name, vLLM loads the arguments.
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", each["function"]["name"])
        assert isinstance(orjson.loads(each["function"]["arguments"]), dict)


def test_an_answer_that_cannot_be_read_is_a_call_that_is_answered() -> None:
    for answer in ({"role": "assistant", "tool_calls": "x"}, object()):
        [only] = parse_action(assistant_message(answer)).calls
        assert (only.id, only.fault is None) == ("call_0_0", False)


@given(st.lists(st.sampled_from([*PIECES, *USUAL]), max_size=12).map("".join))
def test_a_text_and_the_message_that_stands_for_it_ask_for_the_same(text: str) -> None:
    read = parse_action(text, TOOLS)
    said = message_of_text(text, TOOLS, turn=2)
    assert (said is None) == (not read.calls)
    if said is not None:
        again = parse_action(said, TOOLS).calls
        assert [(c.name, c.arguments, c.fault) for c in again] == [
            (c.name, c.arguments, c.fault) for c in read.calls
        ]
        assert [c.id for c in again] == [f"call_2_{number}" for number in range(len(again))]
        orjson.dumps(sendable(said))


def test_the_text_around_the_calls_is_the_content() -> None:
    said = message_of_text('<think>hm</think>So: <tool_call>{"name": "a"}</tool_call> done<|im_end|>', TOOLS)
    assert said is not None
    assert said["content"] == "<think>hm</think>So:  done"


def test_an_id_that_no_json_can_hold_is_the_same_in_the_conversation_and_in_the_answer() -> None:
    function = {"name": "up", "arguments": "{}"}
    action = {"role": "assistant", "tool_calls": [{"id": "\ud800", "type": "function", "function": function}]}
    [call] = parse_action(action).calls
    assert [each["id"] for each in assistant_message(action)["tool_calls"]] == [call.id] == ["?"]
