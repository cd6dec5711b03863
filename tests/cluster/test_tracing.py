"""Traces through nginx and two workers, from the client's own span to the worker that did the work."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from tests.cluster.nginx_process import NginxProcess
from tests.cluster.redis_process import RedisProcess
from tests.pool_process import LASTING
from tests.ports import free_port
from tests.server.served import Served
from tests.spans_seen import SpansSeen, is_child_of, ours, parent_of, trace_of, traceparent, waits
from tests.waiting import HANG_S, eventually
from verl_agent_env.client import EnvClient
from verl_agent_env.cluster.nginx.config import NginxSettings, write_nginx_config
from verl_agent_env.config import ClusterSettings
from verl_agent_env.server.cluster.identity import WorkerIdentity
from verl_agent_env.types import slot_of

LAKE = "verl_env/frozen_lake-v1"
STEP = "POST /api/environment/{env_id}/step"
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


@dataclass(frozen=True)
class TracedCluster:
    """nginx, and the workers of two nodes in this process, whose spans are seen."""

    url: str
    workers: tuple[Served, Served]
    seen: SpansSeen

    def owner_of(self, env_id: str) -> Served:
        """The worker that holds an environment."""
        return next(worker for worker in self.workers if worker.app.worker.table.owns(slot_of(env_id)))

    def other_than(self, worker: Served) -> Served:
        """The worker that is not this one."""
        return next(other for other in self.workers if other is not worker)


@pytest.fixture(scope="module")
def started(redis_server: RedisProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TracedCluster]:
    seen, folder, port = SpansSeen(), tmp_path_factory.mktemp("nginx"), free_port()
    listeners = [socket.create_server(("127.0.0.1", 0), backlog=128) for _ in range(2)]
    addresses = [f"127.0.0.1:{listener.getsockname()[1]}" for listener in listeners]
    workers = tuple(
        Served(
            listener=listener,
            identity=WorkerIdentity(address, (address,), supervisor=node * 16),
            tracer_provider=seen.provider,
            cluster=ClusterSettings(node=node, redis=redis_server.url, namespace="tracing", expected_nodes=2),
        )
        for listener, address, node in zip(listeners, addresses, "ab", strict=True)
    )
    user = getpass.getuser() if os.geteuid() == 0 else ""
    settings = NginxSettings(tuple(addresses), folder, port=port, host="127.0.0.1", user=user, processes=1)
    write_nginx_config(settings, folder / "nginx.conf")
    nginx = NginxProcess(folder, port)
    eventually(lambda: all(not worker.app.worker.unready_reason for worker in workers), what="the cluster")
    yield TracedCluster(f"http://127.0.0.1:{port}", (workers[0], workers[1]), seen)
    nginx.stop()
    for worker in workers:
        worker.stop()


@pytest.fixture
def cluster(started: TracedCluster) -> TracedCluster:
    started.seen.clear()
    return started


def test_what_a_client_asks_for_within_a_span_is_of_its_trace(cluster: TracedCluster) -> None:
    tracer = cluster.seen.provider.get_tracer("a rollout")
    with EnvClient(cluster.url) as client, tracer.start_as_current_span("rollout"):
        env = client.make("frozen_lake", seed=1, env_kwargs=LASTING)
        env.step("right")
        env.task_prompt()
    rollout = cluster.seen.one("rollout")
    for name in (
        "POST /api/batch/initialize",
        "POST /api/batch/step",
        "GET /api/environment/{env_id}/task-prompt",
    ):
        # By the slot of its key, or of the environment, a call may have been forwarded.
        *inner, outer = cluster.seen.named(name)
        assert is_child_of(outer, rollout)
        assert all(is_child_of(span, outer) for span in inner)


def test_a_step_through_nginx_says_where_it_was_taken_and_how_long_the_store_took(
    cluster: TracedCluster,
) -> None:
    with httpx.Client(base_url=cluster.url, timeout=HANG_S) as http:
        begun = http.post(
            "/api/environment/initialize",
            json={"env_name": "frozen_lake", "seed": 1, "run_id": "run-8", "env_kwargs": LASTING},
        ).json()
        env_id = begun["env_id"]
        answer = http.post(
            f"/api/environment/{env_id}/step",
            json={"action": "right", "seq": 0},
            headers={"traceparent": traceparent(TRACE_ID), "tracestate": "a=1"},
        )
    assert answer.status_code == 200
    span = next(span for span in cluster.seen.named(STEP) if ours(span)["worker"] == at(cluster, env_id))
    assert (trace_of(span), span.context and span.context.trace_state.to_header()) == (TRACE_ID, "a=1")
    about = {"env_id": env_id, "env_name": LAKE, "run_id": "run-8", "seq": 0, "outcome": "ok"}
    assert ours(span).items() >= about.items()
    assert waits(span) == {"stored": "store"}


def test_a_forwarded_call_is_one_trace(cluster: TracedCluster) -> None:
    env_id = make(cluster)
    owner = cluster.owner_of(env_id)
    answer = httpx.post(
        f"http://127.0.0.1:{cluster.other_than(owner).port}/api/environment/{env_id}/step",
        json={"action": "right"},
        headers={"traceparent": traceparent(TRACE_ID)},
        timeout=HANG_S,
    )
    assert answer.status_code == 200
    inner, outer = cluster.seen.named(STEP)
    assert [ours(span)["worker"] for span in (inner, outer)] == [
        worker.app.worker.name for worker in (owner, cluster.other_than(owner))
    ]
    assert is_child_of(inner, outer)
    assert (trace_of(inner), parent_of(outer)) == (TRACE_ID, "5" * 16)
    assert (ours(inner)["env_name"], ours(inner)["seq"]) == (LAKE, 0)
    assert ours(inner)["request_id"] == ours(outer)["request_id"] == answer.headers["x-request-id"]


def test_the_parts_of_a_batch_are_of_its_trace(cluster: TracedCluster) -> None:
    near, far = cluster.workers
    env_ids: list[str] = []
    while len({id(cluster.owner_of(env_id)) for env_id in env_ids}) < 2:
        env_ids.append(make(cluster))
    cluster.seen.clear()
    answer = httpx.post(
        f"http://127.0.0.1:{near.port}/api/batch/step",
        json={"env_ids": env_ids, "actions": ["right"] * len(env_ids)},
        headers={"traceparent": traceparent(TRACE_ID)},
        timeout=HANG_S,
    )
    assert answer.json()["errors"] == []
    whole, part = cluster.seen.one("POST /api/batch/step"), cluster.seen.one("POST /internal/batch/step")
    assert is_child_of(part, whole)
    assert trace_of(part) == TRACE_ID
    there = [env_id for env_id in env_ids if cluster.owner_of(env_id) is far]
    assert (ours(whole)["batch_size"], ours(part)["batch_size"]) == (len(env_ids), len(there))
    assert waits(part) == waits(whole) == {"stored": "store"}


def make(cluster: TracedCluster) -> str:
    """A new environment, wherever it comes to lie."""
    answer = httpx.post(
        f"{cluster.url}/api/environment/initialize",
        json={"env_name": "frozen_lake", "seed": 1, "env_kwargs": LASTING},
        timeout=HANG_S,
    )
    cluster.seen.clear()
    return str(answer.json()["env_id"])


def at(cluster: TracedCluster, env_id: str) -> str:
    """Name of the worker that holds an environment."""
    return cluster.owner_of(env_id).app.worker.name
