"""The endpoint is asked again where that helps, and only there."""

from __future__ import annotations

import itertools

import pytest

from tests.examples.model_server import ModelServer, serving_model
from verl_agent_env.evaluation import ChatModel, ModelRefusedError, ModelUnavailableError
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
    assert answer == (SAID, 10, 2)
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
