"""The verbs: each is complete, travels in parts, and makes its own routes."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import orjson
import pytest

from verl_agent_env.cluster.slots import SlotTable
from verl_agent_env.config import HostLimits
from verl_agent_env.engine import CreateRequest, Host, await_maybe
from verl_agent_env.engine.host.batches import Batches, BatchItems, each
from verl_agent_env.envs.registry import default_registry
from verl_agent_env.errors import MovedError
from verl_agent_env.server import create_app
from verl_agent_env.server.cluster.internal import InternalHandlers, WorkerControl
from verl_agent_env.server.http.types import Request
from verl_agent_env.server.verbs.values import (
    CLOSE,
    ENVIRONMENT_VERBS,
    INITIALIZE,
    RESET,
    STEP,
    VERBS,
    new_environments,
)
from verl_agent_env.server.verbs.verb import Verb
from verl_agent_env.types import NUM_SLOTS, new_env_id

IDS = [new_env_id(slot) for slot in range(3)]
CALL = b"call"


def request_for(env_id: str, **fields: Any) -> CreateRequest:
    return CreateRequest("frozen_lake", 1, {"size": 4}, run_id="run", ttl_s=5.0, env_id=env_id, **fields)


ITEMS = [
    (INITIALIZE, new_environments([request_for(env_id) for env_id in IDS])),
    (
        INITIALIZE,
        new_environments(
            [
                dataclasses.replace(request_for(IDS[0]), env_name="sokoban", env_kwargs={}),
                request_for(IDS[1]),
            ]
        ),
    ),
    (RESET, BatchItems(IDS, [1, None, 3], [{"a": 1}, None, {}], [b"call"] * 3)),
    (RESET, BatchItems(IDS, None, None, [b"call", b"call 1", b"call 2"])),
    (STEP, BatchItems(IDS, ["left", {"role": "assistant"}, None], [0, 1, 2])),
    (STEP, BatchItems(IDS, ["left"] * 3, None, [b"call"] * 3)),
    (CLOSE, BatchItems(IDS)),
]


async def turn() -> None:
    return


def columns(items: BatchItems) -> list[tuple[Any, ...]]:
    return list(items.arguments())


@pytest.mark.parametrize(("verb", "items"), ITEMS)
async def test_items_arrive_at_another_worker_as_they_were_sent(verb: Verb[Any], items: BatchItems) -> None:
    read = await verb.read_part(orjson.dumps(verb.write_part(items)), turn)
    assert columns(read) == columns(items)


def test_items_are_picked_by_position() -> None:
    items = BatchItems(IDS, ["a", "b", "c"], None, [b"0", b"1", b"2"])
    assert columns(items.at([0, 2])) == [(IDS[0], "a", None, b"0"), (IDS[2], "c", None, b"2")]
    assert items.at([0, 1, 2]) is items


@pytest.mark.parametrize(
    ("verb", "seqs", "expected"),
    [
        (INITIALIZE, None, None),
        (RESET, None, [CALL] * 3),
        (STEP, None, [CALL] * 3),
        (STEP, [0, 1, 2], [CALL] * 3),
        (CLOSE, None, None),
    ],
)
def test_a_repeat_is_recognized_by_what_its_verb_says(
    verb: Verb[Any], seqs: list[int] | None, expected: list[bytes] | None
) -> None:
    assert verb.operations(CALL, BatchItems(IDS, None, seqs)) == expected


def test_each_verb_has_its_routes() -> None:
    paths = {(route.method, route.path) for route in create_app()._routes}
    for verb in VERBS:
        assert ("POST", f"/api/batch/{verb.name}") in paths
    for verb in ENVIRONMENT_VERBS:
        assert ("POST", f"/api/environment/{{env_id}}/{verb.name}") in paths


async def test_a_new_verb_runs_here_and_at_another_worker() -> None:
    host = Host(default_registry(), HostLimits())
    env_id, _ = await await_maybe(host.create(request_for(new_env_id(0))))
    table = SlotTable("here:1")
    table.assign(["here:1"] * NUM_SLOTS, [0])
    # As `reset`, but with the seed that follows the one that is given.
    following = dataclasses.replace(
        RESET,
        name="following",
        on_host=each(lambda calls: lambda env, seed, *rest: calls.reset(env, seed + 1, *rest)),
    )
    (reset,) = await Batches(host).run(following, BatchItems([env_id], [7]))
    assert orjson.loads(reset.info)["seed"] == 8  # type: ignore[union-attr]
    part = InternalHandlers(Batches(host), table, cast(WorkerControl, None)).part(following)
    body = orjson.dumps(following.write_part(BatchItems([env_id, new_env_id(1)], [9, 9])))
    response = await await_maybe(part(Request("", body, b"", {})))
    there, moved = following.decode_part(bytes(response.body))
    assert orjson.loads(there.info)["seed"] == 10  # type: ignore[union-attr]
    assert isinstance(moved, MovedError)
    await host.stop()
