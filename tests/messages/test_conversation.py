"""Answers as a conversation holds them, and as APIs take them back."""

from __future__ import annotations

import re
from typing import Any

import orjson
import pytest

from tests.messages.test_forms import FORMS, ID_OF
from verl_agent_env.messages import assistant_message, parse_action, sendable


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
