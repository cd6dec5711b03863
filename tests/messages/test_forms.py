"""Every form in which APIs and SDKs give a model's answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from pydantic import BaseModel

from verl_agent_env.messages import ToolCall, parse_action
from verl_agent_env.messages.actions import read_single_call
from verl_agent_env.messages.forms import plain_value, read_messages

GO = {"name": "go", "arguments": '{"to": "up"}'}
OPENAI: dict[str, Any] = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "c1", "type": "function", "function": GO}],
}
REASONED: dict[str, Any] = {"role": "assistant", "content": "up", "reasoning_content": "hm"}


class Function(BaseModel):
    name: str = "go"
    arguments: str = '{"to": "up"}'


class Call(BaseModel):
    id: str = "c1"
    type: str = "function"
    function: Function = Function()


class Message(BaseModel):
    role: str = "assistant"
    content: str | None = None
    tool_calls: list[Call] = [Call()]


class Choice(BaseModel):
    finish_reason: str = "stop"
    index: int = 0
    message: Message = Message()


class Completion(BaseModel):
    id: str = "x"
    object: str = "chat.completion"
    choices: list[Choice] = [Choice()]


FORMS: dict[str, Any] = {
    "a message of OpenAI's": OPENAI,
    "function_call": {"role": "assistant", "content": None, "function_call": GO},
    "a completion": {"id": "x", "choices": [{"index": 0, "message": OPENAI, "finish_reason": "tool_calls"}]},
    "choices": [{"index": 0, "message": OPENAI, "finish_reason": "tool_calls"}],
    "one choice": {"index": 0, "message": OPENAI, "finish_reason": "tool_calls"},
    "an item of Responses": {"type": "function_call", "id": "fc_1", "call_id": "c1", **GO},
    "items of Responses": [
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "status": "completed", **GO},
    ],
    "an answer of Responses": {
        "object": "response",
        "output": [{"type": "function_call", "id": "fc_1", "call_id": "c1", **GO}],
    },
    "a message of Anthropic's": {
        "type": "message",
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "tool_use", "id": "c1", "name": "go", "input": {"to": "up"}},
        ],
    },
    "Anthropic's content": [{"type": "tool_use", "id": "c1", "name": "go", "input": {"to": "up"}}],
    "a content of Gemini's": {
        "role": "model",
        "parts": [
            {"text": "hm", "thought": True},
            {"functionCall": {"id": "c1", "name": "go", "args": {"to": "up"}}},
        ],
    },
    "an answer of Gemini's SDK": {
        "candidates": [
            {
                "content": {
                    "role": "model",
                    "parts": [
                        {
                            "text": None,
                            "thought": None,
                            "function_call": {"id": "c1", "name": "go", "args": {"to": "up"}},
                        }
                    ],
                },
                "finish_reason": "STOP",
            }
        ]
    },
    "an answer of Ollama's": {
        "model": "m",
        "message": {
            "role": "assistant",
            "tool_calls": [{"id": "c1", "function": {"name": "go", "arguments": {"to": "up"}}}],
        },
    },
    "an answer of Bedrock's": {
        "output": {
            "message": {
                "role": "assistant",
                "content": [{"toolUse": {"toolUseId": "c1", "name": "go", "input": {"to": "up"}}}],
            }
        }
    },
    "a message of LangChain's": {
        "type": "ai",
        "content": "",
        "tool_calls": [{"name": "go", "args": {"to": "up"}, "id": "c1"}],
    },
    "a call": {"id": "c1", "name": "go", "arguments": {"to": "up"}},
    "an SDK's message": Message(),
    "an SDK's completion": Completion(),
    "an SDK's choice": Choice(),
    "an SDK's calls in a message": {"role": "assistant", "tool_calls": [Call()]},
    "an SDK's function in a call": {
        "role": "assistant",
        "tool_calls": [{"id": "c1", "function": Function()}],
    },
    "a list with an SDK's message": [Message()],
}


ID_OF = {"function_call": "call_0_0"}
"""Of the one form that has no ids."""


@pytest.mark.parametrize("form", FORMS)
def test_a_call_is_read_in_every_form(form: str) -> None:
    [call] = parse_action(FORMS[form]).calls
    assert call == ToolCall("go", {"to": "up"}, ID_OF.get(form, "c1"))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_can_be_sent_and_is_read_as_before(form: str) -> None:
    sent = orjson.loads(orjson.dumps(FORMS[form], default=plain_value))
    assert parse_action(sent) == parse_action(FORMS[form])


@pytest.mark.parametrize(
    "action",
    [
        {"choices": [{"index": 0, "text": "up", "finish_reason": "stop"}]},
        {"choices": [{"message": REASONED, "finish_reason": "stop"}]},
        {
            "output": [
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "up"}]}
            ]
        },
        {
            "candidates": [
                {"content": {"role": "model", "parts": [{"text": "hm", "thought": True}, {"text": "up"}]}}
            ]
        },
        {
            "role": "assistant",
            "content": [{"type": "thinking", "thinking": "left"}, {"type": "text", "text": "up"}],
        },
        {
            "role": "assistant",
            "content": [{"type": "thinking", "thinking": [{"type": "text", "text": "left"}]}, "up"],
        },
        [{"type": "text", "text": "up"}],
    ],
)
def test_text_is_read_in_every_form_without_the_thoughts(action: Any) -> None:
    parsed = parse_action(action)
    assert (parsed.text, parsed.words) == ("up", ["up"])


def test_thoughts_that_are_told_apart_are_kept_as_such() -> None:
    assert parse_action(REASONED).thought == "hm"
    assert parse_action(FORMS["a message of Anthropic's"]).thought == "hm"
    assert parse_action({**REASONED, "content": "<think>ah</think>up"}).thought == "hm\nah"


def test_of_several_choices_the_first_that_calls_a_tool_counts() -> None:
    choices = [
        {"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        for content in ("", "up")
    ]
    assert parse_action({"choices": choices}).words == ["up"]
    choices.append({"message": OPENAI, "finish_reason": "tool_calls"})
    assert parse_action({"choices": choices}).calls[0].id == "c1"
    assert parse_action(choices).calls[0].id == "c1"


def test_the_form_is_named() -> None:
    named = {form: parse_action(action).form for form, action in FORMS.items()}
    assert named["a completion"] == "tool_calls"
    assert named["function_call"] == "function_call"
    assert named["items of Responses"] == "responses"
    assert named["a message of Anthropic's"] == "anthropic"
    assert named["a content of Gemini's"] == "gemini"


def test_an_object_that_cannot_tell_its_content_is_a_fault() -> None:
    class Broken:
        def model_dump(self) -> Any:
            raise RuntimeError

    assert parse_action(Broken()).fault is not None
    with pytest.raises(TypeError):
        orjson.dumps(object(), default=plain_value)


def test_a_call_that_stands_for_several_or_none_is_one_fault() -> None:
    message = {
        "role": "assistant",
        "tool_calls": [{"id": "c1", "tool_calls": [GO, GO]}, [], {"id": "c2", "function": GO}],
    }
    calls = parse_action(message).calls
    assert [call.fault is None for call in calls] == [False, False, True]
    assert calls[2].id == "c2"


class Unreadable:
    """An object whose every access fails."""

    def __getitem__(self, key: object) -> object:
        raise AttributeError

    def tolist(self) -> object:
        raise RuntimeError


@pytest.mark.parametrize("action", [("up",), np.array(["up"]), np.str_("up"), np.array("up")])
def test_tuples_and_values_of_numpy_are_read_as_lists_and_texts(action: object) -> None:
    assert [message.text for message in read_messages(action)] == ["up"]


@pytest.mark.parametrize(
    "action", [np.int64(2), np.array([2.5]), np.array(None), Unreadable(), np.zeros((2, 2))]
)
def test_values_that_are_no_message_are_read_without_an_error(action: object) -> None:
    assert read_single_call(action, {"up"}) is None
    assert not any(message.text or message.calls for message in read_messages(action))
