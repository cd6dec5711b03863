"""What a step costs all processes together: one worker, pools of several, and a cluster with nginx and Redis.

All figures of one run are taken in turns, so that a machine that gets faster or slower meanwhile does so for all.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
from rich.console import Console
from rich.progress import track
from rich.table import Table

from loadtests.bench_http import LAKE, initialize, tool_call
from loadtests.processes import cpu_of_tree, serving
from loadtests.raw_client import Connection, connect, post
from verl_agent_env.cluster.local import LocalCluster
from verl_agent_env.cluster.ports import consecutive_free_ports

LAKE_NAME = "verl_env/frozen_lake-v1"
CONNECTIONS = 64
POOLS = (2, 4, 8)
_ROUNDS_OF_EPISODE = 6
"""Rounds of four steps each."""


@dataclass(frozen=True)
class Subject:
    """Something that serves environments."""

    name: str
    port: int
    pids: Callable[[], list[int]]
    """The processes that it began with; their children count, too."""
    episodes_end: bool = False
    """Whether a new episode begins now and then, so that what is kept of the last one is not needed any more."""

    def cpu_s(self) -> float:
        """Seconds of CPU that all of its processes have used."""
        return sum(map(cpu_of_tree, self.pids()))


@contextlib.contextmanager
def subjects(*, pools: bool) -> Iterator[list[Subject]]:
    """All of them, running: the single worker first."""
    with contextlib.ExitStack() as stack:
        found = []
        alone = stack.enter_context(serving())
        found.append(Subject("one worker", alone.port, lambda: [alone.pid]))
        for workers in POOLS if pools else ():
            ports = consecutive_free_ports(workers)
            options = ("--workers", str(workers), "--worker-port", str(ports[0]))
            pool = stack.enter_context(serving(*options))
            found.append(Subject(f"pool of {workers}", pool.port, lambda pool=pool: [pool.pid]))  # type: ignore[misc]
        for name, episodes_end, serve_options in (
            ("2 nodes x 2, nothing kept", False, ("--durability", f"{LAKE_NAME}=none")),
            ("2 nodes x 2, journal", False, ()),
            (f"the same, episodes of {4 * _ROUNDS_OF_EPISODE} steps", True, ()),
        ):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
            cluster = stack.enter_context(
                LocalCluster(folder, nodes=2, workers=2, serve_options=serve_options)
            )
            found.append(Subject(name, cluster.port, lambda cluster=cluster: _pids(cluster), episodes_end))  # type: ignore[misc]
        yield found


async def bench_cluster(rounds: int, batch_size: int, steps_per_round: int) -> None:
    """Measure batches and single steps, and print both tables."""
    console = Console()
    with console.status("starting"), contextlib.ExitStack() as stack:
        found = stack.enter_context(subjects(pools=True))
        await _bench(found, rounds, batch_size, steps_per_round, console)


async def _bench(
    found: list[Subject], rounds: int, batch_size: int, steps_per_round: int, console: Console
) -> None:
    batch: dict[str, list[float]] = {}
    single: dict[str, list[float]] = {}
    clients = {subject.name: [await connect(subject.port) for _ in range(CONNECTIONS)] for subject in found}
    env_ids = {
        subject.name: await initialize(clients[subject.name][0], "frozen_lake", LAKE, batch_size)
        for subject in found
    }
    for number in track(range(rounds), description="rounds", console=console):
        for subject in found:
            ids = env_ids[subject.name]
            if subject.episodes_end and number % _ROUNDS_OF_EPISODE == 0:
                await clients[subject.name][0].call("/api/batch/reset", {"env_ids": ids})
            cost = await _batch(subject, clients[subject.name][0], ids)
            batch.setdefault(subject.name, []).append(cost)
            cost = await single_step_cost(subject, clients[subject.name], ids, steps_per_round)
            single.setdefault(subject.name, []).append(cost)
    for client in (client for several in clients.values() for client in several):
        client.close()
    _report(f"batches of {batch_size:,}", batch, console)
    _report(f"single steps on {CONNECTIONS} connections", single, console)


async def _batch(subject: Subject, client: Connection, env_ids: list[str]) -> float:
    """CPU seconds per step of a batch: there and back again."""
    bodies = [
        orjson.dumps({"env_ids": env_ids, "actions": [tool_call(name)] * len(env_ids)})
        for name in ("move_right", "move_left")
    ]
    cpu = subject.cpu_s()
    for body in bodies * 2:
        answer = await client.send(post("/api/batch/step", body))
        if not answer.endswith(b'"errors":[]}'):
            raise RuntimeError(answer[-500:].decode())
    return (subject.cpu_s() - cpu) / (4 * len(env_ids))


async def single_step_cost(
    subject: Subject, clients: list[Connection], env_ids: list[str], count: int
) -> float:
    """CPU seconds per single step, on as many environments as there are connections."""
    there, back = (orjson.dumps({"action": tool_call(name)}) for name in ("move_right", "move_left"))

    async def play(client: Connection, env_id: str) -> None:
        for number in range(count // len(clients) // 2 * 2):
            request = post(f"/api/environment/{env_id}/step", back if number % 2 else there)
            answer = await client.send(request)
            if b" 200 " not in answer[:16]:
                raise RuntimeError(answer[-500:].decode())

    cpu = subject.cpu_s()
    await asyncio.gather(*(play(client, env_id) for client, env_id in zip(clients, env_ids, strict=False)))
    return (subject.cpu_s() - cpu) / (count // len(clients) // 2 * 2 * len(clients))


def _pids(cluster: LocalCluster) -> list[int]:
    return [part.pid for part in (cluster.nginx, cluster.redis, *cluster.nodes)]


def _report(what: str, costs: dict[str, list[float]], console: Console) -> None:
    base = costs["one worker"]
    plain = costs["2 nodes x 2, nothing kept"]
    table = Table(title=f"CPU of all processes per step: {what}", header_style="bold")
    for column in ("what", "µs, median", "µs, mean", "× one worker", "× nothing kept"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, values in costs.items():
        # What is done now and then only, such as sorting out bundles, shows in the mean.
        row = [name, f"{statistics.median(values) * 1e6:.1f}", f"{statistics.mean(values) * 1e6:.1f}"]
        for reference in (base, plain):
            row.append(
                f"{statistics.median(value / other for value, other in zip(values, reference, strict=True)):.2f}"
            )
        table.add_row(*row)
    console.print(table)
