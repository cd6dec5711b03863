"""What it takes a worker to read the cluster's map from Redis: bytes, and CPU of both."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import redis
from rich.console import Console
from rich.table import Table

from verl_agent_env.cluster.programs import program
from verl_agent_env.cluster.redis.store import RedisStore
from verl_agent_env.cluster.store import WorkerRecord
from verl_agent_env.types import NUM_SLOTS

_LEASE_S = 600.0
_READS = 200
_START_S = 30.0
_PART = 40
"""Slots that are handed over together."""


def bench_map(workers: int = 8, hand_overs: int = 24) -> None:
    """Share the slots out, hand some over, read the map, and print what that takes.

    Args:
        workers: Number of workers.
        hand_overs: Number of hand-overs of 40 slots: each makes a further token.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "redis.sock"
        command = [program("redis-server"), "--port", "0", "--unixsocket", str(path), "--save", ""]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            end = time.monotonic() + _START_S
            while not path.exists() and time.monotonic() < end:
                time.sleep(0.05)
            asyncio.run(_measure(str(path), workers, hand_overs))
        finally:
            process.kill()
            process.wait()


async def _measure(path: str, workers: int, hand_overs: int) -> None:
    store = RedisStore(f"unix://{path}")
    try:
        incarnations = [await _join(store, number) for number in range(workers)]
        for number, incarnation in enumerate(incarnations):
            await store.claim(incarnation, range(number, NUM_SLOTS, workers))
        for number in range(hand_overs):
            mine = (await store.read_map()).tokens_of(incarnations[number % workers])
            await store.hand_off(dict([*mine.items()][:_PART]), incarnations[(number + 1) % workers])
        with redis.Redis(unix_socket_path=path) as client:
            found: Any = client.info
            bytes_before, cpu_before = found("stats")["total_net_output_bytes"], _cpu_s(found)
            own_before = time.process_time()
            for _ in range(_READS):
                cluster = await store.read_map()
            own = time.process_time() - own_before
            cpu, size = (
                _cpu_s(found) - cpu_before,
                found("stats")["total_net_output_bytes"] - bytes_before,
            )
    finally:
        await store.aclose()
    tokens = len({ownership.token for ownership in cluster.owners.values()})
    table = Table(title=f"Reading the map of {len(cluster.owners)} slots, {workers} workers, {tokens} tokens")
    for column in ("bytes", "ms of Redis' CPU", "ms of the worker's CPU"):
        table.add_column(column, justify="right")
    table.add_row(f"{size // _READS:,}", f"{cpu / _READS * 1e3:.2f}", f"{own / _READS * 1e3:.2f}")
    Console().print(table)


async def _join(store: RedisStore, number: int) -> str:
    record = WorkerRecord(
        incarnation=uuid.uuid4().hex,
        name=f"node:{number}",
        node="node",
        supervisor="bench",
        address=f"127.0.0.1:{8001 + number}",
        pid=1 + number,
        state="ready",
        started_at=float(number),
    )
    await store.heartbeat(record, _LEASE_S)
    return record.incarnation


def _cpu_s(info: Any) -> float:
    used = info("cpu")
    return float(used["used_cpu_user"] + used["used_cpu_sys"])
