"""What requests may hold."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from verl_agent_env.seeds import MAX_SEED
from verl_agent_env.wire.schemas import (
    MAX_TTL_S,
    BatchCloseRequest,
    BatchInitializeRequest,
    BatchResetRequest,
    BatchStepRequest,
    InitializeRequest,
    RequestBody,
    ResetRequest,
    StepRequest,
)

ALL = [
    InitializeRequest,
    ResetRequest,
    StepRequest,
    BatchInitializeRequest,
    BatchResetRequest,
    BatchStepRequest,
    BatchCloseRequest,
]


@pytest.mark.parametrize("model", ALL)
def test_examples_are_valid(model: type[RequestBody]) -> None:
    examples = model.model_json_schema()["examples"]
    assert examples
    for example in examples:
        model.model_validate(example)


@pytest.mark.parametrize("model", ALL)
def test_unknown_fields_are_refused(model: type[RequestBody]) -> None:
    example = model.model_json_schema()["examples"][0]
    with pytest.raises(ValidationError, match="Extra inputs"):
        model.model_validate({**example, "env_nam": 1})


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 0},
        {"seed": MAX_SEED},
        {"seed": None},
        {"ttl_s": MAX_TTL_S},
        {"ttl_s": 1},
        {"run_id": "r"},
        {"env_kwargs": {"a": [1]}},
    ],
)
def test_initialize_takes(fields: dict[str, Any]) -> None:
    InitializeRequest.model_validate({"env_name": "x", **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": -1},
        {"seed": MAX_SEED + 1},
        {"seed": "1"},
        {"seed": 1.0},
        {"seed": True},
        {"ttl_s": 0},
        {"ttl_s": -1.0},
        {"ttl_s": MAX_TTL_S * 2},
        {"ttl_s": float("inf")},
        {"ttl_s": "60"},
        {"run_id": ""},
        {"run_id": "r" * 129},
        {"env_name": ""},
        {"env_name": "x" * 129},
        {"env_name": 7},
        {"env_kwargs": []},
        {"env_kwargs": None},
    ],
)
def test_initialize_refuses(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        InitializeRequest.model_validate({"env_name": "x", **fields})


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({"env_names": ["a", "b"]}, 2),
        ({"env_name": "a", "num_envs": 3}, 3),
        ({"env_name": "a", "num_envs": 0}, 0),
        ({"env_name": "a", "seeds": [1, None]}, 2),
        ({"env_name": "a", "env_kwargs": [{}, {}, {}]}, 3),
        ({"env_names": ["a"], "seeds": [1], "env_kwargs": [{}], "num_envs": 1}, 1),
        ({"env_names": ["a", "b"], "env_kwargs": {"x": 1}}, 2),
        ({"env_names": []}, 0),
    ],
)
def test_batch_initialize_tells_how_many(fields: dict[str, Any], size: int) -> None:
    assert BatchInitializeRequest.model_validate(fields).size == size


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"env_name": "a"},
        {"env_name": "a", "env_kwargs": {}},
        {"env_names": ["a"], "env_name": "a"},
        {"num_envs": 3},
        {"env_names": ["a", "b"], "seeds": [1]},
        {"env_name": "a", "seeds": [1], "num_envs": 2},
        {"env_name": "a", "num_envs": -1},
        {"env_names": ["a", ""]},
    ],
)
def test_batch_initialize_refuses(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        BatchInitializeRequest.model_validate(fields)


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (BatchStepRequest, {"env_ids": ["a"], "actions": []}),
        (BatchStepRequest, {"env_ids": ["a"], "actions": [1], "seqs": [0, 1]}),
        (BatchStepRequest, {"env_ids": ["a"], "actions": [1], "seqs": [-1]}),
        (BatchStepRequest, {"env_ids": ["a"]}),
        (BatchResetRequest, {"env_ids": ["a"], "seeds": [1, 2]}),
        (BatchResetRequest, {"env_ids": ["a"], "options": [{}, {}]}),
        (BatchResetRequest, {"env_ids": [""]}),
        (BatchCloseRequest, {}),
        (BatchCloseRequest, {"env_ids": ["a"], "run_id": "r"}),
    ],
)
def test_other_batches_refuse(model: type[RequestBody], fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        model.model_validate(fields)


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (BatchStepRequest, {"env_ids": [], "actions": []}),
        (BatchStepRequest, {"env_ids": ["a", "a"], "actions": [1, {}], "seqs": [0, None]}),
        (BatchResetRequest, {"env_ids": ["a"], "options": {"x": 1}}),
        (BatchResetRequest, {"env_ids": ["a", "b"], "options": [{}, None], "seeds": [None, 1]}),
        (BatchCloseRequest, {"env_ids": []}),
    ],
)
def test_other_batches_take(model: type[RequestBody], fields: dict[str, Any]) -> None:
    model.model_validate(fields)
