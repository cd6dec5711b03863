"""Counts of durations, and what is read from them."""

from __future__ import annotations

import random

import pytest

from verl_agent_env.histogram import LATENCY_BUCKETS_S, Histogram, quantile


def test_histogram_cumulates_counts_up_to_each_limit() -> None:
    histogram = Histogram((1.0, 10.0))
    for seen in (0.5, 1.0, 5.0, 100.0):
        histogram.observe(seen)
    assert histogram.buckets() == ([("1.0", 2.0), ("10.0", 3.0), ("+Inf", 4.0)], 106.5)


def test_a_quantile_lies_in_the_bucket_in_which_it_is_counted() -> None:
    dice = random.Random(1)
    values = sorted(dice.expovariate(100) for _ in range(1000))
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    for share in (0.01, 0.5, 0.99):
        exact, found = values[int(share * 1000) - 1], quantile(histogram.counts, share)
        assert found is not None
        assert sum(limit < found for limit in LATENCY_BUCKETS_S) == sum(
            limit < exact for limit in LATENCY_BUCKETS_S
        )


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [([0, 0, 0], 0.5, None), ([4, 0, 0], 0.5, 0.5), ([0, 2, 0], 1.0, 10.0), ([0, 0, 3], 0.5, 10.0)],
)
def test_quantiles_of_few_observations(counts: list[int], share: float, expected: float | None) -> None:
    assert quantile(counts, share, (1.0, 10.0)) == expected
