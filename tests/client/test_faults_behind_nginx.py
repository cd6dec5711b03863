"""Everything behind one URL restarts in turn: who uses the client sees no error, and every step is taken once."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.client.conftest import LAKE
from tests.waiting import eventually
from verl_agent_env.client import AsyncEnv, AsyncEnvClient
from verl_agent_env.cluster.local import LocalCluster

ENVS = 12
ACTIONS = ["<action>right</action>", "<action>left</action>"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("cluster"), nodes=2, workers=2) as made:
        yield made


def settle(cluster: LocalCluster) -> None:
    """Wait until every slot is where it belongs, and nginx has noticed who is back."""

    def is_settled() -> bool:
        try:
            return cluster.is_settled()
        except (OSError, ValueError):
            return False

    eventually(is_settled, what="a settled cluster")


def reload_nginx(cluster: LocalCluster) -> None:
    for _ in range(20):
        cluster.nginx.signal(signal.SIGHUP)
        # Each is one of its own: signals that come together are taken for one.
        time.sleep(0.1)


def restart_redis(cluster: LocalCluster) -> None:
    cluster.redis.kill()
    cluster.redis.start()


def restart_all_nodes(cluster: LocalCluster) -> None:
    for node in cluster.nodes:
        node.stop()
        node.start()
        settle(cluster)


def kill_every_worker(cluster: LocalCluster) -> None:
    workers = [worker for node in cluster.describe()["nodes"] for worker in node["workers"]]
    for worker in workers:
        os.kill(worker["pid"], signal.SIGKILL)
        settle(cluster)


@pytest.mark.parametrize("strike", [reload_nginx, restart_redis, restart_all_nodes, kill_every_worker])
async def test_user_of_the_client_notices_nothing(
    cluster: LocalCluster, strike: Callable[[LocalCluster], None]
) -> None:
    is_over = asyncio.Event()

    async def play(env: AsyncEnv) -> list[tuple[int, float, Any]]:
        seen = []
        while not is_over.is_set() or env.seq < 10:
            number = env.seq
            result = await env.step(ACTIONS[number % 2])
            seen.append((number, result.reward, result.observation))
            await asyncio.sleep(0.05)
        return seen

    async with AsyncEnvClient(cluster.url, close_deadline_s=60) as client:
        envs = await asyncio.gather(*(client.make(**LAKE, seed=seed) for seed in range(ENVS)))
        playing = asyncio.gather(*map(play, envs))
        await asyncio.to_thread(strike, cluster)
        await asyncio.to_thread(settle, cluster)
        is_over.set()
        seen = await playing
        for env, steps in zip(envs, seen, strict=True):
            kept = (await env.trajectory())["steps"]
            assert [(step["seq"], step["reward"], step["observation"]) for step in kept] == steps
            assert (await env.state())["seq"] == len(steps)
