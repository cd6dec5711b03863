"""Attacks a server as strangers and careless colleagues do, and looks how a well-behaved client fares meanwhile.

``make hostile`` or ``python -m loadtests.hostile``: first one process, then a cluster behind nginx. A row for each attack:
what the attacker got, how long a well-behaved client waited for a single step (p99 and worst), the most memory of a worker,
workers lost, and the longest time that a worker's event loop was busy with one thing; in the end, what memory stayed behind.
Exit code 1 if a bound is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table

from loadtests import bad_env
from loadtests.attacks import ATTACKS, MEGABYTE, PATIENCE_S, RUN, Attack, Attacker
from loadtests.processes import rss_of, serving
from verl_agent_env.cluster.local import LocalCluster

MAX_WAIT_P99_S = 0.25
"""How long a well-behaved client may wait for a single step, in 99 of 100."""
MAX_RSS_BYTES = 600 * MEGABYTE
"""Of one worker."""
MAX_KEPT_BYTES = 150 * MEGABYTE
"""More than at the start that a worker may have when all is over and the attackers' environments are closed.

The ids of closed environments, which are known for ten minutes, lie scattered in Python's arenas, and keep those in memory.
"""
_TOKEN = "hostile"  # noqa: S105 - of a server that ends with the test
_CALM_S = 1.0
_THINK_S = 0.01
_LOOK_S = 0.05
_SETTLE_S = 5.0
"""In which memory that is no longer needed is the system's again."""
_LONGEST = re.compile(rb"^verl_agent_env_loop_longest_seconds (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Target:
    """A server under attack."""

    name: str
    port: int
    token: str
    pids: Callable[[], list[int]]
    """Its worker processes."""
    is_alone: bool


@dataclass
class Row:
    """What came of one attack."""

    attack: Attack
    got: str
    waits_s: list[float]
    failures: int
    """Steps of the well-behaved client that failed."""
    rss_bytes: int
    lost: int
    """Workers that ended."""
    loop_s: float | None
    """The longest time that one round of a worker's loop has computed so far; ``None`` where nginx hides it."""
    seconds: float
    broken: list[str] = field(default_factory=list)

    @property
    def p99_s(self) -> float:
        """Of the well-behaved client's waits."""
        ordered = sorted(self.waits_s)
        return ordered[min(len(ordered) - 1, math.ceil(0.99 * len(ordered)) - 1)] if ordered else math.inf


class WellBehaved:
    """A client that plays one environment, step by step, and notes how long it waits: a process of its own."""

    def __init__(self, target: Target) -> None:
        """Start it; returns when it has taken its first step."""
        command = [
            sys.executable,
            "-m",
            "loadtests.hostile",
            "--play",
            str(target.port),
            "--token",
            target.token,
        ]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._process.stdout.readline()  # type: ignore[union-attr]

    def stop(self) -> tuple[list[float], int]:
        """Its waits in seconds, and how many of its steps failed."""
        told, _ = self._process.communicate(b"stop", timeout=PATIENCE_S + 10)
        waits_s, failures = orjson.loads(told)
        return waits_s, failures


async def play(port: int, token: str) -> None:
    """Be the well-behaved client until something comes on the standard input; then tell how it was."""
    waits_s: list[float] = []
    failures = 0
    told = asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)
    env_id, seq = "", 0
    while not told.done():
        attacker = Attacker(port, token)
        if not env_id:
            env_id, seq = await attacker.initialize("frozen_lake"), 0
            continue
        began = time.monotonic()
        answer = await attacker.call(f"/api/environment/{env_id}/step", {"action": "up", "seq": seq})
        waits_s.append(time.monotonic() - began)
        seq += 1
        if len(waits_s) == 1:
            print(flush=True)
        if attacker.got["ok"] != 1:
            failures += 1
            env_id = ""
        elif answer["terminated"] or answer["truncated"]:
            await attacker.call(f"/api/environment/{env_id}/close")
            env_id = ""
        await asyncio.sleep(_THINK_S)
    sys.stdout.buffer.write(orjson.dumps([waits_s, failures]))


async def withstand(target: Target, attack: Attack) -> Row:
    """Carry out one attack while a well-behaved client plays."""
    before, attacker = set(target.pids()), Attacker(target.port, target.token)
    carry_out = attack.prepare()
    client = await asyncio.to_thread(WellBehaved, target)
    memory = Memory(target)
    watching = asyncio.create_task(memory.watch())
    began = time.monotonic()
    try:
        await asyncio.sleep(_CALM_S)
        await carry_out(attacker)
        seconds = time.monotonic() - began - _CALM_S
        # What comes after the answers, such as freeing what they were made of, hurts as well.
        await asyncio.sleep(_CALM_S)
    finally:
        watching.cancel()
        waits_s, failures = await asyncio.to_thread(client.stop)
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    lost = len(before - set(target.pids()))
    await Attacker(target.port, target.token).call("/api/batch/close", {"run_id": RUN})
    got = ", ".join(f"{count} × {what}" for what, count in sorted(attacker.got.items()))
    row = Row(attack, got, waits_s, failures, memory.most_bytes, lost, _loop_s(target), seconds)
    unexpected = sorted(set(attacker.got) - attack.may_get)
    if unexpected:
        row.broken.append(f"the attacker got {', '.join(unexpected)}")
    if row.p99_s > MAX_WAIT_P99_S:
        row.broken.append(f"a well-behaved client waited {row.p99_s * 1000:.0f} ms (p99)")
    if row.failures:
        row.broken.append(f"{row.failures} steps of a well-behaved client failed")
    if row.rss_bytes > MAX_RSS_BYTES:
        row.broken.append(f"a worker took {row.rss_bytes // MEGABYTE} MB")
    if row.lost > attack.ends_workers:
        row.broken.append(f"{row.lost} workers ended")
    return row


class Memory:
    """The most memory that any worker of a target takes."""

    def __init__(self, target: Target) -> None:
        self.most_bytes = 0
        self._target = target

    async def watch(self) -> None:
        """Look again and again until cancelled."""
        while True:
            self.most_bytes = max(self.most_bytes, *map(_rss_bytes, self._target.pids()))
            await asyncio.sleep(_LOOK_S)


def _rss_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):
        return rss_of(pid)
    return 0


def _loop_s(target: Target) -> float | None:
    """The longest round of the event loop, as the worker's own metrics tell."""
    if not target.is_alone:
        return None
    request = urllib.request.Request(
        f"http://127.0.0.1:{target.port}/metrics", headers={"Authorization": f"Bearer {target.token}"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - our own server
        found = _LONGEST.search(answer.read())
    return float(found[1]) if found else None


@contextlib.contextmanager
def one_process() -> Iterator[Target]:
    """A single server process that asks for a token."""
    with serving("--auth-token", _TOKEN, "--header-timeout-s", "5") as server:
        yield Target("one process", server.port, _TOKEN, lambda: [server.pid], is_alone=True)


@contextlib.contextmanager
def cluster() -> Iterator[Target]:
    """Two nodes of two workers, Redis, and nginx in front."""
    with (
        tempfile.TemporaryDirectory(prefix="hostile-") as folder,
        bad_env.installed(Path(folder) / "bad"),
        LocalCluster(Path(folder), nodes=2, workers=2) as running,
    ):
        yield Target(
            "cluster behind nginx",
            running.port,
            "",
            lambda: [pid for node in running.nodes for pid in _children(node.pid)],
            is_alone=False,
        )


def _children(pid: int) -> list[int]:
    """Processes that a process has started and that still run."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, task.read_text().split())
    return found


async def attack_all(
    target: Target, attacks: Sequence[Attack], console: Console
) -> tuple[list[Row], tuple[int, int]]:
    """All attacks one after the other; the rows, and the most memory of a worker before and after."""
    rows = []
    before = max(map(_rss_bytes, target.pids()))
    for number, attack in enumerate(attacks, 1):
        console.print(f"{target.name} {number}/{len(attacks)}: {attack.name} …", highlight=False)
        rows.append(await withstand(target, attack))
        for sentence in rows[-1].broken:
            console.print(f"  [red]{sentence}[/red]")
    await asyncio.sleep(_SETTLE_S)
    return rows, (before, max(map(_rss_bytes, target.pids())))


def table_of(target: Target, rows: Sequence[Row]) -> Table:
    """The rows, as people read them."""
    table = Table(title=target.name)
    for heading in ("Attack", "What the attacker got", "p99 / worst wait", "Memory", "Lost", "Loop", "Took"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        worst_s = max(row.waits_s, default=math.inf)
        table.add_row(
            row.attack.name,
            row.got,
            f"{row.p99_s * 1000:.0f} / {worst_s * 1000:.0f} ms",
            f"{row.rss_bytes // MEGABYTE} MB",
            str(row.lost),
            "–" if row.loop_s is None else f"{row.loop_s * 1000:.0f} ms",
            f"{row.seconds:.1f} s",
            style="red" if row.broken else None,
        )
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Attack what the arguments name; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.hostile", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument("--target", choices=("one", "cluster", "both"), default="both", help="what to attack")
    parser.add_argument("--only", default="", help="attacks whose name holds this text")
    parser.add_argument(
        "--out", type=Path, default=Path("out/hostile"), help="folder of rows.json (%(default)s)"
    )
    parser.add_argument("--play", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--token", default="", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.play:
        asyncio.run(play(options.play, options.token))
        return 0
    attacks = [attack for attack in ATTACKS if options.only in attack.name]
    console, broken, told = Console(width=None if sys.stdout.isatty() else 160), 0, []
    for choice, begin in (("one", one_process), ("cluster", cluster)):
        if options.target not in (choice, "both"):
            continue
        with begin() as target:
            withstood = [attack for attack in attacks if not (target.is_alone and attack.ends_workers)]
            rows, (before, after) = asyncio.run(attack_all(target, withstood, console))
        console.print(table_of(target, rows))
        console.print(f"resident: {before // MEGABYTE} MB before, {after // MEGABYTE} MB afterwards")
        broken += sum(bool(row.broken) for row in rows)
        if after > before + MAX_KEPT_BYTES:
            console.print(f"[red]more than {MAX_KEPT_BYTES // MEGABYTE} MB stayed behind[/red]")
            broken += 1
        told += [
            {
                "target": target.name,
                "attack": row.attack.name,
                "got": row.got,
                "p99_ms": row.p99_s * 1000,
                "worst_ms": max(row.waits_s, default=math.inf) * 1000,
                "rss_bytes": row.rss_bytes,
                "lost": row.lost,
                "loop_ms": None if row.loop_s is None else row.loop_s * 1000,
                "broken": row.broken,
            }
            for row in rows
        ]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "rows.json").write_bytes(orjson.dumps(told, option=orjson.OPT_INDENT_2))
    console.print(f"{broken} bounds broken" if broken else "all bounds held")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
