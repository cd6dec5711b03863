"""What a step of a batch costs all workers of a pool, by the number of parts that the batch has there, and what follows for more.

Batches of several sizes are placed on pools of processes as the server places them. What the workers do besides, as heartbeats and
watching their loops, is measured while nothing is asked of them and taken off. A line through the measured costs, by parts
for each item, gives the cost of a part; with it the costs of batches over 800 workers are computed, which cannot be run here.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import orjson
from rich.console import Console
from rich.progress import track
from rich.table import Table

from loadtests.bench_http import LAKE, initialize, tool_call
from loadtests.processes import cpu_of_tree, serving
from loadtests.raw_client import Connection, connect, post
from verl_agent_env.cluster.ports import consecutive_free_ports
from verl_agent_env.cluster.slots import share_holders
from verl_agent_env.engine.host.batches import TOGETHER

POOLS = (8, 32)
SIZES = (10_000, 2_560, 1_000, 320, 160)
MANY = 800
"""Workers of the cluster whose costs are computed."""
_STEPS = 20_000
"""Of each batch in a round: the system counts CPU in hundredths of a second."""

_IDLE_S = 2.0


@dataclass
class Placed:
    """A batch in one pool."""

    workers: int
    size: int
    env_ids: list[str]
    costs_s: list[float] = field(default_factory=list)
    """CPU of all workers per step, of each round."""

    @property
    def parts(self) -> int:
        """Parts of each of its calls."""
        return share_holders(self.workers, self.size, TOGETHER)

    @property
    def cost_s(self) -> float:
        """The median."""
        return statistics.median(self.costs_s)


async def bench_placement(rounds: int) -> None:
    """Measure, and print what was measured beside the line and what the line says of many workers."""
    console, placed = Console(), []
    with contextlib.ExitStack() as stack:
        pools: list[tuple[int, Connection]] = []
        for workers in POOLS:
            with console.status(f"{workers} workers start"):
                first = consecutive_free_ports(workers)[0]
                options = ("--workers", str(workers), "--worker-port", str(first))
                pool = stack.enter_context(serving(*options))
                client = await connect(pool.port)
                stack.callback(client.close)
                pools.append((pool.pid, client))
                for size in SIZES:
                    env_ids = await initialize(client, "frozen_lake", LAKE, size)
                    placed.append(Placed(workers, size, env_ids))
        idle: dict[int, list[float]] = {workers: [] for workers in POOLS}
        for _ in track(range(rounds), description="rounds", console=console):
            for workers, (pid, client) in zip(POOLS, pools, strict=True):
                idle[workers].append(await _idle(pid))
                for batch in placed:
                    if batch.workers == workers:
                        besides = statistics.median(idle[workers])
                        batch.costs_s.append(await _cost(pid, client, batch.env_ids, besides))
    console.print(table_of(placed))
    for workers, several in idle.items():
        each_ms = statistics.median(several) / workers * 1e3
        console.print(f"taken off: {each_ms:.1f} ms of CPU a second for each of {workers} workers that idle")


async def _idle(pid: int) -> float:
    """CPU seconds that a pool uses in a second without being asked for anything."""
    cpu, began = cpu_of_tree(pid), time.perf_counter()
    await asyncio.sleep(_IDLE_S)
    return (cpu_of_tree(pid) - cpu) / (time.perf_counter() - began)


async def _cost(pid: int, client: Connection, env_ids: list[str], besides: float) -> float:
    """CPU seconds per step, without those that the pool uses ``besides`` in each second."""
    there, back = (
        post(
            "/api/batch/step", orjson.dumps({"env_ids": env_ids, "actions": [tool_call(name)] * len(env_ids)})
        )
        for name in ("move_right", "move_left")
    )
    calls = max(1, _STEPS // len(env_ids) // 2)
    cpu, began = cpu_of_tree(pid), time.perf_counter()
    for request in (there, back) * calls:
        answer = await client.send(request)
        if not answer.endswith(b'"errors":[]}'):
            raise RuntimeError(answer[-500:].decode())
    used = cpu_of_tree(pid) - cpu - besides * (time.perf_counter() - began)
    return used / (2 * calls * len(env_ids))


def line_through(placed: Sequence[Placed]) -> tuple[float, float]:
    """Return the seconds that an item costs by itself, and those that a part costs (least squares)."""
    slope, start = np.polyfit(
        [batch.parts / batch.size for batch in placed], [batch.cost_s for batch in placed], 1
    )
    return float(start), float(slope)


def table_of(placed: Sequence[Placed]) -> Table:
    """The measured batches and the computed ones."""
    item_s, part_s = line_through(placed)
    table = Table(
        title=f"CPU of all workers per step of a batch; a part costs {part_s * 1e6:.0f} µs, an item {item_s * 1e6:.1f} µs",
        header_style="bold",
    )
    for column in ("workers", "items", "parts", "µs, measured", "µs, by the line"):
        table.add_column(column, justify="right")

    def add(workers: int, size: int, parts: int, measured: str) -> None:
        by_line = item_s + part_s * parts / size
        table.add_row(f"{workers}", f"{size:,}", f"{parts}", measured, f"{by_line * 1e6:.1f}")

    for batch in placed:
        add(batch.workers, batch.size, batch.parts, f"{batch.cost_s * 1e6:.1f}")
    for size in (10_000, 1_000):
        for parts in (min(MANY, size), share_holders(MANY, size, TOGETHER)):
            add(MANY, size, parts, "–")
    return table
