"""What it costs to keep episodes: CPU of a server that keeps them, beside two that do not."""

from __future__ import annotations

import contextlib
import statistics
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import track
from rich.table import Table

from loadtests.bench_http import LAKE, initialize, single_step_s, tool_call
from loadtests.processes import ServerProcess, serving
from loadtests.raw_client import Connection, connect

_EPISODES = 2_000
"""Episodes of one batch: with 64 MB, none of them is left out."""
_STEPS = 10
"""Of each episode."""
_CONNECTIONS = 16
_SINGLE_STEPS = 4_000
_WARM_ROUNDS = 4
"""Batches that are not measured: by then the oldest episodes are deleted for new ones."""
_ROUNDS = 6
"""Batches of each round that is asked for."""
_BAR = 1.03
_BATCHES = ("begin", "step", "close")
"""What the bar holds for, together."""


@dataclass
class _Subject:
    """A server, and what it has used of the CPU: seconds per step, by what was done."""

    server: ServerProcess
    clients: list[Connection]
    costs: dict[str, list[float]] = field(default_factory=dict)

    async def play(self, number: int) -> None:
        """Play whole episodes of a batch, and have the server sort out what it keeps of them."""
        (client, *_), per_step = self.clients, _EPISODES * _STEPS
        before = self.server.cpu_s()
        env_ids = await initialize(client, "frozen_lake", LAKE, _EPISODES)
        before = self._note("begin", before, per_step)
        for step in range(_STEPS):
            actions = [tool_call("move_left" if step % 2 else "move_right")] * len(env_ids)
            await client.call("/api/batch/step", {"env_ids": env_ids, "actions": actions})
        before = self._note("step", before, per_step)
        await client.call("/api/batch/close", {"env_ids": env_ids})
        before = self._note("close", before, per_step)
        await client.send(b"GET /api/runs HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self._note("sort out", before, per_step)

    async def play_singly(self, number: int) -> None:
        """Play single steps of episodes that go on."""
        client = self.clients[0]
        lakes = await initialize(client, "frozen_lake", LAKE, len(self.clients))
        single = await single_step_s(self.server, self.clients, lakes, _SINGLE_STEPS, number)
        self.costs.setdefault("single step", []).append(single)
        await client.call("/api/batch/close", {"env_ids": lakes})

    def _note(self, what: str, before: float, steps: int) -> float:
        now = self.server.cpu_s()
        self.costs.setdefault(what, []).append((now - before) / steps)
        return now

    def measured(self, *parts: str) -> list[float]:
        """Seconds per step of these parts together, of each round that counts."""
        return [
            sum(costs) for costs in zip(*(self.costs[part][_WARM_ROUNDS:] for part in parts), strict=True)
        ]


async def bench_keeping(rounds: int) -> bool:
    """Measure and print the table; gives whether batches are within the bar, by the median and by the mean."""
    console = Console()
    with contextlib.ExitStack() as stack:
        subjects = {
            "not kept": await _subject(stack.enter_context(serving())),
            "kept": await _subject(stack.enter_context(serving("--keep-trajectories", "memory"))),
            "another": await _subject(stack.enter_context(serving())),
        }
        in_turns = list(subjects.values())
        for number in track(range(_WARM_ROUNDS + rounds * _ROUNDS), description="batches", console=console):
            # Each as often before the others as after them.
            for subject in in_turns if number % 2 else in_turns[::-1]:
                await subject.play(number)
        client, *_ = subjects["kept"].clients
        answer = await client.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        if b"\nverl_agent_env_episodes_not_kept_total 0.0\n" not in answer:
            raise RuntimeError("not all episodes were kept")
        for number in track(
            range(_WARM_ROUNDS + rounds * _ROUNDS), description="single steps", console=console
        ):
            for subject in in_turns if number % 2 else in_turns[::-1]:
                await subject.play_singly(number)
        for subject in in_turns:
            for client in subject.clients:
                client.close()
    bare, kept, another = in_turns
    rows = {
        "a batch: begin": ("begin",),
        "… steps": ("step",),
        "… close": ("close",),
        "all of a batch": _BATCHES,
        "… and sorting out its episodes": (*_BATCHES, "sort out"),
        "single steps": ("single step",),
    }
    table = Table(
        title=f"µs of CPU per step, batches of {_EPISODES:,} episodes of {_STEPS} steps; × that of keeping none"
    )
    for column in ("what", "µs", "×, median", "×, mean", "no difference", "bar"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, parts in rows.items():
        base, ours, other = (subject.measured(*parts) for subject in (bare, kept, another))
        bar = f"{_BAR:.2f}" if parts is _BATCHES else ""
        figures = f"{statistics.median(base) * 1e6:.1f}", *map("{:.2f}".format, _ratios(ours, base))
        table.add_row(name, *figures, f"{_ratios(other, base)[0]:.2f}", bar)
    console.print(table)
    return max(_ratios(kept.measured(*_BATCHES), bare.measured(*_BATCHES))) <= _BAR


async def _subject(server: ServerProcess) -> _Subject:
    return _Subject(server, [await connect(server.port) for _ in range(_CONNECTIONS)])


def _ratios(ours: list[float], base: list[float]) -> tuple[float, float]:
    """Return the median of the rounds' ratios, and the ratio of the means."""
    ratios = [each / other for each, other in zip(ours, base, strict=True)]
    return statistics.median(ratios), statistics.mean(ours) / statistics.mean(base)
