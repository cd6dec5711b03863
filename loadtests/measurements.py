"""What a load test measures: steps as an episode sees them, episodes alive, and how both go over time.

Locust's own statistics know requests. A step of an episode waits until its turn comes to be sent and shares its request
with others; what counts for the episode is the time from when its action was ready to when its observation arrived.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from loadtests.processes import cpu_of_tree

if TYPE_CHECKING:
    from locust.stats import RequestStats, StatsEntry

STEP_NAME = "as an episode sees it"
STEP_TYPE = "STEP"


@dataclass
class Board:
    """What the users of one process have done."""

    created: int = 0
    """Environments."""
    closed: int = 0
    begun: int = 0
    """Episodes."""
    ended: int = 0
    """Episodes that came to their end, were lost, or were closed before."""
    most_alive: int = 0
    """Episodes at once, at most."""

    @property
    def alive(self) -> int:
        """Episodes that have begun and not ended."""
        return self.begun - self.ended

    def begin(self, episodes: int) -> None:
        """So many episodes have begun."""
        self.begun += episodes
        self.most_alive = max(self.most_alive, self.alive)


class Boards:
    """The boards of all processes of a load test, this one's and those that others report."""

    def __init__(self) -> None:
        self.own = Board()
        self._others: dict[str, Board] = {}

    def clear(self) -> None:
        """Begin anew, for another test in the same process."""
        self.own = Board()
        self._others.clear()

    def report(self) -> dict[str, int]:
        """This process's board, to be sent."""
        return asdict(self.own)

    def receive(self, process: str, report: Mapping[str, int]) -> None:
        """Another process's board as it stands now."""
        self._others[process] = Board(**report)

    def total(self) -> Board:
        """All together."""
        boards = (self.own, *self._others.values())
        return Board(
            created=sum(board.created for board in boards),
            closed=sum(board.closed for board in boards),
            begun=sum(board.begun for board in boards),
            ended=sum(board.ended for board in boards),
            most_alive=sum(board.most_alive for board in boards),
        )


def step_entry(stats: RequestStats) -> StatsEntry:
    """Where locust keeps the steps."""
    return stats.get(STEP_NAME, STEP_TYPE)


def record_steps(stats: RequestStats, latencies_s: Iterable[float], now: float) -> None:
    """Count steps that were answered.

    They are entered all at once: locust's own way of one call for each would cost the load generator more than all the
    rest it does for a step. Latencies are rounded up to whole milliseconds, so that no figure flatters.

    Args:
        stats: Locust's.
        latencies_s: One for each step.
        now: Seconds since the epoch.
    """
    buckets = Counter(math.ceil(latency * 1000) for latency in latencies_s)
    if not buckets:
        return
    entry = step_entry(stats)
    count = buckets.total()
    entry.num_requests += count
    entry.num_reqs_per_sec[int(now)] += count
    entry.last_request_timestamp = now
    entry.total_response_time += sum(ms * steps for ms, steps in buckets.items())
    fastest = min(buckets)
    entry.min_response_time = (
        fastest if entry.min_response_time is None else min(fastest, entry.min_response_time)
    )
    entry.max_response_time = max(entry.max_response_time, *buckets)
    for ms, steps in buckets.items():
        entry.response_times[ms] += steps


def percentile(buckets: Mapping[int, int], share: float) -> int | None:
    """The milliseconds within which ``share`` (0 to 1) of the steps were answered; None when there are none."""
    needed = math.ceil(share * sum(buckets.values()))
    for ms in sorted(buckets):
        needed -= buckets[ms]
        if needed <= 0:
            return ms
    return None


@dataclass(frozen=True)
class Sample:
    """What happened since the last sample."""

    at_s: float
    """Since the test began."""
    span_s: float
    """How long it was since the last sample."""
    alive: int
    """Episodes, now."""
    steps: int
    requests: int
    failures: int
    p50_ms: int | None
    """Of the steps."""
    p95_ms: int | None
    p99_ms: int | None


class Timeline:
    """Samples of a running test."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self._at_s = 0.0
        self._requests = 0
        self._failures = 0
        self._buckets: dict[int, int] = {}

    def take(self, at_s: float, alive: int, requests: int, failures: int, buckets: Mapping[int, int]) -> None:
        """Add a sample, of totals since the test began."""
        recent = _since(self._buckets, buckets)
        self.samples.append(
            Sample(
                at_s=round(at_s, 3),
                span_s=round(at_s - self._at_s, 3),
                alive=alive,
                steps=sum(recent.values()),
                requests=requests - self._requests,
                failures=failures - self._failures,
                p50_ms=percentile(recent, 0.5),
                p95_ms=percentile(recent, 0.95),
                p99_ms=percentile(recent, 0.99),
            )
        )
        self._at_s, self._requests, self._failures, self._buckets = at_s, requests, failures, dict(buckets)


@dataclass(frozen=True)
class Level:
    """What a stage of a climb came to while all of its episodes were alive."""

    episodes: int
    span_s: float
    steps: int
    failures: int
    p50_ms: int | None
    """Of the steps."""
    p99_ms: int | None
    cores: dict[str, float]
    """CPU by kind of process, in cores."""


@dataclass(frozen=True)
class Mark:
    """Totals at one moment of a test."""

    at_s: float
    failures: int
    buckets: Mapping[int, int]
    """Milliseconds to how many steps took so long."""
    cpu_s: Mapping[str, float]
    """CPU by kind of process."""

    @classmethod
    def now(cls, stats: RequestStats, watched: Mapping[str, Sequence[int]]) -> Mark:
        """The totals of the test, and of processes with all their descendants."""
        return cls(
            time.perf_counter(),
            stats.total.num_failures,
            dict(step_entry(stats).response_times),
            {kind: sum(map(cpu_of_tree, pids)) for kind, pids in watched.items()},
        )

    def until(self, end: Mark, episodes: int) -> Level:
        """What happened from here to there."""
        span_s = end.at_s - self.at_s
        recent = _since(self.buckets, end.buckets)
        return Level(
            episodes=episodes,
            span_s=round(span_s, 3),
            steps=sum(recent.values()),
            failures=end.failures - self.failures,
            p50_ms=percentile(recent, 0.5),
            p99_ms=percentile(recent, 0.99),
            cores={kind: round((used - self.cpu_s[kind]) / span_s, 3) for kind, used in end.cpu_s.items()},
        )


def _since(before: Mapping[int, int], now: Mapping[int, int]) -> dict[int, int]:
    recent = {ms: count - before.get(ms, 0) for ms, count in now.items()}
    return {ms: count for ms, count in recent.items() if count > 0}
