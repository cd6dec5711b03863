"""Redis that dies, stays away or is emptied."""

from __future__ import annotations

import asyncio

from loadtests.chaos.load import Load
from verl_agent_env.cli.local_cluster import LocalCluster


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
    import redis.asyncio

    client = redis.asyncio.from_url(cluster.redis_url)
    await client.flushall()
    await client.aclose()
