"""A cluster of 65,536 slots: real processes, from nginx to Redis."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.cluster.test_nodes import refusal
from tests.server.api.wires.openenv.client import OpenEnvSocket
from tests.waiting import HANG_S
from verl_agent_env.cluster.local import LocalCluster
from verl_agent_env.types import MANY_SLOTS, slot_of

LAKE = {"desc": ["SFFF", "FFFF", "FFFF", "FFFG"], "is_slippery": True, "max_steps": 100}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Shared by all tests of this file."""
    with LocalCluster(
        tmp_path_factory.mktemp("cluster"), nodes=2, workers=1, num_slots=MANY_SLOTS
    ) as running:
        yield running


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[httpx.Client]:
    """Calls nginx."""
    with httpx.Client(base_url=cluster.url, timeout=HANG_S) as made:
        yield made


def forwarded(cluster: LocalCluster) -> float:
    """Calls that met a worker that does not own their slot."""
    found = 0.0
    for address in cluster.addresses:
        text = httpx.get(f"http://{address}/metrics", timeout=HANG_S).text
        found += sum(
            map(float, re.findall(r"^verl_agent_env_forwarded_total\{.*\} (.*)$", text, re.MULTILINE))
        )
    return found


def made_of(answer: httpx.Response) -> dict[str, Any]:
    body: dict[str, Any] = answer.raise_for_status().json()
    assert not body.get("errors")
    return body


def test_calls_go_straight_to_the_owners_and_batches_are_split(
    cluster: LocalCluster, client: httpx.Client
) -> None:
    assert cluster.describe()["num_slots"] == MANY_SLOTS
    before = forwarded(cluster)
    env_ids = made_of(
        client.post(
            "/api/batch/initialize", json={"env_name": "frozen_lake", "env_kwargs": LAKE, "num_envs": 100}
        )
    )["env_ids"]
    assert {env_id.index("-") for env_id in env_ids} == {4}
    assert len({slot_of(env_id) for env_id in env_ids}) > 90
    for env_id in env_ids[:40]:
        made_of(client.post(f"/api/environment/{env_id}/step", json={"action": "right", "seq": 0}))
    rest = env_ids[40:]
    made_of(
        client.post(
            "/api/batch/step",
            json={"env_ids": rest, "actions": ["right"] * len(rest), "seqs": [0] * len(rest)},
        )
    )
    assert forwarded(cluster) == before
    workers = [worker for node in cluster.describe()["nodes"] for worker in node["workers"]]
    assert sum(worker["slots"] for worker in workers) == MANY_SLOTS


def test_a_key_makes_its_environments_once(client: httpx.Client) -> None:
    body = {"env_name": "frozen_lake", "env_kwargs": LAKE, "num_envs": 10}
    answers = [
        made_of(client.post("/api/batch/initialize", json=body, headers={"Idempotency-Key": "once"}))
        for _ in range(4)
    ]
    assert all(answer["env_ids"] == answers[0]["env_ids"] for answer in answers)


def test_sessions_of_other_clients_go_straight_to_their_owners(cluster: LocalCluster) -> None:
    before = forwarded(cluster)
    for _ in range(8):
        with OpenEnvSocket(cluster.url, "frozen_lake") as socket:
            session_id = socket.reset(seed=1, env_kwargs={"max_steps": 100})["metadata"]["session_id"]
            socket.drop()
        assert session_id.index("-") == 4
        with OpenEnvSocket(cluster.url, "frozen_lake", f"?session_id={session_id}") as again:
            assert again.state()["step_count"] == 0
    assert forwarded(cluster) == before


def test_an_id_of_a_cluster_of_4096_slots_is_unknown(client: httpx.Client) -> None:
    answer = client.post(f"/api/environment/fff-{'0' * 32}/step", json={"action": "right"})
    assert (answer.status_code, answer.json()["code"]) == (404, "environment_not_found")


def test_a_node_of_another_number_of_slots_is_refused_in_one_sentence(cluster: LocalCluster) -> None:
    lines = refusal("--node", "other", "--redis", cluster.redis_url)
    assert len(lines) == 1, lines
    assert f"--slots {MANY_SLOTS}" in lines[0]
