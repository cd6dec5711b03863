"""Results of a run's tasks in a cluster: all workers count in one place, and a kill in the middle counts nothing twice."""

from __future__ import annotations

from typing import Any

import httpx
import orjson

from tests.cluster.conftest import StartNode
from tests.pool_process import Pool, initialize_many, kill_owner, step
from tests.waiting import eventually

LAKE = {"desc": ["SFFG"], "is_slippery": False, "invalid_action_reward": -0.25}
RUN = {"run_id": "counted", "env_kwargs": LAKE}


def counted(client: httpx.Client) -> dict[str, tuple[int, int, float]]:
    """Tries, successes and mean reward by the seed of the task."""
    tasks = client.get("/api/runs/counted/tasks").json()["tasks"]
    return {
        each["task"]
        .partition("@")[2]
        .partition("-")[0]: (
            each["tries"],
            each["successes"],
            each["mean_reward"],
        )
        for each in tasks
    }


def stepped(client: httpx.Client, env_id: str, action: Any, seq: int) -> dict[str, Any]:
    """The answer to a step, sent again while a worker is missing."""
    answers: list[httpx.Response] = []

    def ask() -> bool:
        answers.append(step(client, env_id, action, seq=seq))
        return answers[-1].status_code == 200 or not orjson.loads(answers[-1].content)["retryable"]

    eventually(ask, what="an answer")
    assert answers[-1].status_code == 200, answers[-1].text
    found: dict[str, Any] = answers[-1].json()
    return found


def test_every_worker_counts_in_one_place(start_node: StartNode) -> None:
    pool: Pool = start_node("a")
    ids = initialize_many(pool.any, 8, **RUN)
    for seq in range(3):
        for env_id in ids:
            stepped(pool.any, env_id, "right", seq)
    for client in pool.at:
        assert counted(client) == {str(seed): (1, 1, 1.0) for seed in range(8)}


def test_kill_in_the_middle_and_after_the_end_counts_once(start_node: StartNode) -> None:
    """The sum of the rewards is that of the whole episode, of which the new worker saw the end alone."""
    pool: Pool = start_node("a")
    (env_id,) = initialize_many(pool.any, 1, **RUN)
    for seq, action in enumerate(("fly", "right", "right")):
        stepped(pool.any, env_id, action, seq)
    assert counted(pool.any) == {}
    kill_owner(pool.any, env_id)
    last = stepped(pool.any, env_id, "right", 3)
    assert last["terminated"]
    assert counted(pool.any) == {"0": (1, 1, 0.75)}
    kill_owner(pool.any, env_id)
    assert stepped(pool.any, env_id, "right", 3) == last
    assert counted(pool.any) == {"0": (1, 1, 0.75)}


def test_rewards_before_a_snapshot_are_kept_too(start_node: StartNode) -> None:
    """Of a long episode a new worker plays the last steps only."""
    pool: Pool = start_node("a")
    kwargs = {**LAKE, "max_steps": 40}
    (env_id,) = initialize_many(pool.any, 1, run_id="counted", env_kwargs=kwargs)
    for seq in range(35):
        stepped(pool.any, env_id, "fly", seq)
    kill_owner(pool.any, env_id)
    for seq in range(35, 40):
        last = stepped(pool.any, env_id, "fly", seq)
    assert last["truncated"]
    assert counted(pool.any) == {"0": (1, 0, -10.0)}
