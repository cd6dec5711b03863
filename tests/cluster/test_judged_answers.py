"""Models of the operator's in a cluster: what a judge or a simulated user has said is never asked for twice, a kill loses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.cluster.conftest import StartNode
from tests.judge_server import JudgeServer, scores_of, serving_judge
from tests.pool_process import Pool, initialize, kill_owner, step
from tests.waiting import eventually
from verl_agent_env.envs.model_endpoints import ENDPOINTS_VARIABLE

CHAT = {
    "task_prompt": "What is 2 + 2?",
    "scorer": {
        "type": "judge",
        "endpoint": "judge",
        "criteria": [{"name": "right", "description": "Is it right?"}],
    },
}
PARTS = {"weights": {"task": 2}, "length": {"free_chars": 2, "max_chars": 12, "penalty": -0.5}}
LAKE = {"desc": ["SFFG"], "is_slippery": False, "reward_parts": PARTS}


@pytest.fixture
def judge() -> Iterator[JudgeServer]:
    with serving_judge(lambda question: scores_of(question, right=7)) as server:
        yield server


def node_with(judge: JudgeServer, start_node: StartNode, tmp_path: Path) -> Pool:
    """A node whose operator names the judge."""
    file = judge.write_file(tmp_path / "endpoints.json", timeout_s=20, deadline_s=25)
    return start_node("a", variables={ENDPOINTS_VARIABLE: str(file)})


def stepped(client: httpx.Client, env_id: str, action: str, seq: int) -> dict[str, Any]:
    """The answer of a step, sent again while a worker is missing."""
    answers: list[httpx.Response] = []

    def ask() -> bool:
        answers.append(step(client, env_id, action, seq=seq))
        return answers[-1].status_code == 200 or not answers[-1].json()["retryable"]

    eventually(ask, what="an answer")
    assert answers[-1].status_code == 200, answers[-1].text
    found: dict[str, Any] = answers[-1].json()
    return found


def test_score_that_was_acknowledged_is_not_asked_for_again(
    judge: JudgeServer, start_node: StartNode, tmp_path: Path
) -> None:
    pool = node_with(judge, start_node, tmp_path)
    env_id = initialize(pool.any, "single_turn_chat", env_kwargs=CHAT)
    first = stepped(pool.any, env_id, "4", 0)
    assert first["info"]["reward_parts"] == {"right": 0.7}
    # The judge would say something else now.
    judge.judging = lambda question: scores_of(question, right=0)
    kill_owner(pool.any, env_id)
    assert stepped(pool.any, env_id, "4", 0) == first
    assert len(judge.requests) == 1


def test_worker_that_is_killed_while_the_judge_thinks_loses_no_answer(
    judge: JudgeServer, start_node: StartNode, tmp_path: Path
) -> None:
    pool = node_with(judge, start_node, tmp_path)
    env_id = initialize(pool.any, "single_turn_chat", env_kwargs=CHAT)
    judge.trouble = "silent"
    with ThreadPoolExecutor(1) as threads:

        def ask() -> None:
            # Cut off by the kill, or answered by another worker in its place.
            try:
                step(pool.any, env_id, "4", seq=0)
            except httpx.TransportError:
                return

        asking = threads.submit(ask)
        eventually(lambda: len(judge.requests) == 1, what="the question")
        judge.trouble = None
        kill_owner(pool.any, env_id)
        assert stepped(pool.any, env_id, "4", 0)["reward"] == 0.7
        asking.result(120)
    assert len(judge.requests) == 2


def test_parts_of_a_reward_are_the_same_after_a_kill(start_node: StartNode) -> None:
    """Their text parts depend on what was written, which the journal has whole."""
    pool = start_node("a")
    env_id = initialize(pool.any, env_kwargs=LAKE)
    answers = [stepped(pool.any, env_id, action, seq) for seq, action in enumerate(("right", "**right**"))]
    assert answers[1]["info"]["reward_parts"] == {"task": 0.0, "length": -0.35}
    kill_owner(pool.any, env_id)
    assert stepped(pool.any, env_id, "**right**", 1) == answers[1]
    last = stepped(pool.any, env_id, "right", 2)
    assert last["info"]["reward_parts"] == {"task": 2.0, "length": -0.15}
    assert last["reward"] == 1.85


def test_what_the_user_said_is_never_asked_for_again(
    judge: JudgeServer, start_node: StartNode, tmp_path: Path
) -> None:
    def speak(question: dict[str, Any]) -> str:
        said = f"message {len(judge.requests)}"
        ends = bool(question["conversation"]) and question["conversation"][-1]["content"] == "42"
        return orjson.dumps({"ticket": question["ticket"], "message": said, "ends": ends}).decode()

    judge.judging = speak
    pool = node_with(judge, start_node, tmp_path)
    user = {"endpoint": "judge", "goal": "The product of six and seven."}
    scorer = {"type": "numeric", "answer": 42}
    env_id = initialize(pool.any, "python_tool", env_kwargs={"user": user, "scorer": scorer})
    answer = stepped(pool.any, env_id, "Hm.", 0)
    assert answer["observation"] == [{"role": "user", "content": "message 2"}]
    kill_owner(pool.any, env_id)
    assert stepped(pool.any, env_id, "Hm.", 0) == answer
    stepped(pool.any, env_id, "Well.", 1)
    assert len(judge.requests) == 3
    # Whoever asks for the next message knows all of those before.
    heard = [each["content"] for each in judge.questions()[-1]["conversation"]]
    assert heard == ["message 1", "Hm.", "message 2", "Well."]
    last = stepped(pool.any, env_id, "42", 2)
    assert (last["reward"], last["terminated"]) == (1.0, True)
    assert last["observation"] == [{"role": "user", "content": "message 4"}]
