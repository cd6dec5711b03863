"""What a step costs when ten thousand coroutines await their own: requests shared by themselves, against one each.

``python -m loadtests.bench_client --cluster`` measures all ways in turns in one run, against a cluster of two nodes with
two workers each that it starts, the CPU of all its processes counted. ``--url`` measures a server that runs already; with
``--pid`` its CPU is counted as well. Without either a server of one process is started.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich.console import Console
from rich.progress import track
from rich.table import Table

from loadtests.processes import cpu_of_tree, serving
from verl_agent_env.client import AsyncEnv, AsyncEnvClient
from verl_agent_env.cluster.local import LocalCluster
from verl_agent_env.errors import VerlAgentEnvError

_LAKE: dict[str, Any] = {"desc": ["SFFFFFFF", *["FFFFFFFF"] * 6, "FFFFFFFG"], "max_steps": 1_000_000}
WAYS: dict[str, tuple[bool, Literal["auto", "never"]]] = {
    "shared": (True, "never"),
    "shared, straight to owners": (True, "auto"),
    "plain": (False, "never"),
}
"""True if calls share requests, and True if they go to the owners directly."""
BAR = 0.35
"""Share of the CPU of plain requests that shared ones may take."""


class Measured(NamedTuple):
    """One way of stepping."""

    client_us: float
    """CPU of this process per step, in microseconds."""
    server_us: float
    wall_s: float
    """Seconds of the whole."""
    p50_s: float
    p99_s: float
    """Of single steps, without the time to think."""

    @property
    def total_us(self) -> float:
        """CPU of both sides per step."""
        return self.client_us + self.server_us


def _tool_call(name: str) -> dict[str, Any]:
    function = {"name": name, "arguments": "{}"}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
    }


async def _play(
    envs: Sequence[AsyncEnv], steps: int, think_s: float, pids: Sequence[int], *, micro_batching: bool
) -> Measured:
    """Every environment is stepped by a coroutine of its own."""
    latencies: list[float] = []
    actions = [_tool_call("move_right"), _tool_call("move_left")]

    async def episode(env: AsyncEnv, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        for number in range(steps):
            began = time.perf_counter()
            await env.step(actions[number % 2], micro_batching=micro_batching)
            latencies.append(time.perf_counter() - began)
            if think_s:
                await asyncio.sleep(think_s)

    cpu, served, began = time.process_time(), sum(map(cpu_of_tree, pids)), time.perf_counter()
    # With a time to think they do not all begin at once either.
    await asyncio.gather(*(episode(env, think_s * i / len(envs)) for i, env in enumerate(envs)))
    wall_s = time.perf_counter() - began
    count = len(envs) * steps
    latencies.sort()
    return Measured(
        (time.process_time() - cpu) / count * 1e6,
        (sum(map(cpu_of_tree, pids)) - served) / count * 1e6,
        wall_s,
        latencies[len(latencies) // 2],
        latencies[min(len(latencies) - 1, int(len(latencies) * 0.99))],
    )


async def measure(
    url: str, episodes: int, steps: int, rounds: int, think_s: float, pids: Sequence[int]
) -> float:
    """Measure all ways in turns and print the table.

    Returns:
        CPU of shared requests as a share of that of plain ones, the median of all rounds.
    """
    console = Console()
    runs: dict[str, list[Measured]] = {way: [] for way in WAYS}
    async with contextlib.AsyncExitStack() as stack:
        envs = {
            way: await _made(
                await stack.enter_async_context(AsyncEnvClient(url, direct=direct, deadline_s=300)), episodes
            )
            for way, (_, direct) in WAYS.items()
        }
        for _ in track(range(rounds), "rounds", console=Console(stderr=True)):
            for way, (micro_batching, _) in WAYS.items():
                runs[way].append(await _play(envs[way], steps, think_s, pids, micro_batching=micro_batching))
    table = Table(title=f"{episodes:,} episodes, {steps} steps each, medians of {rounds} rounds")
    for column in ("requests", "client µs", "server µs", "total µs", "wall s", "p50 ms", "p99 ms"):
        table.add_column(column, justify="left" if column == "requests" else "right")
    for way, measured in runs.items():
        figures = Measured(*(statistics.median(column) for column in zip(*measured, strict=True)))
        table.add_row(
            way,
            *(f"{value:.1f}" for value in (figures.client_us, figures.server_us, figures.total_us)),
            f"{figures.wall_s:.2f}",
            f"{1000 * figures.p50_s:.0f}",
            f"{1000 * figures.p99_s:.0f}",
        )
    console.print(table)
    *shared, plain = WAYS
    ratios = [
        statistics.median(s.total_us / p.total_us for s, p in zip(runs[way], runs[plain], strict=True))
        for way in shared
    ]
    for way, ratio in zip(shared, ratios, strict=True):
        console.print(f"CPU of requests that are {way}: {ratio:.2f} of that of plain ones (bar: {BAR})")
    return ratios[0]


async def _made(client: AsyncEnvClient, episodes: int) -> list[AsyncEnv]:
    envs = [client.make("frozen_lake", seed=seed, env_kwargs=_LAKE) for seed in range(episodes)]
    for made in await client.initialize_batch(envs):
        if isinstance(made, VerlAgentEnvError):
            raise made
    return envs


@contextlib.contextmanager
def _server(url: str | None, pids: list[int], cluster: bool) -> Iterator[tuple[str, list[int]]]:
    """The server to measure, and the processes that it consists of."""
    if url is not None:
        yield url, pids
        return
    if cluster:
        with (
            tempfile.TemporaryDirectory(prefix="bench-") as folder,
            LocalCluster(Path(folder), nodes=2, workers=2) as local,
        ):
            yield local.url, [part.pid for part in (local.redis, *local.nodes, local.nginx)]
        return
    with serving() as started:
        yield f"http://127.0.0.1:{started.port}", [started.pid]


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", help="of the server; one is started if not given")
    parser.add_argument("--pid", type=int, action="append", default=[], help="of the server; may stand again")
    parser.add_argument("--episodes", type=int, default=10_000, help="at once (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=4, help="of each in a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument(
        "--think-s", type=float, default=0.0, help="pause after each step (default: %(default)s)"
    )
    parser.add_argument("--cluster", action="store_true", help="start a cluster, and measure that")
    options = parser.parse_args()
    # So that whatever was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with _server(options.url, options.pid, options.cluster) as (url, pids):
        asyncio.run(measure(url, options.episodes, options.steps, options.rounds, options.think_s, pids))


if __name__ == "__main__":
    main()
