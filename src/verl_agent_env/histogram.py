"""Counts of durations and sizes, by ranges."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

LATENCY_BUCKETS_S = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip


class Histogram:
    """Counts per bucket: one search and one addition for each observation."""

    __slots__ = ("_limits", "counts", "total")

    def __init__(self, limits: tuple[float, ...] = LATENCY_BUCKETS_S) -> None:
        """Count nothing yet.

        Args:
            limits: Upper limit of each bucket but the last, which has none.
        """
        self._limits = limits
        self.counts = [0] * (len(limits) + 1)
        """Observations by bucket."""
        self.total = 0.0
        """Sum of all values."""

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self._limits, value)] += 1
        self.total += value

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulated counts by upper limit, as Prometheus wants them, and the sum of all values."""
        total = 0
        buckets = []
        for limit, count in zip((*self._limits, float("inf")), self.counts, strict=True):
            total += count
            buckets.append(("+Inf" if limit == float("inf") else repr(float(limit)), float(total)))
        return buckets, self.total


def quantile(
    counts: Sequence[int], share: float, limits: Sequence[float] = LATENCY_BUCKETS_S
) -> float | None:
    """Estimate the value below which a ``share`` of the observations lies, evenly spread within each bucket.

    Args:
        counts: By bucket, as :attr:`Histogram.counts`.
        share: From 0 to 1.
        limits: Upper limits of the buckets.

    Returns:
        The value; the last limit where it lies beyond that, None without any observation.
    """
    wanted = share * sum(counts)
    if not wanted:
        return None
    below, lowest = 0, 0.0
    for count, limit in zip(counts, limits, strict=False):
        if below + count >= wanted:
            return lowest + (limit - lowest) * (wanted - below) / count
        below, lowest = below + count, limit
    return lowest
