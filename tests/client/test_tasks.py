"""Tasks, as the client's environments begin with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import ServerProcess
from verl_agent_env.client import AsyncEnvClient, Env, EnvClient
from verl_agent_env.client.remote_env import RemoteEnv
from verl_agent_env.client.remote_vector_env import RemoteVectorEnv
from verl_agent_env.errors import TaskNotFoundError, UnknownSplitError

LAKE = "frozen_lake"


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[EnvClient]:
    with EnvClient(server.url) as connected:
        yield connected


@pytest.fixture(scope="module")
def tasks(client: EnvClient) -> list[dict[str, Any]]:
    return client.tasks(LAKE, "test", limit=3)


def test_splits_and_tasks_are_listed(client: EnvClient, tasks: list[dict[str, Any]]) -> None:
    assert [(split["name"], split["infinite"]) for split in client.splits(LAKE)] == [
        ("train", True),
        ("test", True),
    ]
    assert [task["index"] for task in tasks] == [0, 1, 2]
    assert client.tasks("verl_env/frozen_lake-v1", "test", offset=1, limit=2) == tasks[1:]
    assert len(client.tasks(LAKE, limit=1002)) == 1002
    with pytest.raises(ValueError, match="give a limit"):
        client.tasks(LAKE)
    with pytest.raises(UnknownSplitError):
        client.tasks(LAKE, "dev", limit=1)


def test_an_environment_begins_with_its_task(client: EnvClient, tasks: list[dict[str, Any]]) -> None:
    for task in (("test", 2), tasks[2]):
        with client.make(LAKE, task=task) as env:
            assert env.reset().info["seed"] == tasks[2]["seed"]


async def test_an_environment_of_the_asynchronous_client_does_so_too(
    server: ServerProcess, tasks: list[dict[str, Any]]
) -> None:
    for micro_batching in (True, False):
        async with (
            AsyncEnvClient(server.url, micro_batching=micro_batching) as client,
            client.make(LAKE, task=("test", 1)) as env,
        ):
            assert (await env.reset()).info["seed"] == tasks[1]["seed"]


def test_many_begin_with_their_tasks_and_fail_alone(client: EnvClient, tasks: list[dict[str, Any]]) -> None:
    made = client.make_many(LAKE, [7], tasks=[("test", 0), ("test", 2**50), tasks[1]])
    assert isinstance(made[2], TaskNotFoundError)
    envs = [env for env in made if isinstance(env, Env)]
    assert [env.reset().info["seed"] for env in envs] == [7, tasks[0]["seed"], tasks[1]["seed"]]
    client.close_batch(envs)


def test_a_gymnasium_environment_begins_with_its_task(client: EnvClient, tasks: list[dict[str, Any]]) -> None:
    env = RemoteEnv(env_name=LAKE, client=client, task=("test", 0))
    assert env.reset()[1]["seed"] == tasks[0]["seed"]
    assert env.reset(seed=3)[1]["seed"] == 3
    env.close()


def test_a_vector_environment_begins_with_its_tasks(client: EnvClient, tasks: list[dict[str, Any]]) -> None:
    envs = RemoteVectorEnv(env_name=LAKE, client=client, tasks=tasks)
    assert envs.num_envs == 3
    _, infos = envs.reset()
    assert infos["seed"].tolist() == [task["seed"] for task in tasks]
    envs.close()
    with pytest.raises(ValueError, match="3 tasks for 2 environments"):
        RemoteVectorEnv(env_name=LAKE, num_envs=2, client=client, tasks=tasks)


@pytest.mark.parametrize(
    "task", ["train/1", ("train",), ("train", "1"), ("train", True), ("train", -1), {"index": 1}, 7]
)
def test_what_is_no_task_is_refused_before_anything_is_sent(client: EnvClient, task: Any) -> None:
    with pytest.raises(ValueError, match="a task is"):
        client.make(LAKE, task=task)


def test_a_seed_beside_a_task_is_refused(client: EnvClient) -> None:
    with pytest.raises(ValueError, match="either"):
        client.make(LAKE, seed=1, task=("train", 1))
