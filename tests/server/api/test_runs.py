"""How the tasks of a run went, over HTTP."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.conftest import ServerProcess, StartServer
from tests.pool_process import initialize, step
from tests.waiting import HANG_S
from verl_agent_env.client import EnvClient
from verl_agent_env.wire.task_results import TaskStatistics, arguments_digest, task_key

LAKE = {"desc": ["SG"], "is_slippery": False, "max_steps": 2, "invalid_action_reward": -0.5}


def task(seed: int, env_kwargs: dict[str, Any] = LAKE) -> str:
    return task_key("verl_env/frozen_lake-v1", arguments_digest(env_kwargs), seed)


@pytest.fixture
def api(server: ServerProcess) -> Any:
    with httpx.Client(base_url=server.url, timeout=HANG_S) as client:
        yield client


def shown(api: httpx.Client, run_id: str, **request: Any) -> list[dict[str, Any]]:
    answer = api.get(f"/api/runs/{run_id}/tasks", **request)
    assert answer.status_code == 200, answer.text
    assert answer.json()["next_cursor"] is None
    found: list[dict[str, Any]] = answer.json()["tasks"]
    return found


def test_each_end_of_an_episode_counts_once(api: httpx.Client) -> None:
    run: dict[str, Any] = {"run_id": "counted", "env_kwargs": LAKE}
    solved, lost = initialize(api, seed=1, **run), initialize(api, seed=1, **run)
    for _ in range(2):
        # The same step twice is one step.
        assert step(api, solved, "right", seq=0).json()["terminated"]
    step(api, lost, "what?", seq=0)
    assert shown(api, "counted") == [{"task": task(1), "tries": 1, "successes": 1, "mean_reward": 1.0}]
    assert step(api, lost, "what?", seq=1).json()["truncated"]
    assert shown(api, "counted") == [{"task": task(1), "tries": 2, "successes": 1, "mean_reward": 0.0}]
    # The next episode of an environment is a task of its own, and one that is closed on its way counts for nothing.
    begun = api.post(f"/api/environment/{solved}/reset", json={"seed": 7}).json()
    assert begun["info"]["seed"] == 7
    api.post("/api/batch/step", json={"env_ids": [solved], "actions": ["right"]})
    api.post(f"/api/environment/{initialize(api, **run)}/close")
    assert {each["task"]: each["tries"] for each in shown(api, "counted")} == {task(1): 2, task(7): 1}


def test_environments_without_a_run_are_not_counted_and_runs_are_apart(api: httpx.Client) -> None:
    step(api, initialize(api, seed=1, env_kwargs=LAKE), "right")
    step(api, initialize(api, seed=1, env_kwargs=LAKE, run_id="a/b c"), "right")
    assert shown(api, "nobody") == []
    assert [each["tries"] for each in shown(api, "a%2Fb%20c")] == [1]


@pytest.mark.parametrize("cursor", ["-1", "x", "", "1" * 21, "٣"])
def test_cursor_that_is_none_is_refused(api: httpx.Client, cursor: str) -> None:
    answer = api.get("/api/runs/any/tasks", params={"cursor": cursor})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize("run_id", ["", "x" * 129])
def test_run_id_that_is_none_is_refused(api: httpx.Client, run_id: str) -> None:
    answer = api.get(f"/api/runs/{run_id}/tasks")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_client_reads_all_of_it(server: ServerProcess) -> None:
    with EnvClient(server.url) as client, client.run("of the client/é") as run:
        with run.make("frozen_lake", seed=3, env_kwargs=LAKE) as env:
            env.reset()
            env.step("right")
        assert client.task_results(run.run_id) == [TaskStatistics(task(3), 1, 1, 1.0)]


def test_holders_do_not_see_each_others_runs(start_server: StartServer, tmp_path: Any) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("one run one-token\ntwo run two-token\n")
    url = start_server("--auth-file", str(tokens)).url
    for name, tries in (("one", [1]), ("two", [1])):
        headers = {"authorization": f"Bearer {name}-token"}
        with httpx.Client(base_url=url, timeout=HANG_S, headers=headers) as api:
            assert shown(api, "shared name") == []
            step(api, initialize(api, seed=1, env_kwargs=LAKE, run_id="shared name"), "right")
            assert [each["tries"] for each in shown(api, "shared name")] == tries
