from __future__ import annotations

import pytest

from loadtests.measurements import Board, Boards, Level, Mark, Timeline, percentile


def test_a_percentile_is_the_time_within_which_that_share_was_answered() -> None:
    buckets = {10: 98, 500: 1, 900: 1}
    assert percentile(buckets, 0.5) == 10
    assert percentile(buckets, 0.98) == 10
    assert percentile(buckets, 0.99) == 500
    assert percentile(buckets, 1.0) == 900
    assert percentile({}, 0.99) is None


def test_a_sample_tells_of_its_own_time_only() -> None:
    timeline = Timeline()
    timeline.take(1.0, alive=5, requests=10, failures=0, buckets={3: 10})
    timeline.take(2.5, alive=4, requests=16, failures=1, buckets={3: 10, 70: 6})
    first, second = timeline.samples
    assert (first.steps, first.p99_ms) == (10, 3)
    assert (second.span_s, second.alive, second.steps, second.requests, second.failures) == (1.5, 4, 6, 6, 1)
    assert (second.p50_ms, second.p99_ms) == (70, 70)


def test_a_sample_without_steps_has_no_latency() -> None:
    timeline = Timeline()
    timeline.take(1.0, alive=0, requests=0, failures=0, buckets={})
    assert timeline.samples[0].p99_ms is None


def test_the_most_alive_is_kept_when_episodes_end() -> None:
    board = Board()
    board.begin(7)
    board.ended += 5
    board.begin(1)
    assert (board.alive, board.most_alive) == (3, 7)


def test_boards_of_other_processes_are_added_as_they_stand() -> None:
    boards, other = Boards(), Boards()
    boards.own.begin(2)
    other.own.begin(3)
    boards.receive("other", other.report())
    other.own.begin(1)
    boards.receive("other", other.report())
    assert boards.total().alive == 6
    boards.clear()
    assert boards.total() == Board()


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99, 1.0])
def test_every_percentile_of_one_step_is_that_step(share: float) -> None:
    assert percentile({42: 1}, share) == 42


def test_a_level_tells_of_what_was_between_its_marks_only() -> None:
    begin = Mark(10.0, 1, {3: 10, 900: 5}, {"nginx": 2.0})
    end = Mark(14.0, 3, {3: 109, 70: 1, 900: 5}, {"nginx": 4.0})
    assert begin.until(end, 50) == Level(50, 4.0, 100, 2, 3, 3, {"nginx": 0.5})
