"""skyrl_gym's own ``make``, configuration and metrics, over a server."""

from __future__ import annotations

import dataclasses
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.bridges.cluster import kill_a_worker
from tests.conftest import ServerProcess, StartServer
from tests.pool_process import LASTING
from verl_agent_env.client import EnvClient
from verl_agent_env.cluster.local import LocalCluster
from verl_agent_env.errors import EpisodeEndedError, UnknownEnvNameError
from verl_agent_env.integrations.errors import EpisodeFailedError, TrainingSetupError
from verl_agent_env.integrations.skyrl import register

skyrl_gym = pytest.importorskip("skyrl_gym", reason="make bridges-test installs skyrl-gym")

LAKE: dict[str, Any] = {"desc": ["SFG"], "is_slippery": False, "include_task_prompt": False}
ROW: dict[str, Any] = {"env_name": "frozen_lake", "seed": 3, "env_kwargs": LAKE}
SYSTEM = {"role": "system", "content": "Walk."}
BOARD = {"role": "user", "content": "P\tF\tG"}
RIGHT = "<action>right</action>"


HALF = "\ud83d"
"""Half a character, as a tokenizer cuts one."""


@dataclasses.dataclass
class ServerConfig:
    """As SkyRL's own environments have theirs."""

    url: str
    max_turns: int | None = None


def make(env_config: Any, **row: Any) -> Any:
    return skyrl_gym.make("verl_agent_env", env_config=env_config, extras={**ROW, **row})


def test_an_episode(server: ServerProcess) -> None:
    register(url=server.url, run_id="skyrl-tests")
    env = make({})
    conversation, metadata = env.init([SYSTEM])
    assert conversation == [SYSTEM, BOARD]
    assert metadata == {"env_name": "frozen_lake", "seed": 3}
    first = env.step(f"I go {HALF} {RIGHT}")
    assert first["observations"] == [{"role": "user", "content": "F\tP\tG"}]
    assert (first["reward"], first["done"]) == (0.0, False)
    last = env.step(RIGHT)
    assert (last["reward"], last["done"], last["metadata"]["success"]) == (1.0, True, True)
    assert env.get_metrics() == {"reward": 1.0, "success": 1.0, "turns": 2.0, "valid_turns": 1.0}
    averages = type(env).aggregate_metrics([env.get_metrics(), {"reward": 0.0, "success": 0.0}])
    assert averages["success"] == 0.5
    env.close()
    env.close()
    with EnvClient(server.url) as client:
        assert client.close_run("skyrl-tests") == 0


def test_every_form_of_a_configuration_is_taken(server: ServerProcess) -> None:
    from omegaconf import OmegaConf

    register(url="http://127.0.0.1:9/replaced")
    forms = [{"url": server.url}, OmegaConf.create({"url": server.url}), ServerConfig(server.url)]
    for env_config in (*forms, OmegaConf.structured(ServerConfig(server.url))):
        env = make(env_config)
        assert env.init([])[0] == [BOARD]
        env.close()


@pytest.mark.parametrize("env_config", [{"colour": "red"}, object(), {"max_turns": 0}])
def test_a_wrong_configuration_is_refused(server: ServerProcess, env_config: Any) -> None:
    register(url=server.url)
    with pytest.raises(TrainingSetupError):
        make(env_config)
    with pytest.raises(TrainingSetupError):
        register(colour="red")


def test_the_turns_of_skyrl_and_of_the_options_end_an_episode(server: ServerProcess) -> None:
    register(url=server.url, max_turns=2)
    for turns in (1, 5):
        env = make({}, env_kwargs=LASTING, max_turns=turns)
        env.init([])
        assert [env.step(RIGHT)["done"] for _ in range(min(turns, 2))][-1]
        env.close()


def test_prompts_of_curated_rows_are_not_repeated(server: ServerProcess) -> None:
    register(url=server.url)
    env = make({}, extra_info={**ROW, "system_prompt": "Walk."})
    assert env.init([BOARD])[0] == [SYSTEM, BOARD]
    assert env.init([SYSTEM, {"role": "user", "content": "Begin."}])[0][1:] == [
        {"role": "user", "content": "Begin."},
        BOARD,
    ]
    env.close()


def test_rows_that_define_no_episode_are_refused(server: ServerProcess) -> None:
    register(url=server.url)
    for row in ({"seed": None}, {"env_name": None}, {"env_kwargs": "{"}):
        with pytest.raises(TrainingSetupError):
            make({}, **row)
    with pytest.raises(UnknownEnvNameError):
        make({}, env_name="frozen_lak").init([])
    with pytest.raises(TrainingSetupError, match="pictures"):
        make({}, env_kwargs={"observation_mode": "image"}).init([])


def test_a_group_plays_one_episode_side_by_side(server: ServerProcess) -> None:
    register(url=server.url)
    lake = {"size": 6, "is_slippery": True}

    def played(seed: int) -> list[str]:
        env = make({}, seed=seed, env_kwargs=lake)
        seen = [message["content"] for message in env.init([])[0]]
        done = False
        for _ in range(3):
            if not done:
                taken = env.step(RIGHT)
                seen += [message["content"] for message in taken["observations"]]
                done = taken["done"]
        env.close()
        return seen

    with ThreadPoolExecutor(16) as threads:
        group = list(threads.map(played, [4] * 32))
        other = list(threads.map(played, [5] * 2))
    assert all(seen == group[0] for seen in group)
    assert other[0] != group[0]


def test_a_step_after_the_end_is_an_error(server: ServerProcess) -> None:
    register(url=server.url)
    env = make({}, env_kwargs={"desc": ["SG"], "is_slippery": False})
    env.init([])
    assert env.step(RIGHT)["done"]
    with pytest.raises(EpisodeEndedError):
        env.step(RIGHT)
    env.close()


def test_a_lost_server_is_an_error_and_no_reward(start_server: StartServer) -> None:
    away = start_server()
    register(url=away.url, deadline_s=2, close_deadline_s=1)
    env = make({}, env_kwargs=LASTING)
    env.init([])
    away.stop(signal.SIGKILL)
    with pytest.raises(EpisodeFailedError):
        env.step(RIGHT)
    env.close()


def test_a_killed_worker_is_not_noticed(server: ServerProcess, tmp_path: Path) -> None:
    lake = {"size": 6, "is_slippery": True, "include_task_prompt": False}

    def played(url: str, before_step: Any) -> list[list[str]]:
        register(url=url)
        envs = [make({}, seed=seed, env_kwargs=lake) for seed in range(8)]
        seen = [[message["content"] for message in env.init([])[0]] for env in envs]
        for number in range(3):
            before_step(number)
            for env, texts in zip(envs, seen, strict=True):
                if not env._episode.is_over:
                    texts += [message["content"] for message in env.step(RIGHT)["observations"]]
        for env in envs:
            env.close()
        return seen

    undisturbed = played(server.url, lambda _: None)
    with LocalCluster(tmp_path / "cluster", nodes=2, workers=1) as cluster:
        disturbed = played(cluster.url, lambda number: kill_a_worker(cluster.url) if number == 1 else None)
    assert disturbed == undisturbed
