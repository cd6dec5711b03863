"""Conversations in Anthropic's form and back."""

from __future__ import annotations

import doctest
from typing import Any

import pytest

from verl_agent_env.messages import anthropic, from_anthropic, image_part, text_part, to_anthropic
from verl_agent_env.messages.actions import parse_action

CALL = {"id": "call_1", "type": "function", "function": {"name": "up", "arguments": '{"by":2}'}}
PLAYED: list[dict[str, Any]] = [
    {"role": "system", "content": "Play."},
    {"role": "user", "content": "P\tF\tG"},
    {"role": "assistant", "content": "I go up.", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "F\tP\tG"},
    {"role": "user", "content": "Go on."},
    {"role": "assistant", "content": "Done."},
]


def test_conversation_becomes_turns_of_blocks() -> None:
    system, messages = to_anthropic(PLAYED)
    assert system == "Play."
    assert messages == [
        {"role": "user", "content": [{"type": "text", "text": "P\tF\tG"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "I go up."},
                {"type": "tool_use", "id": "call_1", "name": "up", "input": {"by": 2}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "call_1",
                    "content": [{"type": "text", "text": "F\tP\tG"}],
                },
                {"type": "text", "text": "Go on."},
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "Done."}]},
    ]


def test_there_and_back_is_the_same() -> None:
    system, messages = to_anthropic(PLAYED)
    assert from_anthropic(messages, system) == PLAYED


@pytest.mark.parametrize("arguments", ["{not json", "[1]", '"text"'])
def test_arguments_that_are_no_object_survive(arguments: str) -> None:
    broken = {"id": "c", "type": "function", "function": {"name": "up", "arguments": arguments}}
    message = {"role": "assistant", "content": "", "tool_calls": [broken]}
    _, messages = to_anthropic([message])
    assert isinstance(messages[0]["content"][0]["input"], dict)
    assert from_anthropic(messages) == [message]


@pytest.mark.parametrize("arguments", [None, "", "{}"])
def test_no_arguments_are_an_empty_object(arguments: str | None) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "up", "arguments": arguments}}
    _, messages = to_anthropic([{"role": "assistant", "content": None, "tool_calls": [call]}])
    assert messages[0]["content"] == [{"type": "tool_use", "id": "c", "name": "up", "input": {}}]


def test_pictures_survive_inline_and_by_address() -> None:
    linked = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    content = [text_part("look"), image_part(b"\x89PNG"), linked]
    _, messages = to_anthropic([{"role": "user", "content": content}])
    sources = [block["source"]["type"] for block in messages[0]["content"] if block["type"] == "image"]
    assert sources == ["base64", "url"]
    assert from_anthropic(messages) == [{"role": "user", "content": content}]


def test_several_answers_of_tools_share_a_turn_and_come_first() -> None:
    observation = [
        {"role": "user", "content": "between"},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "tool_call_id": "b", "content": ""},
    ]
    _, messages = to_anthropic(observation)
    assert len(messages) == 1
    assert [block["type"] for block in messages[0]["content"]] == ["tool_result", "tool_result", "text"]
    assert [message["role"] for message in from_anthropic(messages)] == ["tool", "tool", "user"]


def test_empty_messages_are_left_out() -> None:
    assert to_anthropic([{"role": "assistant", "content": ""}, {"role": "system", "content": ""}]) == ("", [])


def test_answer_of_the_api_is_understood_as_an_action_in_both_forms() -> None:
    answer = {
        "role": "assistant",
        "content": [{"type": "tool_use", "id": "call_1", "name": "up", "input": {"by": 2}}],
    }
    (converted,) = from_anthropic([answer])
    assert parse_action(converted).calls == parse_action(answer).calls


def test_examples_in_the_docstrings_are_true() -> None:
    assert doctest.testmod(anthropic).failed == 0


THOUGHT = {"type": "thinking", "thinking": "Up, then <answer>down</answer>?", "signature": "c2lnbmVk"}
HIDDEN = {"type": "redacted_thinking", "data": "ZW5jcnlwdGVk"}
SAID = {"type": "text", "text": "I go up."}
USED = {"type": "tool_use", "id": "call_1", "name": "up", "input": {"by": 2}}


def test_thoughts_are_kept_as_they_were_signed() -> None:
    (message,) = from_anthropic([{"role": "assistant", "content": [THOUGHT, HIDDEN, SAID, USED]}])
    assert message["content"] == "I go up."
    assert message["reasoning_content"] == THOUGHT["thinking"]
    assert message["tool_calls"][0]["id"] == "call_1"
    assert to_anthropic([message]).messages == [
        {"role": "assistant", "content": [THOUGHT, HIDDEN, SAID, USED]}
    ]


def test_thoughts_without_a_signature_are_not_sent() -> None:
    message = {"role": "assistant", "content": "Up.", "reasoning_content": "Hm."}
    assert to_anthropic([message]).messages == [
        {"role": "assistant", "content": [{"type": "text", "text": "Up."}]}
    ]


def test_a_thought_of_anthropic_is_no_action() -> None:
    (message,) = from_anthropic([{"role": "assistant", "content": [THOUGHT, USED]}])
    parsed = parse_action(message)
    assert [(call.name, call.arguments) for call in parsed.calls] == [("up", {"by": 2})]
    (silent,) = from_anthropic([{"role": "assistant", "content": [THOUGHT]}])
    assert not parse_action(silent).calls
    assert "down" not in parse_action(silent).text
