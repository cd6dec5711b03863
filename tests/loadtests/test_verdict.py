from __future__ import annotations

from argparse import Namespace

from loadtests.measurements import Board, Level
from loadtests.verdict import Outcome, judge


def _judge(
    *,
    buckets: dict[int, int] | None = None,
    closed: int = 4,
    failures: int = 0,
    exceptions: int = 0,
    max_error_ratio: float = 0.0,
    max_p99_ms: float = 100.0,
    level_p99_ms: int | None = 100,
) -> Outcome:
    return judge(
        Namespace(max_error_ratio=max_error_ratio, max_p99_ms=max_p99_ms),
        [],
        {100: 90} if buckets is None else buckets,
        Board(created=4, closed=closed, begun=6, ended=6),
        [Level(5, 1.0, 90, 0, 50, level_p99_ms, {})],
        requests=10,
        failures=failures,
        exceptions=exceptions,
    )


def test_a_test_passes_that_meets_its_thresholds_exactly() -> None:
    outcome = _judge()
    assert outcome.passed
    assert (outcome.p99_ms, outcome.steps, outcome.episodes) == (100, 90, 6)


def test_each_broken_threshold_is_named() -> None:
    for outcome, word in (
        (_judge(buckets={101: 90}), "p99"),
        (_judge(buckets={}), "no step"),
        (_judge(level_p99_ms=101), "5 episodes is 101 ms"),
        (_judge(level_p99_ms=None), "5 episodes is None"),
        (_judge(failures=1), "error ratio"),
        (_judge(closed=3), "closed"),
        (_judge(exceptions=2), "itself"),
    ):
        assert not outcome.passed
        assert len(outcome.broken) == 1
        assert word in outcome.broken[0]


def test_errors_are_set_against_requests_and_steps() -> None:
    assert _judge(failures=1, max_error_ratio=0.01).passed
    assert _judge(failures=1).error_ratio == 0.01


def test_no_latency_is_asked_for_when_its_threshold_is_zero() -> None:
    assert _judge(buckets={10_000: 5}, level_p99_ms=10_000, max_p99_ms=0.0).passed
