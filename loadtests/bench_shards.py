"""What a journalled step costs each Redis, with one Redis and with event logs in two others."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import redis
from rich.console import Console
from rich.progress import track
from rich.table import Table

from loadtests.bench_cluster import CONNECTIONS, Subject, single_step_cost
from loadtests.bench_http import LAKE, initialize, tool_call
from loadtests.raw_client import Connection, connect, post
from verl_agent_env.cluster.local import LocalCluster

_LOGS = (0, 2)
WANTED = 1.8
"""How many times as many steps two logs carry as one Redis does, at least."""


@dataclass(frozen=True)
class ShardedCluster:
    """A cluster, and every Redis of it."""

    name: str
    cluster: LocalCluster

    def redis_cpu_s(self) -> list[float]:
        """Seconds of CPU that each Redis has used: the one in which nodes meet, then the logs."""
        return [_cpu_s(url) for url in (self.cluster.redis_url, *self.cluster.redis_log_urls)]


@contextlib.contextmanager
def _clusters() -> Iterator[list[ShardedCluster]]:
    with contextlib.ExitStack() as stack:
        found = []
        for logs in _LOGS:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
            cluster = stack.enter_context(LocalCluster(folder, nodes=2, workers=2, redis_logs=logs))
            found.append(ShardedCluster(f"{logs} event logs beside it" if logs else "one Redis", cluster))
        yield found


async def bench_shards(rounds: int, batch_size: int, steps_per_round: int) -> bool:
    """Measure batches and single steps in turns, and print a table of each; tell whether logs carry what they are to."""
    console = Console()
    batches: dict[str, list[list[float]]] = {}
    singles: dict[str, list[list[float]]] = {}
    with console.status("starting"), contextlib.ExitStack() as stack:
        found = stack.enter_context(_clusters())
        clients = {one.name: [await connect(one.cluster.port) for _ in range(CONNECTIONS)] for one in found}
        env_ids = {
            one.name: await initialize(clients[one.name][0], "frozen_lake", LAKE, batch_size) for one in found
        }
        for _ in track(range(rounds), description="rounds", console=console):
            for one in found:
                ids, several = env_ids[one.name], clients[one.name]
                before = one.redis_cpu_s()
                taken = await _play_batches(several[0], ids)
                batches.setdefault(one.name, []).append(_per_step(before, one.redis_cpu_s(), taken))
                before = one.redis_cpu_s()
                subject = Subject(one.name, one.cluster.port, list)
                await single_step_cost(subject, several, ids, steps_per_round)
                taken = steps_per_round // CONNECTIONS // 2 * 2 * CONNECTIONS
                singles.setdefault(one.name, []).append(_per_step(before, one.redis_cpu_s(), taken))
        for client in (client for several in clients.values() for client in several):
            client.close()
    in_batches = _report(f"batches of {batch_size:,}", batches, console)
    _report(f"single steps on {CONNECTIONS} connections", singles, console)
    return in_batches >= WANTED


async def _play_batches(client: Connection, env_ids: list[str]) -> int:
    """Take steps there and back again; returns how many."""
    for name in ("move_right", "move_left") * 2:
        body = orjson.dumps({"env_ids": env_ids, "actions": [tool_call(name)] * len(env_ids)})
        answer = await client.send(post("/api/batch/step", body))
        if not answer.endswith(b'"errors":[]}'):
            raise RuntimeError(answer[-500:].decode())
    return 4 * len(env_ids)


def _cpu_s(url: str) -> float:
    """Ask a Redis for the CPU that it has used: the system counts that of a process in hundredths of a second."""
    with redis.Redis.from_url(url) as client:
        used: Any = client.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


def _per_step(before: list[float], after: list[float], steps: int) -> list[float]:
    return [(end - begin) / steps for begin, end in zip(before, after, strict=True)]


def _report(what: str, costs: dict[str, list[list[float]]], console: Console) -> float:
    """Print the CPU of each Redis per step; returns how many times less the busiest has to do with logs of their own."""
    table = Table(title=f"CPU of Redis per step: {what}", header_style="bold")
    for column in ("what", "where nodes meet, µs", "logs, µs", "busiest, µs", "steps/s of one core, times"):
        table.add_column(column, justify="left" if column == "what" else "right")
    plain = gain = 0.0
    for name, rounds in costs.items():
        # Of all rounds together: bundles are sorted out in some of them for many.
        means = [statistics.mean(values) for values in zip(*rounds, strict=True)]
        plain = plain or max(means)
        gain = plain / max(means)
        shown = [f"{mean * 1e6:.2f}" for mean in means]
        table.add_row(name, shown[0], " ".join(shown[1:]) or "–", f"{max(means) * 1e6:.2f}", f"{gain:.2f}")
    console.print(table)
    return gain
