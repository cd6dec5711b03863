"""Bodies of batch answers."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from verl_agent_env.errors import (
    EnvironmentNotFoundError,
    InvalidEnvArgumentsError,
    SequenceGapError,
    VerlAgentEnvError,
)
from verl_agent_env.wire.batches import (
    encode_closed,
    encode_errors,
    encode_initialized,
    encode_resets,
    encode_steps,
)
from verl_agent_env.wire.results import Created, EncodedReset, EncodedStep

STEP = EncodedStep.of(([{"role": "user", "content": "a"}], 0.5, True, False, {"n": 1}))
RESET = EncodedReset.of([{"role": "user", "content": "b"}], {"seed": 1})
GONE = EnvironmentNotFoundError("000-x")
GAP = SequenceGapError("000-y", 5, 2)


def problem(index: int, error: VerlAgentEnvError) -> dict[str, Any]:
    return {"index": index, **error.to_problem()}


def test_steps_are_columns_with_null_where_they_failed() -> None:
    assert orjson.loads(encode_steps([GONE, STEP, GAP])) == {
        "observations": [None, [{"role": "user", "content": "a"}], None],
        "rewards": [None, 0.5, None],
        "terminations": [None, True, None],
        "truncations": [None, False, None],
        "infos": [None, {"n": 1}, None],
        "errors": [problem(0, GONE), problem(2, GAP)],
    }


def test_resets_are_columns_with_null_where_they_failed() -> None:
    assert orjson.loads(encode_resets([RESET, GONE])) == {
        "observations": [[{"role": "user", "content": "b"}], None],
        "infos": [{"seed": 1}, None],
        "errors": [problem(1, GONE)],
    }


def test_initialized_name_their_ids() -> None:
    assert orjson.loads(encode_initialized([GONE, Created("000-a", RESET)])) == {
        "env_ids": [None, "000-a"],
        "observations": [None, [{"role": "user", "content": "b"}]],
        "infos": [None, {"seed": 1}],
        "errors": [problem(0, GONE)],
    }


def test_closed_are_counted() -> None:
    assert orjson.loads(encode_closed(3, [(1, GONE)])) == {"closed": 3, "errors": [problem(1, GONE)]}


@pytest.mark.parametrize("encode_all", [encode_steps, encode_resets, encode_initialized])
def test_empty_batch_has_empty_columns(encode_all: Any) -> None:
    assert all(column == [] for column in orjson.loads(encode_all([])).values())


def test_item_errors_carry_a_few_of_their_faults() -> None:
    error = InvalidEnvArgumentsError("x", [{"loc": [i], "msg": "wrong"} for i in range(100)])
    (item,) = orjson.loads(encode_errors([(0, error)]))
    assert [fault["loc"] for fault in item["errors"]] == [[0], [1], [2]]
    assert len(error.errors) == 100
