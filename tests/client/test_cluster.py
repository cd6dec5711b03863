"""Workers and nodes that end in the middle of everything: who uses the client does not notice."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest

from tests.client.conftest import LAKE
from tests.cluster.redis_process import RedisProcess
from tests.conftest import StartServer
from tests.pool_process import Pool
from tests.waiting import no_hang
from verl_agent_env.client import AsyncEnv, AsyncEnvClient

ENVS = 16
STEPS = 40
ACTIONS = ["<action>right</action>", "<action>left</action>"]

StartNode = Callable[[str], Pool]


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """A Redis of this module."""
    process = RedisProcess(tmp_path_factory.mktemp("redis"))
    yield process
    process.stop()


@pytest.fixture
def start_node(start_server: StartServer, redis: RedisProcess) -> Iterator[StartNode]:
    """A function that starts a node with two workers of the test's cluster."""
    started: list[Pool] = []
    namespace = uuid.uuid4().hex

    def start(name: str) -> Pool:
        options = {
            "--node": name,
            "--advertise": "127.0.0.1",
            "--redis": redis.url,
            "--namespace": namespace,
            "--workers": "2",
            "--lease-s": "3",
        }
        server = start_server(*(part for option in options.items() for part in option))
        started.append(Pool(server, name))
        return started[-1]

    yield start
    for pool in started:
        pool.close()


async def play(env: AsyncEnv, progress: asyncio.Semaphore) -> list[tuple[int, str, float, Any]]:
    """Step to and fro, thinking a little each time; what the client saw."""
    seen = []
    for number in range(STEPS):
        result = await env.step(ACTIONS[number % 2])
        seen.append((number, ACTIONS[number % 2], result.reward, result.observation))
        progress.release()
        await asyncio.sleep(0.02)
    return seen


async def kept_by_server(env: AsyncEnv) -> list[tuple[int, str, float, Any]]:
    steps = (await env.trajectory())["steps"]
    return [(step["seq"], step["action"], step["reward"], step["observation"]) for step in steps]


@pytest.mark.parametrize(
    ("direct", "micro_batching"), [("auto", True), ("never", False)], ids=["shared-direct", "plain"]
)
async def test_kept_environments_outlive_workers_and_a_node_without_an_error(
    start_node: StartNode, direct: Literal["auto", "never"], micro_batching: bool
) -> None:
    stays, goes = start_node("a"), start_node("b")
    async with AsyncEnvClient(
        stays.server.url, direct=direct, micro_batching=micro_batching, close_deadline_s=60
    ) as client:
        envs = await asyncio.gather(*(client.make(**LAKE, seed=seed) for seed in range(ENVS)))
        progress = asyncio.Semaphore(0)
        playing = asyncio.gather(*(play(env, progress) for env in envs))
        for _ in range(ENVS * 10):
            await progress.acquire()
        await asyncio.to_thread(stays.kill, 0)
        for _ in range(ENVS * 10):
            await progress.acquire()
        await asyncio.to_thread(goes.kill_all)
        async with no_hang():
            seen = await playing
        assert await asyncio.gather(*map(kept_by_server, envs)) == seen
        assert [env.seq for env in envs] == [STEPS] * ENVS
        run_id = client.run_id
    async with AsyncEnvClient(stays.server.url) as other:
        assert await other.close_run(run_id) == 0
