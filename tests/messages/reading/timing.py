"""Holds a reader to time that is linear in the length of the text."""

from __future__ import annotations

import time
from collections.abc import Callable


def assert_linear(read: Callable[[str], object], piece: str) -> None:
    """Fail if a text that is sixteen times as long takes much more than sixteen times as long."""

    def seconds(length: int) -> float:
        text = piece * (length // len(piece))
        best = float("inf")
        for _ in range(2):
            before = time.process_time()
            read(text)
            best = min(best, time.process_time() - before)
        return best

    # A quadratic search would take 256 times as long; what is over at once is not measured twice.
    long = seconds(160_000)
    assert long < 0.005 or long < 80 * max(seconds(10_000), 1e-4)
