"""Whether a load test passed, and its reports as files."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import orjson
from rich.console import Console
from rich.table import Table

from loadtests.measurements import Board, Level, Sample, Timeline, percentile
from loadtests.options import out_of

SUMMARY = "summary.json"
TIMELINE = "timeline.json"
_WIDTH = 130


@dataclass(frozen=True)
class Outcome:
    """The figures of a whole test."""

    passed: bool
    broken: list[str]
    """What did not hold, a sentence each."""
    duration_s: float
    steps: int
    steps_per_s: float
    """Over the whole test, ramps included."""
    most_alive: int
    """Concurrent episodes."""
    p50_ms: int | None
    """Of the steps, as the episodes see them."""
    p95_ms: int | None
    p99_ms: int | None
    slowest_ms: int | None
    requests: int
    failures: int
    """Requests and items of batches that failed."""
    error_ratio: float
    """Failures per request and step."""
    episodes: int
    created: int
    """Environments."""
    closed: int
    levels: list[Level]
    """What the stages of a climb came to."""


def judge(
    options: Namespace,
    samples: Sequence[Sample],
    buckets: Mapping[int, int],
    board: Board,
    levels: Sequence[Level] = (),
    *,
    requests: int,
    failures: int,
    exceptions: int,
) -> Outcome:
    """Set the figures against the thresholds.

    Args:
        options: With ``max_error_ratio`` and ``max_p99_ms``.
        samples: Of the whole test.
        buckets: Milliseconds to how many steps took so long.
        board: What was done.
        levels: What the stages of a climb came to.
        requests: HTTP requests, and items of batches that failed.
        failures: How many of them failed.
        exceptions: Faults of the load test itself.
    """
    steps = sum(buckets.values())
    duration_s = samples[-1].at_s if samples else 0.0
    p99_ms = percentile(buckets, 0.99)
    error_ratio = failures / max(1, requests + steps)
    broken = []
    if not steps:
        broken.append("no step was taken")
    if error_ratio > options.max_error_ratio:
        broken.append(f"the error ratio is {error_ratio:.2g}, more than {options.max_error_ratio:g}")
    if options.max_p99_ms and p99_ms is not None and p99_ms > options.max_p99_ms:
        broken.append(f"the p99 of the steps is {p99_ms} ms, more than {options.max_p99_ms:g} ms")
    for level in levels:
        if options.max_p99_ms and (level.p99_ms is None or level.p99_ms > options.max_p99_ms):
            broken.append(
                f"the p99 at {level.episodes:,} episodes is {level.p99_ms} ms, more than {options.max_p99_ms:g} ms"
            )
    if board.created != board.closed:
        broken.append(f"{board.created} environments were made, {board.closed} closed")
    if exceptions:
        broken.append(f"the load test itself failed {exceptions} times")
    return Outcome(
        passed=not broken,
        broken=broken,
        duration_s=duration_s,
        steps=steps,
        steps_per_s=round(steps / duration_s, 1) if duration_s else 0.0,
        most_alive=board.most_alive,
        p50_ms=percentile(buckets, 0.5),
        p95_ms=percentile(buckets, 0.95),
        p99_ms=p99_ms,
        slowest_ms=max(buckets, default=None),
        requests=requests,
        failures=failures,
        error_ratio=error_ratio,
        episodes=board.begun,
        created=board.created,
        closed=board.closed,
        levels=list(levels),
    )


def write_reports(outcome: Outcome, timeline: Timeline, options: Namespace) -> None:
    """Write ``summary.json`` and ``timeline.json``."""
    folder = out_of(options)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SUMMARY).write_bytes(orjson.dumps(asdict(outcome), option=orjson.OPT_INDENT_2))
    samples = [asdict(sample) for sample in timeline.samples]
    (folder / TIMELINE).write_bytes(orjson.dumps({"samples": samples}))


def print_verdict(outcome: Outcome) -> None:
    """Show the figures, and what did not hold."""
    # What goes to a file is read later, somewhere wide enough.
    console = Console(stderr=True, width=None if sys.stderr.isatty() else _WIDTH)
    table = Table(title="Load test", show_header=False)
    for name, shown in (
        ("episodes at once, at most", f"{outcome.most_alive:,}"),
        ("steps", f"{outcome.steps:,} in {outcome.duration_s:.1f} s, {outcome.steps_per_s:,.0f} a second"),
        ("a step, p50 / p95 / p99 / slowest", f"{outcome.p50_ms} / {outcome.p95_ms} / {outcome.p99_ms} / {outcome.slowest_ms} ms"),
        ("requests", f"{outcome.requests:,}"),
        ("failures", f"{outcome.failures:,}"),
        ("environments made / closed", f"{outcome.created:,} / {outcome.closed:,}"),
    ):  # fmt: skip
        table.add_row(name, shown)
    console.print(table)
    if outcome.levels:
        console.print(_levels_table(outcome.levels))
    for line in outcome.broken:
        console.print(f"[red]Failed: {line}.[/red]")
    if outcome.passed:
        console.print("[green]Passed.[/green]")


def _levels_table(levels: Sequence[Level]) -> Table:
    table = Table(title="Stages, while all of their episodes were alive", header_style="bold")
    kinds = list(levels[0].cores)
    for column in ("episodes", "s", "steps/s", "p50, ms", "p99, ms", "failures", "cores", *(f"µs/step, {kind}" for kind in kinds)):  # fmt: skip
        table.add_column(column, justify="right")
    for level in levels:
        rate = level.steps / level.span_s
        table.add_row(
            f"{level.episodes:,}",
            f"{level.span_s:.0f}",
            f"{rate:,.0f}",
            f"{level.p50_ms}",
            f"{level.p99_ms}",
            f"{level.failures:,}",
            f"{sum(level.cores.values()):.2f}",
            *(f"{cores / rate * 1e6:.0f}" if rate else "–" for cores in level.cores.values()),
        )
    return table
