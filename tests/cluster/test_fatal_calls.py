"""A call that ended a worker is not given to the next one; everybody else goes on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster.conftest import StartNode
from tests.cluster.nginx_process import NginxProcess
from tests.pool_process import Pool, all_workers, initialize, initialize_at, initialize_many
from tests.ports import free_port
from tests.server.deadly_env import INLINE, THREADED
from tests.waiting import HANG_S, eventually
from verl_agent_env.cluster.nginx.config import NginxSettings, write_nginx_config
from verl_agent_env.types import NUM_SLOTS

WORKERS = 3
CODE = "environment_ended_worker"
USER = "root" if os.geteuid() == 0 else ""


@pytest.fixture
def node(start_node: StartNode) -> Pool:
    """A node whose workers share all slots."""
    pool = start_node("a", workers=WORKERS)
    settle(pool)
    return pool


@pytest.fixture
def front(node: Pool, tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of an nginx before the node."""
    port = free_port()
    settings = NginxSettings(tuple(node.addresses), tmp_path, port=port, host="127.0.0.1", user=USER)
    write_nginx_config(settings, tmp_path / "nginx.conf")
    nginx = NginxProcess(tmp_path, port)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=HANG_S) as client:
        yield client
    nginx.stop()


def settle(pool: Pool) -> None:
    """Wait until every worker has a share of the slots."""

    def is_settled() -> bool:
        slots = [worker["slots"] for worker in all_workers(pool.any)]
        return len(slots) == len(pool.addresses) and all(slots) and sum(slots) == NUM_SLOTS

    eventually(lambda: pool.is_ready() and is_settled(), what="a share for each worker")


def until_answered(client: httpx.Client, path: str, body: Any, **options: Any) -> httpx.Response:
    """Send a call again until it is answered for good, as a client does."""
    answers: list[httpx.Response] = []

    def is_answered() -> bool:
        try:
            answers.append(client.post(path, json=body, **options))
        except httpx.TransportError:
            return False
        document = answers[-1].json()
        return answers[-1].status_code == 200 or not document["retryable"]

    eventually(is_answered, what=f"an answer to {path}")
    return answers[-1]


def take_step(client: httpx.Client, env_id: str, action: Any, seq: int) -> httpx.Response:
    return until_answered(client, f"/api/environment/{env_id}/step", {"action": action, "seq": seq})


@contextmanager
def workers_lost(pool: Pool, most: int) -> Iterator[None]:
    """Make sure that at most so many workers end meanwhile, and at least one: each is followed by another process."""
    pid, seen, is_over = pool.server.process.pid, set[int](), threading.Event()

    def look() -> None:
        while not is_over.wait(0.005):
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                with suppress(OSError):
                    seen.update(map(int, task.read_text().split()))

    watching = threading.Thread(target=look)
    watching.start()
    try:
        yield
        settle(pool)
    finally:
        is_over.set()
        watching.join()
    assert 1 <= len(seen) - len(pool.addresses) <= most, "".join(pool.server.lines)


# All ends are one to the others; how a supervisor tells them apart is shown by ``tests/server/process/test_examiner.py``.
@pytest.mark.parametrize(
    "how", ["crash", *(pytest.param(how, marks=pytest.mark.deep) for how in ("exit", "leave")), "hang"]
)
def test_a_step_that_ended_its_worker_is_refused_by_all_and_others_go_on(node: Pool, how: str) -> None:
    env_id = initialize(node.any, INLINE)
    innocent = initialize_many(node.any, 12, env_name=INLINE)
    for each in (env_id, *innocent):
        assert take_step(node.any, each, "count", 0).json()["info"]["count"] == 1
    with workers_lost(node, 1):
        answer = take_step(node.at[0], env_id, how, 1)
        for each in innocent:
            assert take_step(node.any, each, "count", 1).json()["info"]["count"] == 2
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["retryable"]) == (410, CODE, False)
    assert (problem["env_id"], problem["episode"], problem["seq"]) == (env_id, 0, 1)
    for client in node.at:
        for path, body in (("step", {"action": "count", "seq": 1}), ("reset", {}), ("step", {"action": how})):
            again = until_answered(client, f"/api/environment/{env_id}/{path}", body)
            assert (again.status_code, again.json()["code"]) == (410, CODE)
        assert client.get(f"/api/environment/{env_id}/render").json()["code"] == CODE
        assert client.get(f"/api/environment/{env_id}").json()["lost"] == problem["detail"]

    # The next worker knows it as well.
    for pid in node.pids():
        os.kill(pid, signal.SIGKILL)
    settle(node)
    assert take_step(node.any, env_id, how, 1).json()["code"] == CODE
    for each in innocent:
        assert take_step(node.any, each, "count", 2).json()["info"]["count"] == 3
    closed = until_answered(node.any, f"/api/environment/{env_id}/close", {})
    assert closed.status_code == 200


def test_a_reset_that_ended_its_worker_is_refused(node: Pool) -> None:
    env_id = initialize(node.any, INLINE)
    with workers_lost(node, 1):
        answer = until_answered(node.at[1], f"/api/environment/{env_id}/reset", {"options": {"how": "crash"}})
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["episode"], problem["seq"]) == (410, CODE, 1, -1)
    assert take_step(node.any, env_id, "count", 0).json()["code"] == CODE


def test_in_a_batch_only_the_item_that_ended_its_worker_is_refused(node: Pool, front: httpx.Client) -> None:
    env_ids = initialize_many(front, 100, env_name=INLINE)
    left = dict(zip(env_ids, ["count"] * 57 + ["crash"] + ["count"] * 42, strict=True))
    refused: dict[str, str] = {}

    def is_over() -> bool:
        """Whether all items are answered for good, when those are sent again that may be."""
        wanted = list(left)
        body = {"env_ids": wanted, "actions": list(left.values()), "seqs": [0] * len(left)}
        batch = until_answered(front, "/api/batch/step", body).json()
        errors = {wanted[error["index"]]: error for error in batch["errors"]}
        for env_id, info in zip(wanted, batch["infos"], strict=True):
            assert env_id in errors or info["count"] == 1
            if not errors.get(env_id, {}).get("retryable"):
                del left[env_id]
        refused.update((env_id, error["code"]) for env_id, error in errors.items() if not error["retryable"])
        return not left

    with workers_lost(node, 1):
        eventually(is_over, what="an answer for each item")
    assert refused == {env_ids[57]: CODE}
    for env_id in set(env_ids) - refused.keys():
        assert node.any.get(f"/api/environment/{env_id}").json()["seq"] == 1


def test_making_under_a_key_what_ends_its_worker_is_refused_the_second_time(
    node: Pool, front: httpx.Client
) -> None:
    body = {"env_name": INLINE, "env_kwargs": {"begins_with": "crash"}}
    with workers_lost(node, 1):
        answer = until_answered(
            front, "/api/environment/initialize", body, headers={"Idempotency-Key": "one"}
        )
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["episode"], problem["seq"]) == (410, CODE, 0, -1)
    with workers_lost(node, 1):
        many = until_answered(
            front,
            "/api/batch/initialize",
            {
                "env_names": [INLINE] * 9,
                "env_kwargs": [{}] * 4 + [{"begins_with": "exit"}] + [{}] * 4,
            },
            headers={"Idempotency-Key": "many"},
        ).json()
    assert [(error["index"], error["code"]) for error in many["errors"]] == [(4, CODE)]
    assert [env_id is None for env_id in many["env_ids"]] == [False] * 4 + [True] + [False] * 4


def test_making_without_a_key_what_ends_its_worker_is_tried_once(node: Pool, front: httpx.Client) -> None:
    body = {"env_name": INLINE, "env_kwargs": {"begins_with": "exit"}}
    with workers_lost(node, 1):
        answer = front.post("/api/environment/initialize", json=body)
    problem = answer.json()
    assert (answer.status_code, problem["retryable"]) in {(503, True), (410, False)}, problem


@pytest.mark.parametrize("how", ["crash", "hang"])
def test_one_of_many_calls_in_threads_ends_two_workers_at_most(node: Pool, tmp_path: Path, how: str) -> None:
    env_id = initialize_at(node.at[0], THREADED)
    innocent = [initialize_at(node.at[0], THREADED) for _ in range(10)]
    entered, gate = tmp_path / "entered", tmp_path / "gate"
    entered.mkdir()
    waits = {"entered": str(entered), "gate": str(gate)}
    with workers_lost(node, 2), ThreadPoolExecutor(11) as threads:
        others = [threads.submit(take_step, node.any, each, waits, 0) for each in innocent]
        eventually(lambda: len(list(entered.iterdir())) == 10, what="ten calls under way")
        bad = threads.submit(take_step, node.any, env_id, how, 0)
        eventually(lambda: len(list(entered.iterdir())) > 10, what="the end of the worker")
        gate.touch()
        assert bad.result().json()["code"] == CODE
        assert [other.result().json().get("info") for other in others] == [{"count": 1}] * 10, [
            other.result().json() for other in others
        ]


def test_a_worker_that_is_killed_from_outside_costs_nobody_a_call(
    start_node: StartNode, tmp_path: Path
) -> None:
    # Longer than the step on the loop takes before the worker is killed, which its supervisor would take for a hang.
    node = start_node("a", workers=WORKERS, lease_s=10.0)
    settle(node)
    env_ids = [initialize_at(node.at[0], THREADED), initialize_at(node.at[0], INLINE)]
    gate, entered = tmp_path / "gate", tmp_path / "entered"
    entered.mkdir()
    action = {"entered": str(entered), "gate": str(gate)}
    with workers_lost(node, 1), ThreadPoolExecutor(2) as threads:
        pid = node.pid(0)
        steps = [threads.submit(take_step, node.any, env_ids[0], action, 0)]
        eventually(lambda: len(list(entered.iterdir())) == 1, what="the call in a thread")
        steps.append(threads.submit(take_step, node.any, env_ids[1], action, 0))
        eventually(lambda: len(list(entered.iterdir())) == 2, what="the call on the loop")
        os.kill(pid, signal.SIGKILL)
        gate.touch()
        for each in steps:
            assert each.result().json()["info"]["count"] == 1
    for env_id in env_ids:
        assert take_step(node.any, env_id, "count", 1).json()["info"]["count"] == 2
