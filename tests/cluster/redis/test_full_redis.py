"""A Redis that is full: a cluster holds together, closes what it is asked to, and is well as soon as there is room."""

from __future__ import annotations

import time

import httpx

from tests.cluster.conftest import LEASE_S, StartNode
from tests.cluster.redis_process import RedisProcess
from tests.pool_process import all_workers, initialize, initialize_many, step
from tests.waiting import eventually
from verl_agent_env.types import NUM_SLOTS
from verl_agent_env.waits import MAX_WAIT_S

HANG_S = 120.0


def test_full_redis_closes_and_reaps_and_all_is_well_when_there_is_room(
    start_node: StartNode, own_redis: RedisProcess
) -> None:
    node = start_node("a", redis=own_redis.url)
    eventually(lambda: all(worker["slots"] for worker in all_workers(node.any)), HANG_S, "a share for each")
    here, there = node.at
    live = [initialize(client) for client in (here, there)]
    for env_id in live:
        assert step(here, env_id, seq=0).status_code == 200
    run = initialize_many(here, 40, run_id="run")
    idle = initialize_many(there, 10, ttl_s=LEASE_S * 3)
    own_redis.fill()

    refused = [step(here, env_id, seq=1) for env_id in live]
    created = [
        client.post("/api/environment/initialize", json={"env_name": "sokoban"}) for client in (here, there)
    ]
    for answer in (*refused, *created):
        assert (answer.status_code, answer.json()["code"]) == (503, "store_full"), answer.text
        assert "maxmemory" in answer.json()["detail"]
        assert answer.elapsed.total_seconds() < MAX_WAIT_S
    assert not any(answer.json()["may_have_run"] for answer in created)
    batch = here.post("/api/batch/initialize", json={"env_name": "sokoban", "num_envs": 8}).json()
    assert {error["code"] for error in batch["errors"]} == {"store_full"}
    assert len(batch["errors"]) == 8

    assert here.post(f"/api/environment/{run[0]}/close").status_code == 200
    assert there.post("/api/batch/close", json={"env_ids": run[1:20]}).json() == {"closed": 19, "errors": []}
    assert there.post("/api/batch/close", json={"run_id": "run"}).json() == {"closed": 20, "errors": []}
    # Nobody lost a lease, and the idle are closed as ever.
    time.sleep(LEASE_S * 2)
    eventually(lambda: all(_is_closed(here, env_id) for env_id in idle), HANG_S, "closing of the idle")
    assert sum(worker["slots"] for worker in all_workers(here)) == NUM_SLOTS
    assert sum(worker["live_envs"] for worker in all_workers(here)) == len(live)

    own_redis.fill(False)
    eventually(lambda: all(step(here, each, seq=1).status_code == 200 for each in live), HANG_S, "steps")
    for env_id in live:
        assert step(there, env_id, seq=1).json()["info"]["num_steps"] == 2
        assert step(there, env_id, seq=2).json()["info"]["num_steps"] == 3
    made = initialize_many(there, 20)
    assert len(made) == 20


def _is_closed(client: httpx.Client, env_id: str) -> bool:
    answer = client.get(f"/api/environment/{env_id}")
    return answer.status_code == 404 and answer.json()["code"] == "environment_closed"
