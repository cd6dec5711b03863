"""One of several Redis with event logs dies, in a cluster of its own beside the one that is under load."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loadtests.chaos.fault import Strike
from loadtests.chaos.load import Load
from loadtests.chaos.steering import until
from verl_agent_env.cluster.local import LocalCluster, Machine
from verl_agent_env.types import slot_of
from verl_agent_env.waits import STORE_S
from verl_agent_env.wire.event_log import shard_of

AWAY_S = 10.0
_EPISODES = 200
_LOGS = 2
_PROBES = 60
_BACK_WITHIN_S = 30.0


def one_log_away(machines: Mapping[str, Machine], max_stall_s: float) -> Strike:
    """One of two Redis with event logs killed, and started again: the other one's slots must not notice.

    Args:
        machines: Where the programs of the cluster run; on the loopback without any.
        max_stall_s: How long a step may take.
    """

    async def strike(_: LocalCluster, load: Load) -> None:
        with tempfile.TemporaryDirectory(prefix="chaos-logs-") as folder:
            cluster = LocalCluster(Path(folder), nodes=2, workers=1, redis_logs=_LOGS, machines=machines)
            try:
                await asyncio.to_thread(cluster.start)
                async with load.beside(_EPISODES, url=cluster.url, max_stall_s=max_stall_s) as others:
                    await _lose_one(cluster, others)
                    await others.rounds(2)
            finally:
                await asyncio.to_thread(cluster.stop)

    return strike


async def _lose_one(cluster: LocalCluster, load: Load) -> None:
    call, broken = load.client.call, load.ledger.broken
    made = await call("/api/batch/initialize", {"env_name": "frozen_lake", "num_envs": _PROBES})
    env_ids: list[str] = made["env_ids"]
    lost = [env_id for env_id in env_ids if shard_of(slot_of(env_id), _LOGS) == 0]
    kept = [env_id for env_id in env_ids if env_id not in lost]

    async def step(some: list[str], seq: int) -> set[str]:
        body: dict[str, Any] = {"env_ids": some, "actions": ["left"] * len(some), "seqs": [seq] * len(some)}
        answer = await call("/api/batch/step", body, is_patient=False)
        errors = answer.get("errors", [answer])
        return {error["code"] for error in errors} | ({"ok"} if len(errors) < len(some) else set())

    # Logs are numbered in the order of their addresses.
    _, first = min(zip(cluster.redis_log_urls, cluster.redis_logs, strict=True), key=lambda pair: pair[0])
    await asyncio.to_thread(first.kill)
    end = time.monotonic() + AWAY_S
    began = time.monotonic()
    if await step(kept, 0) != {"ok"} or time.monotonic() - began > STORE_S:
        broken.append("slots of the other log wait")
    if await step(lost, 0) != {"store_unavailable"}:
        broken.append("slots of the lost log do not say so")
    await asyncio.sleep(end - time.monotonic())
    first.start()

    async def is_back() -> bool:
        return await step(lost, 0) == {"ok"}

    if not await until(is_back, _BACK_WITHIN_S):
        broken.append("slots of the log do not come back")
    await call("/api/batch/close", {"env_ids": env_ids})
