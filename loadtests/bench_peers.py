"""What a step costs through other projects' wires: on this server, and on the projects' own servers around the same environment.

All servers run at once and are measured in turns, so that a machine that gets faster or slower meanwhile does so for all of
them. The clients are the same for both sides, and their CPU is not counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from loadtests.peers.sessions import (
    BatchSessions,
    EchoSessions,
    HttpSessions,
    OpenEnvSessions,
    OrsSessions,
    Sessions,
    percentile_ms,
)
from loadtests.processes import ServerProcess, serving, serving_app

PEERS_PYTHON = Path(".venv-wires/bin/python")
"""Python that has the other projects' packages; ``make bench ARGS=peers`` makes it."""
SIZES = (64, 512)
_MEMORY_BAR = 0.2
"""Largest part of the memory of a peer's session that one of this server takes."""
_ORS_SHARE = 8
"""A step of ORS is so much more expensive elsewhere that it takes so many times fewer to measure it."""


@dataclass
class Subject:
    """One door of one server, with a number of sessions."""

    name: str
    size: int
    server: ServerProcess
    sessions: Sessions
    peer: str = ""
    """Name of the door to compare with."""
    bar: float = 0.0
    """Largest ratio of CPU to it; 0 for none."""
    cpu: list[float] = field(default_factory=list)
    """Seconds of CPU per step, by round."""
    latencies: list[float] = field(default_factory=list)
    bytes_per_session: float = 0.0

    async def measure(self, steps: int) -> None:
        """Take about so many steps, and note what they cost."""
        rounds = max(1, steps // self.sessions.count)
        before = self.server.cpu_s()
        taken = await self.sessions.step(rounds)
        self.cpu.append((self.server.cpu_s() - before) / len(taken))
        self.latencies += taken


async def bench_peers(rounds: int, steps_per_round: int) -> bool:
    """Measure everything and print the table.

    Returns:
        Whether all bars are kept.
    """
    console = Console()
    with console.status("starting the servers"), contextlib.ExitStack() as stack:
        subjects = list(_subjects(stack))
        for subject in subjects:
            await _open(subject)
        for _ in track(range(rounds), description="rounds", console=console):
            for subject in subjects:
                gc.collect()
                share = _ORS_SHARE if isinstance(subject.sessions, OrsSessions) else 1
                await subject.measure(steps_per_round // share)
        await asyncio.gather(*(subject.sessions.close() for subject in subjects))
    return _report(subjects, console)


def require_peers() -> None:
    """Check that the other projects' packages are installed.

    Raises:
        SystemExit: They are not.
    """
    if not PEERS_PYTHON.exists():
        raise SystemExit(f"{PEERS_PYTHON} is missing: make bench ARGS=peers installs it")


def _subjects(stack: contextlib.ExitStack) -> Iterator[Subject]:
    """Start a server for each door and number of sessions: what one leaves behind is not another's memory."""

    def app(name: str, *, peers: bool = False) -> ServerProcess:
        python = str(PEERS_PYTHON) if peers else None
        return stack.enter_context(serving_app(f"loadtests.{name}:app", python))

    def ours() -> ServerProcess:
        return stack.enter_context(serving())

    def subject(
        name: str,
        size: int,
        server: ServerProcess,
        make: Callable[[int], Sessions],
        peer: str = "",
        bar: float = 0.0,
    ) -> Subject:
        return Subject(name, size, server, make(server.port), peer, bar)

    for size, bar in zip(SIZES, (0.35, 0.3), strict=True):
        peer, own = "OpenEnv's own server", "OpenEnv's door"
        yield subject(
            peer, size, app("peers.openenv_app", peers=True), lambda port: OpenEnvSessions(port, "/ws")
        )
        yield subject(
            own,
            size,
            ours(),
            lambda port: OpenEnvSessions(port, "/openenv/frozen_lake/ws"),
            peer=peer,
            bar=bar,
        )
        yield subject(
            "bare WebSocket echo", size, app("peers.socket_echo_app"), lambda port: OpenEnvSessions(port, "/")
        )
        yield subject("HTTP, single steps", size, ours(), HttpSessions)
        yield subject("HTTP, one batch", size, ours(), BatchSessions)
        yield subject("bare HTTP echo", size, app("echo_app"), EchoSessions)
    peer, own = "ORS' reference server", "ORS' door"
    yield subject(peer, SIZES[0], app("peers.ors_app", peers=True), lambda port: OrsSessions(port, ""))
    yield subject(own, SIZES[0], ours(), lambda port: OrsSessions(port, "/ors"), peer=peer, bar=0.1)


async def _open(subject: Subject) -> None:
    """Open the sessions; what the first eighth of them takes is what the server takes for any."""
    first = subject.size // 8
    await subject.sessions.open(first)
    await subject.sessions.step(2)
    before = subject.server.rss_bytes()
    await subject.sessions.open(subject.size - first)
    await subject.sessions.step(2)
    subject.bytes_per_session = (subject.server.rss_bytes() - before) / (subject.size - first)


def _report(subjects: list[Subject], console: Console) -> bool:
    table = Table(
        title="Steps through other projects' wires: the server's CPU and memory", header_style="bold"
    )
    for column in (
        "what",
        "sessions",
        "µs a step",
        "p50 ms",
        "p99 ms",
        "KB a session",
        "× CPU",
        "bar",
        "× memory",
        "bar ",
    ):
        table.add_column(column, justify="left" if column == "what" else "right")
    is_kept = True
    for subject in subjects:
        ratio, cpu_bar, memory, memory_bar = "", "", "", ""
        if subject.peer:
            peer = next(one for one in subjects if (one.name, one.size) == (subject.peer, subject.size))
            times = statistics.median(own / other for own, other in zip(subject.cpu, peer.cpu, strict=True))
            ratio, cpu_bar = f"{times:.2f}", f"{subject.bar:g}"
            is_kept &= times <= subject.bar
            if subject.size == SIZES[-1]:
                share = subject.bytes_per_session / peer.bytes_per_session
                memory, memory_bar = f"{share:.2f}", f"{_MEMORY_BAR:g}"
                is_kept &= share <= _MEMORY_BAR
        table.add_row(
            subject.name, str(subject.size), f"{statistics.median(subject.cpu) * 1e6:.0f}",
            f"{percentile_ms(subject.latencies, 0.5):.1f}", f"{percentile_ms(subject.latencies, 0.99):.1f}",
            f"{subject.bytes_per_session / 1024:.0f}" if subject.size == SIZES[-1] else "",
            ratio, cpu_bar, memory, memory_bar,
        )  # fmt: skip
    console.print(table)
    return is_kept
