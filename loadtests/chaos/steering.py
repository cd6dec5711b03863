"""What several faults do to a cluster, and wait for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from verl_agent_env.cluster.local import LocalCluster, Node

_SETTLE_S = 120.0


async def worker_pid(cluster: LocalCluster, address: str = "") -> int:
    """Process id of the worker at ``address``; of any worker of the last node if not given."""
    address = address or cluster.nodes[-1].addresses[0]
    described = await asyncio.to_thread(cluster.describe)
    workers = [worker for node in described["nodes"] for worker in node["workers"]]
    return next(int(worker["pid"]) for worker in workers if worker["address"] == address)


async def start(node: Node, cluster: LocalCluster) -> None:
    """Start a node, and wait until it has its slots."""
    node.start()
    await settled(cluster)


async def settled(cluster: LocalCluster) -> None:
    """Wait until every slot is where it belongs, at most two minutes."""
    async with asyncio.timeout(_SETTLE_S):
        while True:
            try:
                if await asyncio.to_thread(cluster.is_settled):
                    return
            except (OSError, ValueError):
                pass
            await asyncio.sleep(0.1)


async def until(holds: Callable[[], Awaitable[bool]], within_s: float) -> bool:
    """Wait until something holds; whether it did in time."""
    end = time.monotonic() + within_s
    while not await holds():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.1)
    return True
