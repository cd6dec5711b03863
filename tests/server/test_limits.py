"""Limits on bodies, batches, runs and environments, and what is said at each of them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.conftest import GATED, LAKE, RIGHT, MakeClient, Problem, app_of
from tests.steered import pass_time
from tests.waiting import until
from verl_agent_env.server.app import EnvServer

INITIALIZE = "/api/environment/initialize"


async def test_a_body_over_the_limit_is_too_large(make_client: MakeClient, problem: Problem) -> None:
    client = await make_client(http={"max_body_bytes": 100})
    answer = await client.post(INITIALIZE, content=b"x" * 101)
    assert problem(answer, 413, "body_too_large")["max_body_bytes"] == 100
    assert answer.headers["connection"] == "close"


async def test_a_body_over_the_limit_that_declares_no_length_is_too_large(
    make_client: MakeClient, problem: Problem
) -> None:
    client = await make_client(http={"max_body_bytes": 100})

    async def pieces() -> Any:
        for _ in range(11):
            yield b"x" * 10

    problem(await client.post(INITIALIZE, content=pieces()), 413, "body_too_large")


@pytest.mark.parametrize(
    ("path", "request_"),
    [
        ("initialize", {"env_name": LAKE, "num_envs": 5}),
        ("initialize", {"env_name": LAKE, "num_envs": 10**18}),
        ("initialize", {"env_names": [LAKE] * 5}),
        ("initialize", {"env_name": LAKE, "seeds": [1] * 5}),
        ("reset", {"env_ids": ["a"] * 5}),
        ("step", {"env_ids": ["a"] * 5, "actions": [RIGHT] * 5}),
        ("close", {"env_ids": ["a"] * 5}),
    ],
)
async def test_a_batch_over_the_limit_is_too_large(
    make_client: MakeClient, problem: Problem, path: str, request_: dict[str, Any]
) -> None:
    client = await make_client(http={"max_batch_size": 4})
    found = problem(await client.post(f"/api/batch/{path}", json=request_), 413, "batch_too_large")
    assert found["max_batch_size"] == 4
    assert found["size"] >= 5
    assert app_of(client).env_host.env_table.created.total() == 0


async def test_an_action_over_the_limit_changes_nothing(
    make_client: MakeClient, problem: Problem, initialize: Any
) -> None:
    client = await make_client(host={"max_action_bytes": 40})
    env_id = await initialize(client)
    step = f"/api/environment/{env_id}/step"
    refused = problem(
        await client.post(step, json={"action": "right" * 8, "seq": 0}), 413, "action_too_large"
    )
    assert (refused["size"], refused["max_action_bytes"]) == (42, 40)
    assert app_of(client).env_host.env_table.find(env_id).seq == 0
    # As long as may be, its quotes included.
    assert (await client.post(step, json={"action": "x" * 38, "seq": 0})).status_code == 200


async def test_an_action_over_the_limit_fails_alone_in_its_batch(
    make_client: MakeClient, initialize: Any
) -> None:
    client = await make_client(host={"max_action_bytes": 40})
    env_ids = [await initialize(client) for _ in range(3)]
    actions = ["right", "right" * 8, "right"]
    batch = (await client.post("/api/batch/step", json={"env_ids": env_ids, "actions": actions})).json()
    assert [(error["index"], error["code"]) for error in batch["errors"]] == [(1, "action_too_large")]
    assert [app_of(client).env_host.env_table.find(env_id).seq for env_id in env_ids] == [1, 0, 1]


async def test_options_over_the_limit_begin_nothing(
    make_client: MakeClient, problem: Problem, initialize: Any
) -> None:
    client = await make_client(host={"max_arguments_bytes": 40})
    env_id = await initialize(client)
    reset = f"/api/environment/{env_id}/reset"
    refused = problem(await client.post(reset, json={"options": {"x": "y" * 40}}), 413, "arguments_too_large")
    assert (refused["size"], refused["max_arguments_bytes"]) == (48, 40)
    assert app_of(client).env_host.env_table.find(env_id).episode == 0


async def test_a_batch_at_the_limit_is_served(make_client: MakeClient) -> None:
    client = await make_client(http={"max_batch_size": 4})
    answer = await client.post("/api/batch/initialize", json={"env_name": LAKE, "num_envs": 4})
    assert len(answer.json()["env_ids"]) == 4


async def test_a_run_over_its_quota_is_told_to_wait(
    make_client: MakeClient, problem: Problem, initialize: Any
) -> None:
    client = await make_client(host={"max_envs_per_run": 2})
    env_ids = [await initialize(client, run_id="run-1") for _ in range(2)]
    refused = await client.post(INITIALIZE, json={"env_name": LAKE, "run_id": "run-1"})
    found = problem(refused, 429, "run_quota_exceeded")
    assert (found["run_id"], found["max_envs_per_run"]) == ("run-1", 2)
    await initialize(client, run_id="run-2")
    await initialize(client)
    await client.post(f"/api/environment/{env_ids[0]}/close")
    await initialize(client, run_id="run-1")


async def test_a_full_server_is_told_so_and_takes_more_after_a_close(
    make_client: MakeClient, problem: Problem, initialize: Any
) -> None:
    client = await make_client(host={"max_envs": 2})
    env_ids = [await initialize(client) for _ in range(2)]
    found = problem(await client.post(INITIALIZE, json={"env_name": LAKE}), 503, "at_capacity")
    assert (found["resource"], found["limit"]) == ("environments", 2)
    batch = (await client.post("/api/batch/initialize", json={"env_name": LAKE, "num_envs": 2})).json()
    assert [error["code"] for error in batch["errors"]] == ["at_capacity"] * 2
    assert all(error["retryable"] for error in batch["errors"])
    await client.post(f"/api/environment/{env_ids[0]}/close")
    await initialize(client)


async def test_the_step_over_its_time_is_a_timeout(
    make_client: MakeClient, problem: Problem, initialize: Any, tmp_path: Path
) -> None:
    client = await make_client(host={"max_step_s": 1000.0})
    env_id = await initialize(client, GATED)
    gate, entered = tmp_path / "gate", tmp_path / "entered"
    action = {"entered": str(entered), "gate": str(gate)}
    step = asyncio.create_task(client.post(f"/api/environment/{env_id}/step", json={"action": action}))
    await until(entered.exists)
    await pass_time(1000.0)
    answer = await step
    assert answer.json()["code"] in ("environment_timeout", "environment_lost")
    problem(answer, answer.status_code, answer.json()["code"])
    assert (await client.get("/healthz")).status_code == 200
    gate.touch()


async def test_requests_are_served_while_an_environment_blocks(
    client: httpx.AsyncClient, initialize: Any, tmp_path: Path
) -> None:
    env_id = await initialize(client, GATED)
    gate, entered = tmp_path / "gate", tmp_path / "entered"
    action = {"entered": str(entered), "gate": str(gate)}
    step = asyncio.create_task(client.post(f"/api/environment/{env_id}/step", json={"action": action}))
    await until(entered.exists)
    await initialize(client)
    assert (await client.get(f"/api/environment/{env_id}")).json()["seq"] == 0
    assert not step.done()
    gate.touch()
    assert (await step).json()["reward"] == 1.0


async def test_a_call_that_the_server_waits_for_no_longer_is_told_of_the_shutdown(
    client: httpx.AsyncClient, initialize: Any, tmp_path: Path
) -> None:
    env_id = await initialize(client, GATED)
    gate, entered = tmp_path / "gate", tmp_path / "entered"
    body = b'{"action":{"entered":"%b","gate":"%b"}}' % (str(entered).encode(), str(gate).encode())
    sent: list[dict[str, Any]] = []
    task = asyncio.create_task(_call(app_of(client), f"/api/environment/{env_id}/step", body, sent))
    await until(entered.exists)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.touch()
    assert sent[0]["status"] == 503
    assert b"shutting_down" in sent[1]["body"]


async def _call(app: EnvServer, path: str, body: bytes, sent: list[dict[str, Any]]) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}
    await app(scope, receive, send)
