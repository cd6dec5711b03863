"""Redis that dies, stays away, is emptied, is full, or cannot be reached by one node alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import redis.asyncio

from loadtests import bad_env
from loadtests.chaos.fault import Strike
from loadtests.chaos.load import Load
from loadtests.chaos.node_faults import kill_worker
from loadtests.chaos.steering import settled, until
from loadtests.namespaces import Network
from verl_agent_env.cluster.local import LocalCluster

PARTED_S = 16.0
"""How long a node is cut from Redis."""
FULL_S = 15.0
"""How long Redis is full, at least."""
_FULL_WITHIN_S = 30.0
_REAPED_WITHIN_S = 30.0
_SHORT_TTL_S = 8.0
_CLOSED = 100


async def restart_redis(cluster: LocalCluster, _: Load) -> None:
    """Redis killed and started again, with its file of appended commands."""
    await asyncio.to_thread(cluster.redis.kill)
    cluster.redis.start()


async def redis_away(cluster: LocalCluster, _: Load) -> None:
    """Redis away for thirty seconds."""
    await asyncio.to_thread(cluster.redis.kill)
    await asyncio.sleep(30)
    cluster.redis.start()


async def flush_redis(cluster: LocalCluster, _: Load) -> None:
    """All data of Redis gone, with the owners alive."""
    async with _redis_of(cluster) as client:
        await client.flushall()


async def flush_beside_broken(cluster: LocalCluster, load: Load) -> None:
    """All data gone while environments are broken of which only the state is kept; then a worker dies.

    Those of the dead worker can be there only if all of its were written again, whatever the broken ones came to.
    """
    made = await load.client.call("/api/batch/initialize", {"env_name": bad_env.COUNTER_NAME, "num_envs": 8})
    env_ids = made["env_ids"]
    for action, seq in (("count", 0), ("raise", 1)):
        steps = {"env_ids": env_ids, "actions": [action] * len(env_ids), "seqs": [seq] * len(env_ids)}
        failed = (await load.client.call("/api/batch/step", steps))["errors"]
        if {error["code"] for error in failed} != ({"environment_failed"} if action == "raise" else set()):
            load.ledger.broken.append(f"'{action}' fails: {failed[:1]}")
    await flush_redis(cluster, load)
    await load.rounds(2)
    await kill_worker(cluster, load)
    await load.rounds(1)
    for env_id in env_ids:
        answer = await load.client.call(f"/api/environment/{env_id}/step", {"action": "count", "seq": 1})
        if "code" in answer:
            load.ledger.unretryable[answer["code"]] += 1
        elif answer["observation"][0]["content"] != "2":
            load.ledger.differing += 1
    await load.client.call("/api/batch/close", {"env_ids": env_ids})


async def fill_redis(cluster: LocalCluster, load: Load) -> None:
    """No room in Redis (``maxmemory``, ``noeviction``), where nothing but closes and reaping goes on; then room again."""
    call, broken = load.client.call, load.ledger.broken
    new: dict[str, Any] = {"env_name": "frozen_lake", "num_envs": _CLOSED}
    closed = await call("/api/batch/initialize", new | {"run_id": "closed"})
    idle = await call("/api/batch/initialize", new | {"run_id": "idle", "ttl_s": _SHORT_TTL_S})
    async with _redis_of(cluster) as client:
        await client.config_set("maxmemory-policy", "noeviction")
        await client.config_set("maxmemory", 1)
        try:
            filled = asyncio.create_task(asyncio.sleep(FULL_S))

            async def refuses() -> bool:
                answer = await call(
                    "/api/environment/initialize", {"env_name": "frozen_lake"}, is_patient=False
                )
                return answer.get("code") == "store_full" and "maxmemory" in answer["detail"]

            async def is_reaped() -> bool:
                states = await asyncio.gather(*(call(f"/api/environment/{each}") for each in idle["env_ids"]))
                return {state.get("code") for state in states} <= {
                    "environment_closed",
                    "environment_not_found",
                }

            if not await until(refuses, _FULL_WITHIN_S):
                broken.append("a full Redis refuses no new environment")
            done = await call("/api/batch/close", {"run_id": "closed"})
            if done.get("closed") != len(closed["env_ids"]):
                broken.append(f"a full Redis closes {done}")
            if not await until(is_reaped, _REAPED_WITHIN_S):
                broken.append("a full Redis reaps nothing")
            await filled
        finally:
            await client.config_set("maxmemory", 0)
    if not load.ledger.refused["store_full"]:
        broken.append("a full Redis took all steps")
    async with load.beside(_CLOSED, max_stall_s=2.0):
        await load.rounds(1)


def part_from_redis(network: Network, max_stall_s: float) -> Strike:
    """The first node cut from Redis alone, while environments with a short ttl are stepped at the other one."""

    async def strike(cluster: LocalCluster, load: Load) -> None:
        cut, other = cluster.nodes
        url = f"http://{other.host}:{other.port}"
        async with load.beside(60, url=url, ttl_s=_SHORT_TTL_S, max_stall_s=max_stall_s) as short:
            network.part(cut.name, "redis")
            await asyncio.sleep(PARTED_S)
            network.rejoin(cut.name, "redis")
            await settled(cluster)
            # The slots have gone home by now.
            await short.rounds(2)

    return strike


@contextlib.asynccontextmanager
async def _redis_of(cluster: LocalCluster) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.from_url(cluster.redis_url)
    try:
        yield client
    finally:
        await client.aclose()
