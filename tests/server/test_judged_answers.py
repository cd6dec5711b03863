"""Judged answers over HTTP: a judge that fails leaves the step untaken, and nobody else waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import StartServer
from tests.judge_server import JudgeServer, scores_of, serving_judge
from tests.pool_process import initialize, initialize_many, step
from tests.waiting import HANG_S, eventually
from verl_agent_env.client import EnvClient
from verl_agent_env.envs.model_endpoints import ENDPOINTS_VARIABLE

SCORER = {
    "type": "judge",
    "endpoint": "judge",
    "criteria": [{"name": "right", "description": "Is it right?"}],
}
CHAT = {"task_prompt": "What is 2 + 2?", "scorer": SCORER}


@pytest.fixture
def judge() -> Iterator[JudgeServer]:
    with serving_judge(lambda question: scores_of(question, right=7)) as server:
        yield server


StartApi = Callable[..., httpx.Client]


@pytest.fixture
def start_api(judge: JudgeServer, start_server: StartServer, tmp_path: Path) -> Iterator[StartApi]:
    """A function that gives a client of a server whose operator names the judge, with these limits."""
    with ExitStack() as stack:

        def start(**limits: Any) -> httpx.Client:
            limits = {"max_attempts": 1, "timeout_s": 20, "deadline_s": 20, **limits}
            file = judge.write_file(tmp_path / "endpoints.json", **limits)
            server = start_server(**{ENDPOINTS_VARIABLE: str(file)})
            return stack.enter_context(httpx.Client(base_url=server.url, timeout=HANG_S))

        yield start


@pytest.fixture
def api(start_api: StartApi) -> httpx.Client:
    return start_api()


def made(api: httpx.Client) -> str:
    return initialize(api, "single_turn_chat", env_kwargs=CHAT)


def stepped(api: httpx.Client, env_id: str) -> httpx.Response:
    return step(api, env_id, "4", seq=0)


def test_judge_that_is_down_fails_the_step_which_may_be_taken_again(
    judge: JudgeServer, api: httpx.Client
) -> None:
    env_id = made(api)
    judge.trouble = 500
    failed = stepped(api, env_id)
    assert failed.status_code == 503
    assert failed.headers["retry-after"] == "5"
    assert failed.json()["code"] == "endpoint_unavailable"
    assert failed.json()["retryable"]
    judge.trouble = None
    taken = stepped(api, env_id)
    assert taken.json()["reward"] == 0.7
    assert taken.json()["info"]["reward_parts"] == {"right": 0.7}
    assert stepped(api, env_id).json() == taken.json()
    assert len(judge.requests) == 2


def test_client_takes_the_step_again_by_itself(judge: JudgeServer, api: httpx.Client) -> None:
    judge.troubles = [500]
    with EnvClient(str(api.base_url)) as client, client.make("single_turn_chat", env_kwargs=CHAT) as env:
        env.reset()
        assert env.step("4").reward == 0.7
    assert len(judge.requests) == 2


def test_one_failing_item_disturbs_no_other_of_a_batch(judge: JudgeServer, api: httpx.Client) -> None:
    ids = [made(api), initialize(api)]
    judge.trouble = 401
    answer = api.post("/api/batch/step", json={"env_ids": ids, "actions": ["4", "right"]}).json()
    assert [(error["index"], error["code"]) for error in answer["errors"]] == [(0, "endpoint_unavailable")]
    assert answer["infos"][1]["num_steps"] == 1


def test_others_do_not_wait_for_judges_that_think(judge: JudgeServer, start_api: StartApi) -> None:
    """More answers are judged at once than there are threads for environments that block."""
    api = start_api(max_concurrent=200)
    judge.trouble = "silent"
    ids = initialize_many(api, 80, env_name="single_turn_chat", env_kwargs=CHAT)
    exact = {"scorer": {"type": "exact_match", "answer": "4"}}
    other = initialize(api, "single_turn_chat", env_kwargs=exact)
    with ThreadPoolExecutor(1) as threads:
        body = {"env_ids": ids, "actions": ["4"] * len(ids)}
        asking = threads.submit(api.post, "/api/batch/step", json=body)
        try:
            eventually(lambda: len(judge.requests) == 80, what="the questions")
            assert stepped(api, other).json()["reward"] == 1.0
        finally:
            judge.release.set()
        asking.result(HANG_S)


def test_budget_is_told(judge: JudgeServer, start_api: StartApi) -> None:
    api = start_api(max_requests=6)
    for _ in range(6):
        assert stepped(api, made(api)).status_code == 200
    refused = stepped(api, made(api))
    assert refused.status_code == 402
    assert refused.json()["code"] == "endpoint_budget_spent"
    assert not refused.json()["retryable"]
    assert len(judge.requests) == 6


def test_arguments_name_endpoints_and_nothing_else(api: httpx.Client) -> None:
    scorer = {**SCORER, "endpoint": "mine"}
    body = {"env_name": "single_turn_chat", "env_kwargs": {**CHAT, "scorer": scorer}}
    refused = api.post("/api/environment/initialize", json=body)
    assert refused.status_code == 422
    assert "no model endpoint is configured as 'mine'; there are: judge" in refused.text
    assert "127.0.0.1" not in refused.text
