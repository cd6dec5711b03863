"""A Redis for tests of this folder."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.cluster.redis_process import RedisProcess
from tests.conftest import StartServer
from tests.pool_process import Pool
from verl_agent_env.cluster.redis.keys import Keys

LEASE_S = 3.0

StartNode = Callable[..., Pool]


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """A Redis shared by all tests of a process: use a namespace of your own."""
    process = RedisProcess(tmp_path_factory.mktemp("redis"))
    yield process
    process.stop()


@pytest.fixture
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """A Redis for one test, which may stop and start it."""
    process = RedisProcess(tmp_path_factory.mktemp("redis"))
    yield process
    process.stop()


@pytest.fixture
def keys() -> Keys:
    """A namespace that nobody else uses."""
    return Keys(uuid.uuid4().hex)


@pytest.fixture
def namespace() -> str:
    """A cluster of a test's own."""
    return uuid.uuid4().hex


@pytest.fixture
def start_node(
    start_server: StartServer, redis_server: RedisProcess, namespace: str, plugin_path: str
) -> Iterator[StartNode]:
    """A function that starts a node of the test's cluster."""
    started: list[Pool] = []

    def start(
        name: str,
        *options: str,
        workers: int = 2,
        redis: str = "",
        lease_s: float = LEASE_S,
        python_path: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> Pool:
        arguments = {
            "--node": name,
            "--advertise": "127.0.0.1",
            "--redis": redis or redis_server.url,
            "--namespace": namespace,
            "--workers": str(workers),
            "--lease-s": str(lease_s),
        }
        flat = [part for pair in arguments.items() for part in pair]
        # What stands here is found before what is installed.
        installed = {} if python_path is None else {"PYTHONPATH": f"{python_path}{os.pathsep}{plugin_path}"}
        started.append(Pool(start_server(*flat, *options, **installed, **(variables or {})), name))
        return started[-1]

    yield start
    for pool in started:
        pool.close()
