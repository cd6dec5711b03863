"""What a single step costs on a node of a cluster, by durability: its worker's CPU and Redis', against a bare echo.

All figures of one run are taken in turns, so that a machine that gets faster or slower meanwhile does so for all.
"""

from __future__ import annotations

import contextlib
import functools
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from loadtests.bench_cluster import CONNECTIONS, LAKE_NAME, Subject, single_step_cost
from loadtests.bench_http import LAKE, initialize
from loadtests.processes import serving, serving_app
from loadtests.raw_client import connect
from verl_agent_env.cluster.local import LocalCluster

_ECHO = "echo"
_BAR = "1.6"


@contextlib.contextmanager
def _subjects() -> Iterator[list[Subject]]:
    """All of them, running: the echo first."""
    with contextlib.ExitStack() as stack:
        echo = stack.enter_context(serving_app("loadtests.echo_app:app"))
        alone = stack.enter_context(serving())
        found = [
            Subject(_ECHO, echo.port, lambda: [echo.pid]),
            Subject("one process, nothing kept", alone.port, lambda: [alone.pid]),
        ]
        for durability in ("none", "relaxed", "journal"):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
            options = ("--durability", f"{LAKE_NAME}={durability}")
            cluster = stack.enter_context(LocalCluster(folder, nodes=1, workers=1, serve_options=options))
            pids = [cluster.redis.pid, cluster.nodes[0].pid]
            name = f"node with Redis, {durability}"
            found.append(Subject(name, cluster.nodes[0].port, functools.partial(list, pids)))
        yield found


async def bench_durable(rounds: int, steps_per_round: int) -> dict[str, float]:
    """Measure single steps, and print the table.

    Returns:
        Median ratios to the echo by row.
    """
    console = Console()
    costs: dict[str, list[float]] = {}
    with console.status("starting"), contextlib.ExitStack() as stack:
        found = stack.enter_context(_subjects())
        clients = {
            subject.name: [await connect(subject.port) for _ in range(CONNECTIONS)] for subject in found
        }
        env_ids = {
            subject.name: await initialize(clients[subject.name][0], "frozen_lake", LAKE, CONNECTIONS)
            for subject in found[1:]
        }
        env_ids[_ECHO] = env_ids[found[1].name]
        for _ in track(range(rounds), description="rounds", console=console):
            for subject in found:
                cost = await single_step_cost(
                    subject, clients[subject.name], env_ids[subject.name], steps_per_round
                )
                costs.setdefault(subject.name, []).append(cost)
        for client in (client for several in clients.values() for client in several):
            client.close()
    return _report(costs, console)


def _report(costs: dict[str, list[float]], console: Console) -> dict[str, float]:
    title = f"CPU per single step on {CONNECTIONS} connections, Redis included"
    table = Table(title=title, header_style="bold")
    for column in ("what", "µs, median", "× echo, median", "min", "max", "bar"):
        table.add_column(column, justify="left" if column == "what" else "right")
    ratios = {}
    for name, values in costs.items():
        pairs = [value / base for value, base in zip(values, costs[_ECHO], strict=True)]
        ratios[name] = statistics.median(pairs)
        table.add_row(
            name,
            f"{statistics.median(values) * 1e6:.1f}",
            f"{ratios[name]:.2f}",
            f"{min(pairs):.2f}",
            f"{max(pairs):.2f}",
            "" if name == _ECHO else _BAR,
        )
    console.print(table)
    return ratios
