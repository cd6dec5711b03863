"""Parts of batches between workers: nothing is lost or shifted on the way, and what is no part is refused."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_agent_env.errors import (
    EnvironmentLostError,
    EnvironmentNotFoundError,
    InternalError,
    InvalidRequestError,
    MovedError,
    SequenceGapError,
    VerlAgentEnvError,
    WorkerUnreachableError,
)
from verl_agent_env.wire.parts import (
    decode_closed_part,
    decode_created_part,
    decode_reset_part,
    decode_run_part,
    decode_step_part,
    encode_closed_part,
    encode_created_part,
    encode_reset_part,
    encode_run_part,
    encode_step_part,
)
from verl_agent_env.wire.results import Created, EncodedReset, EncodedStep

json_bytes = st.binary(max_size=40)
errors = st.one_of(
    st.builds(EnvironmentNotFoundError, st.text(max_size=40)),
    st.builds(EnvironmentLostError, st.text(max_size=40), st.text(max_size=40)),
    st.builds(MovedError, st.integers(0, 4095)),
    st.builds(WorkerUnreachableError, st.text(max_size=20), may_have_run=st.booleans()),
    st.just(SequenceGapError("e", 5, 3)),
    st.just(InvalidRequestError([{"loc": ["action", 1], "msg": "no"}])),
)
rewards = st.floats(allow_nan=False, allow_infinity=False)
steps = st.builds(EncodedStep, json_bytes, rewards, st.booleans(), st.booleans(), json_bytes)
resets = st.builds(EncodedReset, json_bytes, json_bytes)

DECODERS: tuple[Callable[[bytes], Any], ...] = (
    decode_step_part,
    decode_reset_part,
    decode_created_part,
    decode_closed_part,
)


def seen(results: Sequence[Any]) -> list[Any]:
    """Results as values that can be compared."""

    def value(result: Any) -> Any:
        if isinstance(result, VerlAgentEnvError):
            return type(result), result.fields()
        if isinstance(result, tuple):
            return result[0], value(result[1])
        if isinstance(result, EncodedReset):
            return result.observation, result.info
        if isinstance(result, EncodedStep):
            # As text: a zero with a sign is another number.
            flags = (result.terminated, result.truncated)
            return result.observation, repr(result.reward), flags, result.info
        return result

    return [value(result) for result in results]


def part_of(header: Any, pieces: bytes = b"") -> bytes:
    head = orjson.dumps(header)
    return len(head).to_bytes(4, "big") + head + pieces


@given(st.lists(steps | errors, max_size=12))
def test_steps_arrive_as_they_were_sent(results: list[EncodedStep | VerlAgentEnvError]) -> None:
    assert seen(decode_step_part(encode_step_part(results))) == seen(results)


@given(st.lists(resets | errors, max_size=12))
def test_resets_arrive_as_they_were_sent(results: list[EncodedReset | VerlAgentEnvError]) -> None:
    assert seen(decode_reset_part(encode_reset_part(results))) == seen(results)


@given(st.lists(st.builds(Created, st.text(max_size=40), resets) | errors, max_size=12))
def test_new_environments_arrive_as_they_were_sent(results: list[Created | VerlAgentEnvError]) -> None:
    assert seen(decode_created_part(encode_created_part(results))) == seen(results)


@given(st.lists(st.none() | errors, max_size=12))
def test_closings_arrive_as_they_were_sent(results: list[VerlAgentEnvError | None]) -> None:
    assert seen(decode_closed_part(encode_closed_part(results))) == seen(results)


def test_an_error_of_a_later_version_is_still_an_error() -> None:
    problem = {"code": "not_known_here", "detail": "?"}
    (result,) = decode_step_part(
        part_of({"rewards": [], "terminated": [], "truncated": [], "lengths": [], "errors": [[0, problem]]})
    )
    assert isinstance(result, InternalError)


STEP = {"rewards": [1.0], "terminated": [False], "truncated": [False], "lengths": [2, 2], "errors": []}
MOVED = MovedError(1).to_problem()


@pytest.mark.parametrize(
    "part",
    [
        b"",
        b"\0\0",
        b"\0\0\0\xff{}",
        b"not a part at all",
        part_of([]),
        part_of({}),
        part_of(STEP, b"[]{"),
        part_of(STEP, b"[]{}x"),
        part_of({**STEP, "lengths": [2]}, b"[]"),
        part_of({**STEP, "lengths": [5, -1]}, b"[]{}"),
        part_of({**STEP, "lengths": ["2", 2]}, b"[]{}"),
        part_of({**STEP, "lengths": None}, b"[]{}"),
        part_of({**STEP, "rewards": []}, b"[]{}"),
        part_of({**STEP, "rewards": [None]}, b"[]{}"),
        part_of({**STEP, "terminated": ["no"]}, b"[]{}"),
        part_of({**STEP, "truncated": {}}, b"[]{}"),
        part_of({**STEP, "errors": [[2, MOVED]]}, b"[]{}"),
        part_of({**STEP, "errors": [[-1, MOVED]]}, b"[]{}"),
        part_of({**STEP, "errors": [["0", MOVED]]}, b"[]{}"),
        part_of({**STEP, "errors": [[[], MOVED]]}, b"[]{}"),
        part_of({**STEP, "errors": [0]}, b"[]{}"),
        part_of({**STEP, "errors": [[0, "moved"]]}, b"[]{}"),
        part_of({**STEP, "errors": None}, b"[]{}"),
    ],
)
def test_what_is_no_part_of_steps_is_a_value_error(part: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - JSON's own is one, too
        decode_step_part(part)


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"errors": []},
        {"size": 1},
        {"size": -1, "errors": []},
        {"size": "1", "errors": []},
        {"size": True, "errors": []},
        {"size": 1 << 60, "errors": []},
        {"size": 1, "errors": [[1, MOVED]]},
        {"size": 0, "errors": [[0, MOVED]]},
    ],
)
def test_what_is_no_part_of_closings_is_a_value_error(header: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - as above
        decode_closed_part(orjson.dumps(header))


def test_part_of_a_run_comes_back() -> None:
    assert decode_run_part(encode_run_part(7, {4095, 0, 12})) == (7, {0, 12, 4095})


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"closed": 1},
        {"slots": []},
        {"closed": True, "slots": []},
        {"closed": -1, "slots": []},
        {"closed": 1, "slots": ["1"]},
        {"closed": 1, "slots": None},
    ],
)
def test_what_is_no_part_of_a_run_is_a_value_error(header: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - as above
        decode_run_part(orjson.dumps(header))


@given(st.binary(max_size=60))
def test_bytes_of_any_kind_are_a_part_or_a_value_error(part: bytes) -> None:
    for decode in DECODERS:
        for given_bytes in (part, len(part).to_bytes(4, "big") + part):
            with contextlib.suppress(ValueError):
                assert isinstance(decode(given_bytes), list)


@given(st.lists(steps | errors, min_size=1, max_size=4), st.data())
def test_a_part_that_was_cut_short_is_refused(
    results: list[EncodedStep | VerlAgentEnvError], data: st.DataObject
) -> None:
    part = encode_step_part(results)
    with pytest.raises(ValueError):  # noqa: PT011 - as above
        decode_step_part(part[: data.draw(st.integers(0, len(part) - 1))])
