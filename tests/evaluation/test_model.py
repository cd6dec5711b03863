"""The endpoint is asked again where that helps, and only there."""

from __future__ import annotations

import itertools
from typing import Any

import jsonschema
import pytest

from tests.examples.model_server import ModelServer, serving_model
from verl_agent_env.evaluation import (
    ChatModel,
    ConversationRefusedError,
    ModelRefusedError,
    ModelUnavailableError,
)
from verl_agent_env.evaluation import model as model_module

SAID = {"role": "assistant", "content": "<action>right</action>"}
ASKED = [{"role": "user", "content": "well?"}]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_module, "_FIRST_PAUSE_S", 0.001)


def model_at(server: ModelServer, max_tries: int = 8) -> ChatModel:
    return ChatModel(f"{server.url}/v1", "m", key="k", temperature=0.5, max_tries=max_tries)


async def test_answer_comes_despite_troubles_with_its_tokens() -> None:
    with serving_model([SAID], troubles=[429, 500, None, 503]) as server:
        async with model_at(server) as model:
            answer = await model.ask(ASKED, [])
    assert answer == (SAID, 10, 2, "stop", "", "")
    path, request = server.requests[-1]
    assert path == "/v1/chat/completions"
    assert request == {"model": "m", "temperature": 0.5, "messages": ASKED}


async def test_tool_calls_and_silence_are_answers() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "move_right", "arguments": "{}"}}
    with serving_model([{"role": "assistant", "tool_calls": [call]}, {"role": "assistant"}]) as server:
        async with model_at(server) as model:
            first, second = await model.ask(ASKED, []), await model.ask(ASKED, [])
    assert first.message == {"role": "assistant", "content": "", "tool_calls": [call]}
    assert second.message == {"role": "assistant", "content": ""}


async def test_refusal_is_told_at_once() -> None:
    with serving_model([], troubles=[401]) as server:
        async with model_at(server) as model:
            with pytest.raises(ModelRefusedError, match="status 401"):
                await model.ask(ASKED, [])
    assert len(server.requests) == 1


async def test_endpoint_that_never_answers_is_given_up() -> None:
    with serving_model([], troubles=itertools.repeat(500)) as server:
        async with model_at(server, max_tries=3) as model:
            with pytest.raises(ModelUnavailableError, match="asked 3 times: status 500"):
                await model.ask(ASKED, [])
    assert len(server.requests) == 3


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "move",
            "parameters": {
                "type": "object",
                "properties": {"direction": {"enum": ["left", "right"]}},
                "required": ["direction"],
            },
        },
    },
    {"type": "function", "function": {"name": "wait", "parameters": {"type": "object", "properties": {}}}},
]
TOO_LONG: list[tuple[int, dict[str, Any]]] = [
    (
        400,
        {
            "error": {
                "code": "context_length_exceeded",
                "message": "This model's maximum context length is 8192",
            }
        },
    ),
    (
        400,
        {
            "object": "error",
            "message": "This model's maximum context length is 4096 tokens. However, you requested",
        },
    ),
    (
        400,
        {
            "error": {
                "code": 400,
                "type": "exceed_context_size_error",
                "message": "the request exceeds the available",
            }
        },
    ),
    (400, {"message": "The input (5000 tokens) is longer than the model's context length (4096 tokens)."}),
    (400, {"error": {"message": "prompt is too long: 210000 tokens > 200000 maximum"}}),
    (
        422,
        {
            "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. more than the token limit"
        },
    ),
    (413, {"error": {"message": "Request too large"}}),
    *(
        (400, {"error": {"message": message}})
        for message in (
            "This model's maximum prompt length is 131072 but the request contains 150000 tokens.",
            "The decoder prompt (length 4097) is longer than the maximum model length of 4096.",
            "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097. Given: 5000",
            "Input validation error: `inputs` must have less than 1024 tokens. Given: 1500",
            "too many tokens: size limit exceeded by 300 tokens. Try using shorter or fewer inputs.",
            "Range of input length should be [1, 30720]",
            "Please reduce the length of the messages or completion.",
            "input length and `max_tokens` exceed context limit: 190000 + 21333 > 200000",
            "Prompt 超长",
        )
    ),
    (500, {"error": {"message": "context size has been exceeded"}}),
    (
        400,
        {
            "error": {
                "message": "The input token count (1048577) exceeds the maximum number of tokens allowed (1048576)."
            }
        },
    ),
]
FILTERED: list[tuple[int, dict[str, Any]]] = [
    (400, {"error": {"code": "content_filter", "message": "The response was filtered"}}),
    (
        400,
        {"error": {"code": "invalid_prompt", "message": "flagged as potentially violating our usage policy"}},
    ),
    (403, {"error": {"message": "Your input was flagged by moderation"}}),
    *(
        (400, {"error": {"message": message}})
        for message in (
            "DataInspectionFailed: Input data may contain inappropriate content.",
            "Content Exists Risk",
            "The request was rejected because it was considered high risk",
            "Your request was rejected as a result of our safety system",
            "input new_sensitive",
            "系统检测到输入或生成内容可能包含不安全或敏感内容",
        )
    ),
]


def body(message: Any, finish_reason: str = "stop", **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "finish_reason": finish_reason, "message": message}], **fields}


def refusal(status: int, document: dict[str, Any]) -> dict[str, Any]:
    return {"status": status, "body": document}


@pytest.mark.parametrize(("status", "document"), TOO_LONG)
async def test_conversation_that_became_too_long_is_known_as_such(
    status: int, document: dict[str, Any]
) -> None:
    with serving_model([refusal(status, document)]) as server:
        async with model_at(server) as model:
            with pytest.raises(ConversationRefusedError) as caught:
                await model.ask(ASKED, [])
    assert caught.value.out_of_context
    assert len(server.requests) == 1


@pytest.mark.parametrize(("status", "document"), FILTERED)
async def test_conversation_that_a_filter_stops_is_refused_alone(
    status: int, document: dict[str, Any]
) -> None:
    with serving_model([refusal(status, document), SAID]) as server:
        async with model_at(server) as model:
            with pytest.raises(ConversationRefusedError) as caught:
                await model.ask(ASKED, [])
            assert (await model.ask(ASKED, [])).message == SAID
    assert not caught.value.out_of_context


@pytest.mark.parametrize(
    "answer",
    [
        body({"content": None}, "content_filter"),
        *(body({"content": None}, reason) for reason in ("SAFETY", "RECITATION", "refusal", "sensitive")),
        body({"content": None, "refusal": "I can't help with that."}),
        body({"content": "", "refusal": "No."}),
    ],
)
async def test_answer_that_is_none_is_a_refusal_of_the_conversation(answer: dict[str, Any]) -> None:
    with serving_model([answer]) as server:
        async with model_at(server) as model:
            with pytest.raises(ConversationRefusedError):
                await model.ask(ASKED, [])


async def test_rate_limit_in_tokens_is_waited_for() -> None:
    limit = refusal(
        429, {"error": {"message": "This request would exceed your rate limit of 40,000 input tokens"}}
    )
    with serving_model([limit, SAID]) as server:
        async with model_at(server) as model:
            assert (await model.ask(ASKED, [])).message == SAID


async def test_unexplained_refusals_before_any_answer_are_refusals_of_all() -> None:
    unexplained = refusal(400, {"error": {"message": "Unsupported value: 'temperature'"}})
    with serving_model(itertools.repeat(unexplained)) as server:
        async with model_at(server) as model:
            for _ in range(3):
                with pytest.raises(ConversationRefusedError):
                    await model.ask(ASKED, [])
            with pytest.raises(ModelRefusedError, match="temperature"):
                await model.ask(ASKED, [])


async def test_unexplained_refusals_after_an_answer_are_each_their_own() -> None:
    unexplained = refusal(400, {"error": {"message": "bad request"}})
    with serving_model([SAID, *[unexplained] * 9]) as server:
        async with model_at(server) as model:
            await model.ask(ASKED, [])
            for _ in range(9):
                with pytest.raises(ConversationRefusedError):
                    await model.ask(ASKED, [])


async def test_limit_of_tokens_is_sent_under_the_name_that_the_model_knows() -> None:
    renamed = refusal(
        400, {"error": {"message": "Unsupported: 'max_tokens'. Use 'max_completion_tokens' instead."}}
    )
    with serving_model([renamed, SAID, SAID]) as server:
        async with ChatModel(f"{server.url}/v1", "m", max_tokens=7) as model:
            assert (await model.ask(ASKED, [])).message == SAID
            await model.ask(ASKED, [])
    sent = [(q.get("max_tokens"), q.get("max_completion_tokens")) for _, q in server.requests]
    assert sent == [(7, None), (None, 7), (None, 7)]


async def test_reasoning_and_cut_are_told_apart_from_what_is_sent_back() -> None:
    said = {"role": "assistant", "content": "left", "reasoning_content": "hm", "audio": None}
    with serving_model(
        [body(said, "length", usage={"prompt_tokens": 3, "completion_tokens": None})]
    ) as server:
        async with model_at(server) as model:
            answer = await model.ask(ASKED, [])
    assert answer == ({"role": "assistant", "content": "left"}, 3, 0, "length", "hm", "")


@pytest.mark.parametrize("reason", ["length", "MAX_TOKENS", "max_tokens", "model_length"])
async def test_an_answer_that_is_cut_off_is_known_under_every_name(reason: str) -> None:
    with serving_model([body(SAID, reason)]) as server:
        async with model_at(server) as model:
            assert (await model.ask(ASKED, [])).finish_reason == "length"


async def test_of_several_choices_the_one_that_acts_is_taken() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "wait", "arguments": "{}"}}
    choices = [
        {"finish_reason": "stop", "message": {"content": None}},
        {"finish_reason": "stop", "message": {"content": "I wait."}},
        {"finish_reason": "tool_calls", "message": {"content": None, "tool_calls": [call]}},
    ]
    with serving_model([{"choices": choices}, {"choices": choices[:2]}]) as server:
        async with model_at(server) as model:
            first, second = await model.ask(ASKED, []), await model.ask(ASKED, [])
    assert first.message["tool_calls"] == [call]
    assert second.message == {"role": "assistant", "content": "I wait."}


@pytest.mark.parametrize("answer_format", ["tools", "text", "json"])
async def test_model_is_asked_to_act_in_the_chosen_format(answer_format: Any) -> None:
    with serving_model([SAID, SAID]) as server:
        async with ChatModel(f"{server.url}/v1", "m", answer_format=answer_format) as model:
            await model.ask(ASKED, TOOLS)
            await model.ask(ASKED, [])
    with_tools, without = (set(request) - {"model", "messages"} for _, request in server.requests)
    assert with_tools == {"tools": {"tools"}, "text": set(), "json": {"response_format"}}[answer_format]
    assert without == set()
    if answer_format == "json":
        schema = server.requests[0][1]["response_format"]["json_schema"]["schema"]
        jsonschema.validate({"name": "move", "arguments": {"direction": "left"}}, schema)
        for wrong in ({"name": "move", "arguments": {}}, {"name": "jump", "arguments": {}}, {"name": "wait"}):
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(wrong, schema)
