"""Actions that are far too large, sent to a cluster: refused before anything is applied or kept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.cluster.conftest import StartNode
from tests.pool_process import LASTING
from tests.waiting import HANG_S


@pytest.mark.parametrize(
    ("size", "code"),
    [(100_000_000, "body_too_large"), (2_000_000, "action_too_large")],
    ids=["over the limit of bodies", "over that of actions"],
)
def test_far_too_large_actions_are_refused_and_change_nothing(
    start_node: StartNode, size: int, code: str
) -> None:
    pool = start_node("a")
    large = b'{"seq": 0, "action": "%b"}' % (b"x" * size)
    request = {"env_name": "frozen_lake", "num_envs": 5, "env_kwargs": LASTING}
    env_ids = pool.any.post("/api/batch/initialize", json=request).json()["env_ids"]

    def send(env_id: str) -> httpx.Response:
        return httpx.post(
            f"{pool.server.url}/api/environment/{env_id}/step",
            content=large,
            headers={"Content-Type": "application/json"},
            timeout=HANG_S,
        )

    with ThreadPoolExecutor() as clients:
        refused = list(clients.map(send, env_ids))
    assert [(answer.status_code, answer.json()["code"]) for answer in refused] == [(413, code)] * 5
    assert not any(answer.json()["retryable"] for answer in refused)
    # Nothing counts as taken, and the same workers go on.
    body = {"env_ids": env_ids, "actions": ["right"] * 5, "seqs": [0] * 5}
    batch = pool.any.post("/api/batch/step", json=body).json()
    assert batch["errors"] == []
    assert [info["num_steps"] for info in batch["infos"]] == [1] * 5
