"""What MCP environments take, and that they leak nothing: ``python -m loadtests.bench_mcp episodes live``.

``episodes``: many short episodes through shared stdio servers; then through one of their own each, fewer of them.
``live``: many live environments at a time, with shared servers and with one of their own each.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from verl_agent_env.envs.mcp_chat import McpChatEnv
from verl_agent_env.envs.mcp_chat.configuration import Configuration, use_configuration
from verl_agent_env.envs.mcp_chat.definition import ServerDefinition
from verl_agent_env.envs.mcp_chat.pool import pool_here

_PROBE = Path(__file__).with_name("mcp_probe.py")
_CALLS = 5
_SETTLE_S = 0.5
_TABLE_CHARS = 130


@dataclass(frozen=True)
class Held:
    """What this process holds, and those below it."""

    descriptors: int
    tasks: int
    processes: int
    rss_mb: float
    below_pss_mb: float

    @classmethod
    def now(cls) -> Held:
        """As it is now."""
        gc.collect()
        below = _descendants(os.getpid())
        return cls(
            sum(1 for _ in Path("/proc/self/fd").iterdir()),
            len(asyncio.all_tasks()),
            len(below),
            _kilobytes(Path("/proc/self/status"), "VmRSS:") / 1024,
            sum(_kilobytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") for pid in below) / 1024,
        )

    def leaked(self, since: Held) -> bool:
        """Whether anything but memory is more than it was."""
        return any(
            getattr(self, name) > getattr(since, name) for name in ("descriptors", "tasks", "processes")
        )


async def bench_episodes(shared_episodes: int, own_episodes: int, concurrency: int, console: Console) -> bool:
    """Play episodes of five calls; whether nothing was left of them."""
    table = Table(
        title=f"Episodes of {_CALLS} calls, {concurrency} at a time", title_justify="left", box=None
    )
    for column in (
        "servers",
        "episodes",
        "episodes/s",
        "calls/s",
        "descriptors",
        "tasks",
        "processes",
        "RSS, MB",
    ):
        table.add_column(column, justify="right" if column != "servers" else "left")
    clean = True
    for label, episodes, fields in (
        ("shared, 4 processes", shared_episodes, {"shared": True, "instances": 4, "idleS": 600}),
        ("one each", own_episodes, {}),
    ):
        _configure(**fields)
        await _side_by_side(_play, concurrency, concurrency)
        await asyncio.sleep(_SETTLE_S)
        before, begun = Held.now(), time.perf_counter()
        await _side_by_side(_play, episodes, concurrency)
        took = time.perf_counter() - begun
        await asyncio.sleep(_SETTLE_S)
        after = Held.now()
        clean = clean and not after.leaked(before)
        changes = [
            f"{getattr(before, name)} → {getattr(after, name)}"
            for name in ("descriptors", "tasks", "processes")
        ]
        rates = [f"{episodes / took:,.0f}", f"{episodes * _CALLS / took:,.0f}"]
        table.add_row(label, f"{episodes:,}", *rates, *changes, f"{before.rss_mb:.0f} → {after.rss_mb:.0f}")
        await pool_here().aclose()
    console.print(table)
    console.print("nothing leaked" if clean else "[red]something leaked[/red]")
    return clean


async def bench_live(count: int, console: Console) -> bool:
    """Hold many environments at a time; whether all of them end."""
    title = f"{count} live environments, one call made in each"
    table = Table(title=title, title_justify="left", box=None)
    for column in (
        "servers",
        "to start, s",
        "a call in each, s",
        "processes",
        "descriptors",
        "KB each here",
        "PSS below, MB",
    ):
        table.add_column(column, justify="right" if column != "servers" else "left")
    clean = True
    for label, fields in (
        ("shared, 4 processes", {"shared": True, "instances": 4, "idleS": 600}),
        ("one each", {"startTimeoutS": 600, "maxSessions": count}),
    ):
        _configure(**fields)
        # Each makes one more of the shared ones.
        await _side_by_side(_play, 4, 1)
        await asyncio.sleep(_SETTLE_S)
        before, begun = Held.now(), time.perf_counter()
        envs = [McpChatEnv(servers=["probe"]) for _ in range(count)]
        await asyncio.gather(*(env.areset(seed=seed) for seed, env in enumerate(envs)))
        started = time.perf_counter() - begun
        begun = time.perf_counter()
        await asyncio.gather(*(env.astep(_calls(1)) for env in envs))
        called = time.perf_counter() - begun
        held = Held.now()
        await asyncio.gather(*(env.aclose() for env in envs))
        await asyncio.sleep(_SETTLE_S)
        after = Held.now()
        clean = clean and not after.leaked(before)
        each_kb = (held.rss_mb - before.rss_mb) * 1024 / count
        figures = [
            f"{started:.1f}",
            f"{called:.2f}",
            f"{held.processes}",
            f"{held.descriptors}",
            f"{each_kb:.0f}",
        ]
        table.add_row(label, *figures, f"{held.below_pss_mb:.0f}")
        await pool_here().aclose()
    left = Held.now().processes
    console.print(table)
    console.print("all ended" if clean and not left else f"[red]something is left[/red] {before} {after}")
    return clean and not left


async def _play() -> None:
    env = McpChatEnv(servers=["probe"])
    try:
        await env.areset(seed=1)
        for nth in range(_CALLS):
            observation, *_ = await env.astep(_calls(nth))
            assert observation[0]["content"] == str(nth + 1), observation
        await env.astep("done")
    finally:
        await env.aclose()


async def _side_by_side(work: Callable[[], Awaitable[None]], times: int, concurrency: int) -> None:
    left = iter(range(times))

    async def take_turns() -> None:
        for _ in left:
            await work()

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(take_turns())


def _configure(**fields: Any) -> None:
    given = {"name": "probe", "command": sys.executable, "args": ["-I", "-S", str(_PROBE)], **fields}
    use_configuration(Configuration({"probe": ServerDefinition.model_validate(given)}))


def _calls(number: int) -> dict[str, Any]:
    function = {"name": "add", "arguments": orjson.dumps({"a": number, "b": 1}).decode()}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "c", "type": "function", "function": function}],
    }


def _descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *_descendants(child)]
    return found


def _kilobytes(path: Path, field: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    return 0


def main() -> None:
    """Run the chosen parts; exit code 1 when something was left."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "parts", nargs="*", default=["episodes", "live"], help="episodes, live; default: both"
    )
    parser.add_argument("--episodes", type=int, default=1_000, help="through shared servers (default: 1000)")
    parser.add_argument("--own-episodes", type=int, default=200, help="with a server each (default: 200)")
    parser.add_argument("--concurrency", type=int, default=16, help="episodes at a time (default: 16)")
    parser.add_argument("--live", type=int, default=500, help="live environments (default: 500)")
    options = parser.parse_args()
    unknown = set(options.parts) - {"episodes", "live"}
    if unknown:
        parser.error(f"there is no part '{unknown.pop()}'")
    console = Console(width=_TABLE_CHARS)
    clean = True
    if "episodes" in options.parts:
        work = bench_episodes(options.episodes, options.own_episodes, options.concurrency, console)
        clean = asyncio.run(work) and clean
    if "live" in options.parts:
        clean = asyncio.run(bench_live(options.live, console)) and clean
    sys.exit(0 if clean else 1)


if __name__ == "__main__":
    main()
