"""Kept episodes of many workers are one list, whoever is asked."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster.conftest import StartNode
from tests.conftest import StartServer
from tests.pool_process import Pool, initialize, initialize_many, kill_owner, step
from tests.waiting import eventually

STEPS = ["left", "no move", "left"]


def close(client: httpx.Client, env_id: str) -> None:
    assert client.post(f"/api/environment/{env_id}/close").status_code == 200


def listed(client: httpx.Client, query: str = "") -> dict[str, Any]:
    answer = client.get(f"/api/episodes?{query}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert found["silent_workers"] == []
    return found


def has_all(client: httpx.Client, number: int) -> bool:
    return bool(listed(client, "run=run")["total"] == number)


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_each_worker_of_a_pool_lists_and_reads_the_episodes_of_all(
    start_server: StartServer, tmp_path: Path, where: str
) -> None:
    named = str(tmp_path / "kept") if where == "folder" else where
    pool = Pool(start_server("--workers", "2", "--keep-trajectories", named))
    env_ids = initialize_many(pool.any, 40, run_id="run")
    for env_id in env_ids:
        step(pool.any, env_id, "left")
    # A single call, and one for all: an episode is kept wherever it ends.
    close(pool.any, env_ids[0])
    assert pool.any.post("/api/batch/close", json={"run_id": "run"}).json()["closed"] == 39
    for client in (*pool.at, pool.any):
        eventually(partial(has_all, client, 40))
        page = listed(client, "run=run&sort=seed&limit=15&offset=30")
        assert len(page["episodes"]) == 10
        assert len({row["worker"] for row in listed(client)["episodes"]}) == 2
        for env_id in env_ids[:4]:
            answer = client.get(f"/api/episodes/{env_id}.0").json()
            assert [one["action"] for one in answer["steps"]] == ["left"]
        (run,) = client.get("/api/runs").json()["runs"]
        assert run["episodes"] == 40
        assert len(client.get("/api/episodes.jsonl").content.splitlines()) == 40
    pool.close()


def test_an_episode_is_whole_though_its_worker_died_in_the_middle_and_outlives_all_workers(
    start_node: StartNode,
) -> None:
    node = start_node("a", "--keep-trajectories", "redis")
    env_id = initialize(node.any, run_id="run")
    for action in STEPS[:2]:
        step(node.any, env_id, action)
    before = node.any.get(f"/api/environment/{env_id}/trajectory").json()
    kill_owner(node.any, env_id)
    eventually(lambda: step(node.any, env_id, STEPS[2]).status_code == 200)
    close(node.any, env_id)
    for client in node.at:
        eventually(partial(has_all, client, 1))
        episode = client.get(f"/api/episodes/{env_id}.0").json()
        assert episode["complete"]
        assert [one["action"] for one in episode["steps"]] == STEPS
        assert [one["observation"] for one in episode["steps"][:2]] == [
            one["observation"] for one in before["steps"]
        ]
        assert episode["observation"] == before["observation"]
    node.kill_all()
    later = start_node("b", "--keep-trajectories", "redis")
    assert listed(later.any)["total"] == 1
