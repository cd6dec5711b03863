"""JSON of requests and answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

from verl_agent_env.errors import InvalidRequestError, MalformedBodyError
from verl_agent_env.wire.codec import decode, decode_step, encode, encode_kept, parse_error
from verl_agent_env.wire.schemas import BatchStepRequest, InitializeRequest, ResetRequest

# --- requests ----------------------------------------------------------------------------------------------------


def test_empty_body_is_an_empty_object() -> None:
    assert decode(b"", ResetRequest) == ResetRequest()


def test_a_body_for_which_there_is_no_memory_is_not_malformed() -> None:
    told = orjson.JSONDecodeError("Not enough memory to allocate buffer for parsing", "", 0)
    assert isinstance(parse_error(told), MemoryError)
    assert isinstance(
        parse_error(orjson.JSONDecodeError("unexpected end of data", "", 0)), MalformedBodyError
    )


@pytest.mark.parametrize("body", [b"{", b"nonsense", b'{"a": NaN}', b"\xff", b'{"a":"\\ud800"}', b"[" * 3000])
def test_body_that_is_no_json_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedBodyError):
        decode(body, ResetRequest)
    with pytest.raises(MalformedBodyError):
        decode_step(body)


@pytest.mark.parametrize("body", [b"[]", b"null", b"1", b'"text"'])
def test_body_that_is_no_object_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedBodyError):
        decode(body, ResetRequest)
    with pytest.raises(MalformedBodyError):
        decode_step(body)


def test_fault_names_its_place() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        decode(b'{"env_name": "x", "seed": -1}', InitializeRequest)
    assert [fault["loc"] for fault in caught.value.errors] == [["seed"]]


def test_only_the_first_faults_are_told() -> None:
    body = orjson.dumps({f"unknown_{i}": i for i in range(1000)})
    with pytest.raises(InvalidRequestError) as caught:
        decode(body, ResetRequest)
    assert len(caught.value.errors) == 20


def test_long_names_are_not_sent_back() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        decode(orjson.dumps({"x" * 100_000: 1}), ResetRequest)
    assert len(orjson.dumps(caught.value.to_problem())) < 1000


def test_batch_of_wrong_items_is_told_of_in_brief() -> None:
    body = orjson.dumps({"env_ids": [7] * 50_000, "actions": []})
    with pytest.raises(InvalidRequestError) as caught:
        decode(body, BatchStepRequest)
    assert len(caught.value.errors) <= 20


def test_what_was_sent_is_not_part_of_the_answer() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        decode(b'{"env_name": "x", "seed": "my secret"}', InitializeRequest)
    assert b"secret" not in orjson.dumps(caught.value.to_problem())


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"action": "up"}, ("up", None)),
        ({"action": "up", "seq": 3}, ("up", 3)),
        ({"action": "up", "seq": 0}, ("up", 0)),
        ({"action": "up", "seq": None}, ("up", None)),
        ({"action": None}, (None, None)),
        ({"action": {"role": "assistant"}, "seq": 1}, ({"role": "assistant"}, 1)),
    ],
)
def test_step_is_read(body: Any, expected: Any) -> None:
    assert decode_step(orjson.dumps(body)) == expected


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ({}, "action"),
        ({"seq": 1}, "action"),
        ({"action": "up", "seq": -1}, "seq"),
        ({"action": "up", "seq": True}, "seq"),
        ({"action": "up", "seq": "1"}, "seq"),
        ({"action": "up", "seq": 1.0}, "seq"),
        ({"action": "up", "number": 1}, "number"),
        ({"action": "up", "seq": 1, "number": 1}, "number"),
    ],
)
def test_wrong_step_is_refused(body: Any, loc: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        decode_step(orjson.dumps(body))
    assert caught.value.errors[0]["loc"] == [loc]


# --- values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [encode, encode_kept])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.arange(6).reshape(2, 3), [[0, 1, 2], [3, 4, 5]]),
        ({"a": np.float64(0.5), 3: np.bool_(False)}, {"a": 0.5, "3": False}),
        (float("nan"), None),
    ],
)
def test_numpy_and_odd_keys_are_written(write: Any, value: Any, expected: Any) -> None:
    assert orjson.loads(write(value)) == expected


@pytest.mark.parametrize("write", [encode, encode_kept])
def test_what_json_cannot_say_is_a_type_error(write: Any) -> None:
    with pytest.raises(TypeError):
        write({"a": object()})
