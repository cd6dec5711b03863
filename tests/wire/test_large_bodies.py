"""Bodies of large batches: read bit by bit, to the same requests."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

from verl_agent_env.errors import (
    ActionTooLargeError,
    BatchTooLargeError,
    BodyTooComplexError,
    BodyTooLargeError,
    InvalidRequestError,
    MalformedBodyError,
)
from verl_agent_env.wire import codec
from verl_agent_env.wire.codec import decode
from verl_agent_env.wire.large_bodies import UnreadJson, decode_batch, read_item, require_size, write_unread
from verl_agent_env.wire.schemas import (
    BatchCloseRequest,
    BatchInitializeRequest,
    BatchResetRequest,
    BatchStepRequest,
    InternalStepRequest,
    ResetRequest,
)

COUNT = 60_000
ACTION = {
    "role": "assistant",
    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "é", "arguments": "{}"}}],
}
IDS = [f"{number:032x}" for number in range(COUNT)]
STEPS: dict[str, Any] = {"env_ids": IDS, "actions": [ACTION] * COUNT, "seqs": [*range(COUNT - 1), None]}


class Turns:
    """Counts the turns that were given to others."""

    count = 0

    async def __call__(self) -> None:
        self.count += 1


@pytest.fixture
def turns() -> Turns:
    return Turns()


async def test_steps_are_read_in_turns_and_their_actions_later(turns: Turns) -> None:
    wanted = await decode_batch(orjson.dumps(STEPS), BatchStepRequest, turns)
    assert turns.count > 4
    assert (wanted.env_ids, wanted.seqs) == (IDS, STEPS["seqs"])
    assert all(type(action) is UnreadJson for action in wanted.actions)
    assert [read_item(action) for action in wanted.actions] == STEPS["actions"]
    # What is sent on is sent on unread.
    assert orjson.dumps(wanted.actions[:2], write_unread) == orjson.dumps([ACTION] * 2)


@pytest.mark.parametrize(
    ("model", "document"),
    [
        (BatchInitializeRequest, {"env_name": "sokoban", "env_kwargs": [{"a": [1, 2], "b": 3}] * COUNT}),
        (BatchInitializeRequest, {"env_names": ["x"] * 300_000, "seeds": [7] * 300_000, "run_id": "r"}),
        (BatchResetRequest, {"env_ids": IDS, "options": [{"a": {}, "b": [1, 2, 3]}, None] * (COUNT // 2)}),
        (BatchResetRequest, {"env_ids": IDS * 5, "options": {"a": 1}}),
        (BatchCloseRequest, {"env_ids": IDS * 5}),
    ],
)
async def test_other_batches_are_read_to_the_same_request(
    turns: Turns, model: type[Any], document: dict[str, Any]
) -> None:
    body = orjson.dumps(document)
    assert not codec.is_parsed_at_once(body)
    wanted = await decode_batch(body, model, turns)
    assert wanted == model.model_validate(document)
    assert turns.count > 2


async def test_internal_parts_are_read_too(turns: Turns) -> None:
    part = {**STEPS, "operations": ["o"] * COUNT}
    wanted = await decode_batch(orjson.dumps(part), InternalStepRequest, turns)
    assert wanted.operations == part["operations"]


@pytest.mark.parametrize(
    ("document", "loc"),
    [
        ({**STEPS, "more": 1}, []),
        ({**STEPS, "env_ids": [3] * COUNT}, ["env_ids", 0]),
        ({**STEPS, "env_ids": [*IDS[:-1], ""]}, ["env_ids", COUNT - 1]),
        ({**STEPS, "seqs": [0]}, []),
        ({**STEPS, "seqs": [-1] * COUNT}, ["seqs", 0]),
    ],
)
async def test_what_breaks_the_schema_is_invalid(
    turns: Turns, document: dict[str, Any], loc: list[Any]
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await decode_batch(orjson.dumps(document), BatchStepRequest, turns)
    assert caught.value.errors[0]["loc"] == loc


@pytest.mark.parametrize(
    "change", [lambda body: body[:-1], lambda body: body[:-3] + b"}}", lambda body: body + b"x"]
)
async def test_what_is_no_json_is_malformed(turns: Turns, change: Any) -> None:
    with pytest.raises(MalformedBodyError):
        await decode_batch(change(orjson.dumps(STEPS)), BatchStepRequest, turns)


async def test_an_item_that_cannot_be_read_fails_alone(turns: Turns) -> None:
    bad = {**STEPS, "actions": ["text", *STEPS["actions"][1:]]}
    body = orjson.dumps(bad).replace(b'"text"', b'"\xff"')
    wanted = await decode_batch(body, BatchStepRequest, turns)
    with pytest.raises(MalformedBodyError):
        read_item(wanted.actions[0])
    assert read_item(wanted.actions[1]) == ACTION


@pytest.mark.parametrize(
    "body",
    [
        b'{"env_ids":[],"actions":[%b]}' % b",".join([b"{}"] * 1_200_000),
        b'{"env_ids":[],"actions":{"a":[%b]}}' % b",".join([b"100"] * 400_000),
    ],
)
async def test_too_many_values_are_refused_before_they_are_made(turns: Turns, body: bytes) -> None:
    with pytest.raises(BodyTooComplexError):
        await decode_batch(body, BatchStepRequest, turns)


@pytest.mark.parametrize("column", [b'["%b"]', b'{"a":"%b"}', b'"%b"'])
async def test_a_value_too_long_to_be_read_at_once_is_too_large(turns: Turns, column: bytes) -> None:
    body = b'{"env_ids":%b,"actions":[]}' % (column % (b"x" * codec.MAX_BYTES_AT_ONCE))
    with pytest.raises(BodyTooLargeError) as caught:
        await decode_batch(body, BatchStepRequest, turns)
    assert caught.value.max_body_bytes == codec.MAX_BYTES_AT_ONCE


async def test_an_action_too_long_to_be_read_fails_alone(turns: Turns) -> None:
    body = b'{"env_ids":["a","b"],"actions":["%b",1]}' % (b"x" * codec.MAX_BYTES_AT_ONCE)
    wanted = await decode_batch(body, BatchStepRequest, turns)
    with pytest.raises(ActionTooLargeError):
        require_size(wanted.actions[0], 1000)
    assert read_item(wanted.actions[1]) == 1


async def test_what_is_read_later_is_no_copy(turns: Turns) -> None:
    body = orjson.dumps(STEPS)
    wanted = await decode_batch(body, BatchStepRequest, turns)
    view = memoryview(wanted.actions[-1])
    at = body.rindex(bytes(view))
    assert np.frombuffer(view, np.uint8).ctypes.data == np.frombuffer(body, np.uint8).ctypes.data + at


async def test_more_items_than_a_batch_may_have_are_not_made(turns: Turns) -> None:
    body = orjson.dumps(STEPS)
    for model in (BatchStepRequest, BatchCloseRequest):
        text = body if model is BatchStepRequest else orjson.dumps({"env_ids": IDS * 5})
        with pytest.raises(BatchTooLargeError) as caught:
            await decode_batch(text, model, turns, COUNT - 1)
        assert caught.value.max_batch_size == COUNT - 1


def test_a_single_request_is_bounded_as_well() -> None:
    body = b'{"options":{"a":[%b]}}' % b",".join([b"100"] * 400_000)
    with pytest.raises(BodyTooComplexError):
        decode(body, ResetRequest)


def test_an_action_that_is_far_too_large_is_not_read() -> None:
    require_size(UnreadJson(b"x" * 800), 100)
    with pytest.raises(ActionTooLargeError):
        require_size(UnreadJson(b"x" * 801), 100)
