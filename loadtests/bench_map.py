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

from verl_agent_env.cluster.planner import RebalancePlanner
from verl_agent_env.cluster.programs import program
from verl_agent_env.cluster.redis.keys import Keys
from verl_agent_env.cluster.redis.store import RedisStore
from verl_agent_env.cluster.slots import SlotTable
from verl_agent_env.cluster.store import ClusterMap, WorkerRecord
from verl_agent_env.types import NUM_SLOTS

_LEASE_S = 600.0
_READS = 200
_LOOKS = 40
_START_S = 30.0
_PART = 40
"""Slots that are handed over together."""


def bench_map(workers: int = 8, num_slots: int = NUM_SLOTS, hand_overs: int = 24) -> None:
    """Share the slots out, hand some over, read the map and what has changed in it, and print what that takes.

    Args:
        workers: Number of workers.
        num_slots: Number of slots.
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
            asyncio.run(_measure(str(path), workers, num_slots, hand_overs))
        finally:
            process.kill()
            process.wait()


async def _measure(path: str, workers: int, num_slots: int, hand_overs: int) -> None:
    store = RedisStore(f"unix://{path}", Keys(num_slots=num_slots))
    try:
        incarnations = [await _join(store, number) for number in range(workers)]
        for number, incarnation in enumerate(incarnations):
            await store.claim(incarnation, range(number, num_slots, workers))
        for number in range(hand_overs):
            await _hand_over(store, incarnations, number)
        taking_in = await _cost_of_taking_in(store, incarnations, num_slots)
        before = await store.read_map()
        await _hand_over(store, incarnations, hand_overs)
        handed_over = await store.read_map()
        await _join(store, workers)
        joined = await store.read_map()
        tokens = len({ownership.token for ownership in joined.owners.values()})
        slots = len(joined.owners)
        table = Table(title=f"Reading the map of {slots} slots, {workers} workers, {tokens} tokens")
        for column in ("what is read", "bytes", "ms of Redis' CPU", "ms of the worker's CPU"):
            table.add_column(column, justify="right")
        with redis.Redis(unix_socket_path=path) as client:
            for name, known in (
                ("the whole", None),
                (f"a hand-over of {_PART} slots and a worker that joined", before),
                ("a worker that joined", handed_over),
                ("nothing new", joined),
            ):
                table.add_row(name, *await _cost_of_reading(store, known, client.info))
    finally:
        await store.aclose()
    Console().print(table)
    Console().print(
        f"What follows from a hand-over, at a worker that read it: {taking_in * 1e3:.2f} ms of its CPU"
    )


async def _cost_of_reading(store: RedisStore, known: ClusterMap | None, found: Any) -> tuple[str, str, str]:
    bytes_before, cpu_before = found("stats")["total_net_output_bytes"], _cpu_s(found)
    own_before = time.process_time()
    for _ in range(_READS):
        await store.read_map(known)
    own = time.process_time() - own_before
    cpu, size = _cpu_s(found) - cpu_before, found("stats")["total_net_output_bytes"] - bytes_before
    return f"{size // _READS:,}", f"{cpu / _READS * 1e3:.3f}", f"{own / _READS * 1e3:.3f}"


async def _cost_of_taking_in(store: RedisStore, incarnations: list[str], num_slots: int) -> float:
    """Return the seconds of CPU in which a worker has a plan and a slot table for a map of which one part has changed."""
    now = 0.0
    planner = RebalancePlanner(incarnations[0], clock=lambda: now, num_slots=num_slots)
    table = SlotTable("127.0.0.1:8001", num_slots=num_slots)
    used, cluster = 0.0, await store.read_map()
    for number in range(_LOOKS + 1):
        began = time.process_time()
        planner.observe(cluster)
        planner.plan()
        table.assign(
            planner.forward_to(),
            tokens := planner.tokens(),
            for_new=planner.placement().slots,
            generation=cluster.generation,
            tokens=tokens,
            foreign=planner.foreign(),
        )
        # The first is a whole map, of workers that have all just come.
        now = 100.0
        used += (time.process_time() - began) if number else 0.0
        await _hand_over(store, incarnations, number)
        cluster = await store.read_map(planner.cluster)
    return used / _LOOKS


async def _hand_over(store: RedisStore, incarnations: list[str], number: int) -> None:
    workers = len(incarnations)
    mine = (await store.read_map()).tokens_of(incarnations[number % workers])
    await store.hand_off({incarnations[(number + 1) % workers]: dict([*mine.items()][:_PART])})


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
