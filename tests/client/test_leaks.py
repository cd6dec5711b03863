"""After a client is closed, nothing of it is left: no task, no connection, no thread, no environment."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from pathlib import Path

import httpx
import pytest

from tests.client.conftest import GATED, LAKE
from tests.conftest import ServerProcess
from tests.lossy_proxy import LossyProxy
from tests.waiting import HANG_S, until
from verl_agent_env.client import AsyncEnvClient, ClientClosedError, EnvClient


def live_envs(server: ServerProcess, run_id: str) -> int:
    """How many environments of a run there were, all closed now."""
    answer = httpx.post(f"{server.url}/api/batch/close", json={"run_id": run_id}, timeout=HANG_S).json()
    return int(answer["closed"])


@pytest.mark.parametrize("micro_batching", [True, False], ids=["shared", "plain"])
async def test_closed_client_leaves_no_task_no_connection_and_no_environment(
    server: ServerProcess, micro_batching: bool
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with LossyProxy(server.port) as proxy:
            tasks = asyncio.all_tasks()
            client = AsyncEnvClient(proxy.url, micro_batching=micro_batching, max_connections=8)
            envs = await asyncio.gather(*(client.make(**LAKE, seed=seed) for seed in range(200)))
            await asyncio.gather(*(env.step("right") for env in envs))
            assert 0 < proxy.most_connections <= 8
            await client.close()
            await until(lambda: not proxy.connections)
            await asyncio.sleep(0)
            assert asyncio.all_tasks() <= tasks
            assert live_envs(server, client.run_id) == 0
        del client, envs
        gc.collect()


async def test_client_that_is_closed_while_calls_are_under_way_leaves_nothing(
    server: ServerProcess, tmp_path: Path
) -> None:
    tasks = asyncio.all_tasks()
    client = AsyncEnvClient(server.url)
    env = await client.make(GATED)
    action = {"entered": str(tmp_path / "entered"), "gate": str(tmp_path / "gate")}
    step = asyncio.create_task(env.step(action))
    await until((tmp_path / "entered").exists)
    makes = [asyncio.create_task(client.make(**LAKE).open()) for _ in range(10)]
    await asyncio.sleep(0)
    (tmp_path / "gate").touch()
    await client.close()
    outcomes = await asyncio.gather(step, *makes, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {ClientClosedError}
    assert asyncio.all_tasks() <= tasks
    assert live_envs(server, client.run_id) == 0


@pytest.mark.parametrize("micro_batching", [True, False], ids=["shared", "plain"])
async def test_environment_whose_making_was_cancelled_is_closed(
    server: ServerProcess, micro_batching: bool
) -> None:
    async with LossyProxy(server.port) as proxy:
        client = AsyncEnvClient(proxy.url, micro_batching=micro_batching)
        await client.catalogue()
        for delay_s in (0.0, 0.001, 0.002, 0.005, 0.01):
            making = [asyncio.create_task(client.make("sokoban", seed=s).open()) for s in range(5)]
            await asyncio.sleep(delay_s)
            for task in making:
                task.cancel()
            await asyncio.gather(*making, return_exceptions=True)
        await client.close()
        assert live_envs(server, client.run_id) == 0


async def test_run_closes_all_of_its_environments_and_no_others(client: AsyncEnvClient) -> None:
    kept = await client.make(**LAKE)
    async with client.run() as run:
        envs = await asyncio.gather(*(run.make(**LAKE, seed=seed) for seed in range(7)))
        await envs[0].close()
        assert await run.close() == 6
        await run.make(**LAKE)
    assert await client.close_run(run.run_id) == 0
    assert (await kept.state())["run_id"] == client.run_id


async def test_attached_environment_outlives_the_client(
    server: ServerProcess, client: AsyncEnvClient
) -> None:
    env = await client.make(**LAKE, seed=2)
    await env.step("right")
    async with AsyncEnvClient(server.url) as other:
        attached = await other.attach(env.env_id)
        assert attached.seq == 1
        await attached.step("left")
    assert (await env.state())["seq"] == 2


def test_synchronous_client_that_nobody_refers_to_any_more_is_closed(server: ServerProcess) -> None:
    threads = set(threading.enumerate())
    client = EnvClient(server.url)
    env = client.make(**LAKE)
    run_id, (thread,) = client.run_id, set(threading.enumerate()) - threads
    del client, env
    gc.collect()
    thread.join(HANG_S)
    assert not thread.is_alive()
    assert live_envs(server, run_id) == 0


def test_synchronous_client_ends_its_thread(server: ServerProcess) -> None:
    before = set(threading.enumerate())
    with EnvClient(server.url) as client:
        with client.make(**LAKE) as env:
            env.step("right")
            assert set(threading.enumerate()) > before
        client.make(**LAKE)
    assert set(threading.enumerate()) == before
    client.close()
    with pytest.raises(ClientClosedError):
        client.catalogue()
    assert live_envs(server, client.run_id) == 0
