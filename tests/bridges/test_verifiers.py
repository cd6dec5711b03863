"""verifiers' own ``vf-eval``, with this project's plugin and with its own taskset of OpenEnv, over a server."""

from __future__ import annotations

import itertools
import signal
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.bridges.cluster import kill_a_worker
from tests.bridges.vf_eval import plugin_arguments, traces_of, user_texts, vf_eval
from tests.conftest import ServerProcess, StartServer
from tests.examples.model_server import serving_model
from tests.pool_process import LASTING
from verl_agent_env.client import EnvClient
from verl_agent_env.cluster.local import LocalCluster

vf = pytest.importorskip("verifiers.v1", reason="make bridges-test installs verifiers")

LAKE: dict[str, Any] = {"size": 5, "is_slippery": True, "max_steps": 6}
RIGHT = {"role": "assistant", "content": "I go. <action>right</action>"}


def played_here(url: str, seed: int) -> tuple[str, float]:
    """The first observation and the reward of an episode whose every action is the model's."""
    reward = 0.0
    with EnvClient(url) as client, client.make("frozen_lake", seed=seed, **LAKE) as env:
        first = str(env.reset()[0][0]["content"])
        over = False
        while not over:
            result = env.step(RIGHT["content"])
            reward, over = reward + result.reward, result.is_over
    return first, reward


def test_vf_eval_plays_the_plugin(server: ServerProcess, tmp_path: Path) -> None:
    with serving_model(itertools.repeat(RIGHT)) as model:
        arguments = plugin_arguments(server.url, "frozen_lake", LAKE, tasks=2, rollouts=2)
        traces = traces_of(vf_eval(model, tmp_path, *arguments))
    assert len(traces) == 4
    by_task: dict[str, list[dict[str, Any]]] = {}
    for trace in traces:
        by_task.setdefault(trace["task"]["data"]["name"], []).append(trace)
    assert set(by_task) == {"frozen_lake#0", "frozen_lake#1"}
    for seed in range(2):
        first, reward = played_here(server.url, seed)
        group = by_task[f"frozen_lake#{seed}"]
        # All rollouts of a task are of one episode.
        assert [user_texts(trace)[0] for trace in group] == [first] * 2
        assert [trace["rewards"]["env_reward"]["score"] for trace in group] == [reward] * 2
        assert all(trace["metrics"]["turns"] > 0 for trace in group)


def test_a_killed_worker_is_not_noticed(server: ServerProcess, tmp_path: Path) -> None:
    with LocalCluster(tmp_path / "cluster", nodes=2, workers=1) as cluster:

        def answers() -> Any:
            for number in itertools.count():
                if number == 2:
                    kill_a_worker(cluster.url)
                yield RIGHT

        with serving_model(answers()) as model:
            arguments = plugin_arguments(cluster.url, "frozen_lake", LAKE, tasks=2, rollouts=2)
            traces = traces_of(vf_eval(model, tmp_path / "runs", *arguments))
    assert len(traces) == 4
    for trace in traces:
        first, reward = played_here(server.url, trace["task"]["data"]["seed"])
        assert user_texts(trace)[0] == first
        assert trace["rewards"]["env_reward"]["score"] == reward


def test_vf_eval_plays_through_openenv(server: ServerProcess, tmp_path: Path) -> None:
    pytest.importorskip("openenv", reason="make bridges-test installs openenv")
    file = tmp_path / "run.toml"
    # Its flags cannot be given on the command line: its configuration is checked before they are read.
    file.write_text(
        f'[env.taskset]\nid = "openenv"\nbase_url = "{server.url}/openenv/frozen_lake"\n'
        "[[env.taskset.resets]]\nseed = 1\nenv_kwargs = {size = 5, is_slippery = true, max_steps = 6}\n"
        '[env.player]\nharness = {id = "null"}\nruntime = {type = "subprocess"}\n'
    )
    with serving_model(itertools.repeat(RIGHT)) as model:
        [trace] = traces_of(vf_eval(model, tmp_path / "runs", "@", str(file)))
    first, reward = played_here(server.url, 1)
    assert orjson.loads(user_texts(trace)[0])["observation"]["text"] == first
    assert trace["rewards"]["openenv_reward"]["score"] == reward


def test_a_lost_server_fails_the_rollout(start_server: StartServer, tmp_path: Path) -> None:
    away = start_server()

    def answers() -> Any:
        yield RIGHT
        away.stop(signal.SIGKILL)
        yield from itertools.repeat(RIGHT)

    with serving_model(answers()) as model:
        arguments = plugin_arguments(away.url, "frozen_lake", LASTING, tasks=1, rollouts=1)
        [episode] = vf_eval(model, tmp_path, *arguments, "--env.deadline-s", "2")
    # verifiers names the error of an environment so, and ours in its text.
    [error] = episode["errors"]
    assert error["type"] == "EnvError"
    assert "EpisodeFailedError" in error["message"]
    assert away.url in error["message"]
    assert all("env_reward" not in trace["rewards"] for trace in episode["traces"])
