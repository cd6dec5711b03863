"""The stream of what a cluster is doing: through nginx, while nodes are drained, and while a worker dies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.api.test_cluster_events import PATH, events_in
from tests.waiting import HANG_S
from verl_agent_env.cluster.local import LocalCluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Two nodes behind nginx."""
    folder: Path = tmp_path_factory.mktemp("cluster")
    with LocalCluster(folder, nodes=2, workers=1) as started:
        yield started


def wait_for(events: Iterator[tuple[str, Any]], name: str, condition: Callable[[Any], bool]) -> Any:
    """Read events until one is as wanted."""
    return next(data for found, data in events if found == name and condition(data))


def workers_in(cluster: Any) -> list[Any]:
    return [worker for node in cluster["nodes"] for worker in node["workers"]]


def test_a_drain_is_seen_as_it_happens_through_nginx(cluster: LocalCluster) -> None:
    with httpx.Client(base_url=cluster.url, timeout=HANG_S) as client:
        made = {"env_name": "frozen_lake", "num_envs": 20, "run_id": "run"}
        env_ids = client.post("/api/batch/initialize", json=made).json()["env_ids"]
        with client.stream("GET", f"{PATH}?run=run") as answer:
            events = events_in(answer.iter_lines())
            slots = wait_for(events, "slots", lambda data: -1 not in data["owners"])
            assert len(slots["workers"]) == 2
            shown = wait_for(events, "cluster", lambda data: len(workers_in(data)) == 2)
            node = shown["nodes"][0]
            httpx.post(
                f"{cluster.url}/api/batch/step",
                json={"env_ids": env_ids, "actions": ["up"] * 20},
                timeout=HANG_S,
            )
            busy = wait_for(events, "cluster", lambda data: bool(data["steps_per_s"]))
            assert busy["batch_ms"]["p50"] > 0
            assert busy["store_ms"]["p99"] > 0
            drain = {"node": node["name"]}
            assert (
                httpx.post(f"{cluster.url}/api/cluster/drain", json=drain, timeout=HANG_S).status_code == 200
            )
            emptied = node["workers"][0]["name"]
            wait_for(events, "slots", lambda data: _has_none(data, emptied))
            states = {
                worker["name"]: (worker["state"], worker["live_envs"])
                for worker in workers_in(
                    wait_for(
                        events,
                        "cluster",
                        lambda data: any(w["state"] == "draining" for w in workers_in(data)),
                    )
                )
            }
            assert states[emptied][0] == "draining"
            # The stream goes on, and the environments live on at the other node.
            assert wait_for(events, "run", lambda data: bool(data["live_envs"] == 20))
            undo = {**drain, "undo": True}
            assert (
                httpx.post(f"{cluster.url}/api/cluster/drain", json=undo, timeout=HANG_S).status_code == 200
            )
            wait_for(events, "slots", lambda data: not _has_none(data, emptied))


def _has_none(slots: Any, worker: str) -> bool:
    """Whether a worker owns no slot."""
    return worker not in slots["workers"] or slots["workers"].index(worker) not in slots["owners"]
