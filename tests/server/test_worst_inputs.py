"""The costliest requests that are allowed: none keeps the event loop from everybody else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from tests.server.conftest import Wire
from tests.server.served import Served, post
from tests.waiting import HANG_S, eventually
from verl_agent_env.config import HostLimits
from verl_agent_env.wire.codec import MAX_VALUES_AT_ONCE

LONGEST_S = 0.5
"""Seconds that the loop may compute in one round, with tracing and on a slow machine; each of these took several before."""
CALL = {"type": "function", "function": {"name": "move_up", "arguments": "{}"}}
INITIALIZE = "/api/environment/initialize"
STEP = "/api/batch/step"

MAKING: dict[str, dict[str, Any]] = {
    "a room that needs too many pushes": {
        "env_name": "sokoban",
        "env_kwargs": {"dim_room": [30, 30], "num_boxes": 20, "min_pushes": 10_000, "num_gen_steps": 5_000},
    },
    "a puzzle that has no solution": {
        "env_name": "countdown",
        "env_kwargs": {"num_numbers": 7, "number_range": [1, 99], "target_range": [999_983, 999_983]},
    },
    "a lake with hardly any ice": {"env_name": "frozen_lake", "env_kwargs": {"size": 64, "frozen_prob": 0.3}},
    "a large picture": {
        "env_name": "frozen_lake",
        "env_kwargs": {"size": 64, "frozen_prob": 0.9, "tile_px": 64, "observation_mode": "image"},
    },
}
STEPPING: dict[str, tuple[dict[str, Any], Any]] = {
    "many equations": (
        {"env_name": "countdown", "env_kwargs": {"max_actions_per_turn": 1000}},
        "||".join(["1+2*" * 60 + "1"] * 1000),
    ),
    "many tool calls": ({"env_name": "frozen_lake"}, {"role": "assistant", "tool_calls": [CALL] * 2500}),
    "many tags": ({"env_name": "frozen_lake"}, "<answer>" * 30_000),
    "many fences": ({"env_name": "frozen_lake"}, "```json\n{}\n```\n" * 12_000),
    "a long answer in a normal form": (
        {
            "env_name": "single_turn_chat",
            "env_kwargs": {"scorer": {"type": "exact_match", "answer": "x" * 1000, "normalize": "NFKC"}},
        },
        "\ufdfa" * 80_000,
    ),
}
BATCHES: dict[str, bytes] = {
    "many small values": b'{"env_ids":[],"actions":[%b]}' % b",".join([b"{}"] * 900_000),
    "more values than are read": b'{"env_ids":[],"actions":[%b]}' % b",".join([b"{}"] * 2_000_000),
    "one long text": b'{"env_ids":["%b"],"actions":[]}' % (b"x" * 30_000_000),
    "one deep value": b'{"env_ids":[],"actions":%b}' % (b"[" * 1_000_000),
    "unknown environments": orjson.dumps(
        {
            "env_ids": [f"{n % 4096:03x}-{n:032x}" for n in range(50_000)],
            "actions": [{"role": "assistant"}] * 50_000,
        }
    ),
}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    # A puzzle takes seconds of CPU, in a thread; on a busy machine they are many.
    patient = HostLimits(max_step_s=HANG_S)
    served = Served(http_limits={"max_body_bytes": 64 << 20}, host_limits=patient)
    # What is imported at first use is not what a request costs.
    for name in ("sokoban", "countdown", "frozen_lake", "single_turn_chat"):
        served.initialize(name)
    yield served
    served.stop()


@pytest.fixture
def watched(served: Served) -> Iterator[Served]:
    watch = served.app.loop_watch
    watch.longest_s = 0.0
    yield served
    # The round in which the answer was sent has come to its end as well.
    eventually(lambda: watch.longest_s > 0)
    assert watch.longest_s < LONGEST_S, dict(watch.held_up)


def send(served: Served, path: str, body: bytes) -> tuple[int, Any]:
    wire = Wire(served.port)
    wire.send(post(path, body))
    status, _, answer = wire.answer()
    wire.close()
    return status, orjson.loads(answer)


@pytest.mark.parametrize("what", MAKING)
def test_making(watched: Served, what: str) -> None:
    status, answer = send(watched, INITIALIZE, orjson.dumps({"seed": 1, **MAKING[what]}))
    assert (status, answer.get("code")) in ((200, None), (422, "invalid_env_arguments"))


@pytest.mark.parametrize("what", STEPPING)
def test_stepping(watched: Served, what: str) -> None:
    wanted, action = STEPPING[what]
    env_id = watched.initialize(**wanted)
    status, _ = send(watched, f"/api/environment/{env_id}/step", orjson.dumps({"action": action}))
    assert status == 200


@pytest.mark.parametrize("what", BATCHES)
def test_batches(watched: Served, what: str) -> None:
    status, answer = send(watched, STEP, BATCHES[what])
    if status == 200:
        assert {error["code"] for error in answer["errors"]} == {"environment_not_found"}
    else:
        refused = {
            "invalid_request",
            "malformed_body",
            "body_too_complex",
            "body_too_large",
            "batch_too_large",
        }
        assert answer["code"] in refused


def test_a_large_batch_is_made_stepped_and_closed(watched: Served) -> None:
    count = 3 * MAX_VALUES_AT_ONCE // 13
    made = send(
        watched, "/api/batch/initialize", orjson.dumps({"env_name": "frozen_lake", "num_envs": 2000})
    )[1]
    env_ids = made["env_ids"] * (count // 2000)
    action = {"role": "assistant", "content": "", "tool_calls": [{"id": "c", **CALL}]}
    body = orjson.dumps({"env_ids": env_ids, "actions": [action] * len(env_ids)})
    status, answer = send(watched, STEP, body)
    assert status == 200
    assert len(answer["rewards"]) == len(env_ids)
    assert {error["code"] for error in answer["errors"]} <= {"episode_ended"}
    assert send(watched, "/api/batch/close", orjson.dumps({"env_ids": made["env_ids"]}))[1]["closed"] == 2000
