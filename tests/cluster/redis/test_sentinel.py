"""Redis behind Sentinels: the primary is followed, and what its replicas lacked is written again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import redis

from tests.cluster.conftest import StartNode
from tests.cluster.redis_process import RedisProcess
from tests.cluster.sentinel_processes import SERVICE, redis_group
from tests.cluster.workers import worker
from tests.pool_process import initialize_many, step
from tests.ports import free_port
from tests.waiting import HANG_S, eventually, until
from verl_agent_env.cluster.backends import BackendOptions, open_backend
from verl_agent_env.cluster.redis.client import RedisClient
from verl_agent_env.cluster.redis.keys import Keys
from verl_agent_env.cluster.redis.limits import RedisLimits
from verl_agent_env.cluster.redis.scripts import Script
from verl_agent_env.errors import GenerationChangedError, StoreUnavailableError
from verl_agent_env.wire.records import Write

T = TypeVar("T")
ENV_ID = "000-of-a-test"
LEASE_S = 60.0
_NOTHING = Script("nothing", "return 1")


async def as_soon_as_it_can(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask again until the store answers."""
    async with asyncio.timeout(HANG_S):
        while True:
            try:
                return await ask()
            except StoreUnavailableError:
                await asyncio.sleep(0.05)


def append(seq: int) -> Write:
    """One more step of the test's environment."""
    return Write("append", ENV_ID, 0, 0, seq, b"{}")


async def test_another_primary_is_another_data_set_that_nobody_owns(tmp_path: Path, namespace: str) -> None:
    with redis_group(tmp_path) as group:
        backend, me = open_backend(group.url, BackendOptions(namespace)), worker("me")
        try:
            store, log = backend.store, backend.logs[0].log
            generation = (await store.heartbeat(me, LEASE_S)).generation
            tokens = await store.claim("me", [0])
            await log.commit(generation, tokens, [Write("create", ENV_ID, 0, 0, 0, b"{}"), append(0)])
            group.unlink()
            await log.commit(generation, tokens, [append(1)])
            group.primary.stop()
            found = await as_soon_as_it_can(store.read_map)
            assert found.generation not in ("", generation)
            assert found.owners == {}
            # What was written to the former primary alone is missing, and nobody goes on as if it were not.
            with pytest.raises(GenerationChangedError):
                await as_soon_as_it_can(lambda: log.commit(generation, tokens, [append(2)]))
            (saved,) = await log.load([ENV_ID], whole=True)
            assert len(saved.entries) == 1
            assert set(await store.claim("me", [0])) == {0}
        finally:
            await backend.aclose()


# What comes upon a frozen one is shown below, by clients alone.
@pytest.mark.parametrize("fault", ["killed", pytest.param("frozen", marks=pytest.mark.deep)])
def test_no_step_is_lost_while_its_owner_lives_though_no_replica_had_it(
    start_node: StartNode, tmp_path: Path, fault: str
) -> None:
    with redis_group(tmp_path) as group:
        pool = start_node("a", redis=group.url)
        assert any("min-replicas-to-write 1" in line for line in pool.server.lines)
        env_ids = initialize_many(pool.any, 24)

        def play(seq: int) -> None:
            for env_id in env_ids:
                played(pool.any, env_id, seq)

        play(0)
        group.unlink()
        play(1)
        if fault == "killed":
            group.primary.stop()
        else:
            group.primary.pause()
            group.await_election()
            group.primary.resume()
        group.await_election()
        # Without a further step. Sentinels that had to wait for a core may elect another one meanwhile.
        eventually(
            lambda: bool(port := group.elected()) and written_at(port) >= 2 * len(env_ids),
            what="the steps at the new primary",
        )
        # Whoever brings an environment back has but the new primary to read from.
        pool.kill(0)
        play(2)


async def test_a_client_that_was_idle_leaves_a_primary_that_was_frozen_before_it_wakes_up(
    tmp_path: Path, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    with redis_group(tmp_path) as group:
        backend = open_backend(group.url, BackendOptions(namespace))
        try:
            generation = (await backend.store.heartbeat(worker("me"), LEASE_S)).generation
            tokens = await backend.store.claim("me", [0])
            create = Write("create", ENV_ID, 0, 0, 0, b"{}")
            await backend.logs[0].log.commit(generation, tokens, [create])
            group.primary.pause()
            await until(lambda: caplog.text.count("Redis has another primary") >= 2, "both clients' notice")
            group.primary.resume()
            with pytest.raises(GenerationChangedError):
                await as_soon_as_it_can(lambda: backend.logs[0].log.commit(generation, tokens, [append(0)]))
        finally:
            await backend.aclose()


@pytest.mark.parametrize("failover", ["yes", "no"])
async def test_behind_one_address_another_server_is_another_data_set_if_the_url_says_so(
    tmp_path: Path, namespace: str, failover: str
) -> None:
    server = RedisProcess(tmp_path, "--appendonly", "yes", "--appendfsync", "always")
    try:
        backend = open_backend(f"{server.url}?failover={failover}", BackendOptions(namespace))
        generation = (await backend.store.heartbeat(worker("me"), LEASE_S)).generation
        await backend.store.claim("me", [0])
        # With its data, and another run id: as a replica that took its place.
        server.stop()
        server.start()
        found = await as_soon_as_it_can(backend.store.read_map)
        assert (found.generation != generation, found.owners == {}) == (failover == "yes",) * 2
        await backend.aclose()
    finally:
        server.stop()


async def test_a_write_counts_when_as_many_replicas_have_it_as_the_url_demands(
    tmp_path: Path, namespace: str
) -> None:
    with redis_group(tmp_path) as group:
        backend = open_backend(f"{group.url}?wait=2", BackendOptions(namespace))
        try:
            generation = (await backend.store.heartbeat(worker("me"), LEASE_S)).generation
            tokens = await backend.store.claim("me", [0])
            create = Write("create", ENV_ID, 0, 0, 0, b"{}")
            assert (
                await as_soon_as_it_can(lambda: backend.logs[0].log.commit(generation, tokens, [create]))
                == []
            )
            group.unlink()
            with pytest.raises(StoreUnavailableError) as caught:
                await backend.logs[0].log.commit(generation, tokens, [append(0)])
            assert caught.value.may_have_run
            assert "of 2 that must" in caught.value.detail
        finally:
            await backend.aclose()


async def test_sentinels_that_know_no_primary_are_said_in_one_sentence() -> None:
    client = RedisClient(f"redis+sentinel://127.0.0.1:{free_port()}/{SERVICE}", RedisLimits(), Keys())
    try:
        with pytest.raises(StoreUnavailableError, match=f"no Sentinel that answers watches '{SERVICE}'"):
            await client.call(lambda: client.redis.get("key"))
        # The pipe, too.
        with pytest.raises(StoreUnavailableError, match="no Sentinel that answers"):
            await client.run(_NOTHING, [], [])
    finally:
        await client.aclose()


def played(client: httpx.Client, env_id: str, seq: int) -> None:
    """Have a step answered, however often it has to be asked for."""
    answers: list[httpx.Response] = []

    def is_answered() -> bool:
        answers.append(step(client, env_id, "right", seq=seq))
        return answers[-1].status_code not in (502, 503)

    eventually(is_answered, what="an answer")
    assert answers[-1].status_code == 200, answers[-1].text
    assert answers[-1].json()["info"]["num_steps"] == seq + 1


def written_at(port: int) -> int:
    """Count the steps in the logs of all environments."""
    with redis.Redis(port=port, decode_responses=True) as client:
        found: Any = client
        return sum(found.llen(key) - 1 for key in found.scan_iter("*:j:*", count=1000))
