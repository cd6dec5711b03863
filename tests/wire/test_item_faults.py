"""Of a batch with wrong items, the others are read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from verl_agent_env.errors import InvalidRequestError, MalformedBodyError
from verl_agent_env.wire.item_faults import decode_items
from verl_agent_env.wire.schemas import (
    BatchInitializeRequest,
    BatchResetRequest,
    BatchStepRequest,
    RequestBody,
)

IDS = ["a", "b", "c"]
NAME = "frozen_lake"


async def turn() -> None:
    """Nobody else is there."""


def written(document: Any) -> bytes:
    """As Python's own JSON writes it: with NaN, and halves of surrogate pairs as escapes."""
    return json.dumps(document).encode()


async def faulty(body: bytes, model: type[RequestBody]) -> dict[int, list[Any]]:
    """Where the faults are, by position."""
    _, faults = await decode_items(body, model, turn, 100)
    return {position: fault.errors[0]["loc"] for position, fault in faults.items()}


@pytest.mark.parametrize(
    ("model", "document", "expected"),
    [
        (BatchStepRequest, {"env_ids": IDS, "actions": ["x", "\ud800", "y"]}, {1: ["actions", 1]}),
        (BatchStepRequest, {"env_ids": IDS, "actions": ["x", {"c": float("nan")}, "y"]}, {1: ["actions", 1]}),
        (BatchStepRequest, {"env_ids": IDS, "actions": ["x", "x", [float("inf")]]}, {2: ["actions", 2]}),
        (BatchStepRequest, {"env_ids": IDS, "actions": [*"xyz"], "seqs": [0, -1, "0"]}, {1: ["seqs", 1], 2: ["seqs", 2]}),
        (BatchStepRequest, {"env_ids": ["a", "", 3], "actions": [*"xyz"]}, {1: ["env_ids", 1], 2: ["env_ids", 2]}),
        (BatchResetRequest, {"env_ids": IDS, "seeds": [1, -1, None]}, {1: ["seeds", 1]}),
        (BatchResetRequest, {"env_ids": IDS, "options": [{}, [], None]}, {1: ["options", 1]}),
        (BatchInitializeRequest, {"env_name": NAME, "seeds": [1, 2.5, 1 << 80]}, {1: ["seeds", 1], 2: ["seeds", 2]}),
        (BatchInitializeRequest, {"env_names": [NAME, 7, NAME]}, {1: ["env_names", 1]}),
        (BatchInitializeRequest, {"env_name": NAME, "env_kwargs": [{}, None, {}]}, {1: ["env_kwargs", 1]}),
        (BatchInitializeRequest, {"env_name": NAME, "tasks": [None, {"split": "train"}, None]}, {1: ["tasks", 1, "index"]}),
        (
            BatchInitializeRequest,
            {"env_name": NAME, "seeds": [1, 1], "tasks": [None, {"split": "train", "index": 1}]},
            {1: ["tasks", 1]},
        ),
    ],
)  # fmt: skip
async def test_a_wrong_item_is_named_and_the_others_are_read(
    model: type[RequestBody], document: Any, expected: dict[int, list[Any]]
) -> None:
    assert await faulty(written(document), model) == expected


async def test_broken_utf8_spoils_its_item_alone() -> None:
    body = written({"env_ids": IDS, "actions": ["x", "text", "y"]}).replace(b"text", b"\xff")
    wanted, faults = await decode_items(body, BatchStepRequest, turn, 100)
    assert list(faults) == [1]
    assert wanted.actions == ["x", None, "y"]


async def test_a_valid_body_has_no_faults() -> None:
    body = written({"env_ids": IDS, "actions": ["x", None, "y"], "seqs": [0, None, 2]})
    wanted, faults = await decode_items(body, BatchStepRequest, turn, 100)
    assert not faults
    assert wanted.seqs == [0, None, 2]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"env_ids":["a"],"actions":["x"]', MalformedBodyError),
        (b"[" * 100_000, MalformedBodyError),
        (written({"env_ids": IDS, "actions": ["x"]}), InvalidRequestError),
        (written({"env_ids": IDS, "actions": [*"xyz"], "more": 1}), InvalidRequestError),
        (written({"env_ids": "a", "actions": ["x"]}), InvalidRequestError),
        # Nothing of them is right.
        (written({"env_ids": ["a"], "actions": ["\ud800"]}), MalformedBodyError),
        (written({"env_ids": IDS, "actions": [*"xyz"], "seqs": [-1, -1, -1]}), InvalidRequestError),
    ],
)
async def test_what_is_wrong_beside_its_items_or_in_all_is_refused_as_a_whole(
    body: bytes, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await decode_items(body, BatchStepRequest, turn, 100)
