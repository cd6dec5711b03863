"""Holds a reader to time that is linear in the length of the text."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests import depth

_TRIES = 4


def assert_linear(read: Callable[[str], object], piece: str, *, length: int | None = None) -> None:
    """Fail if a text that is sixteen times as long as ``length`` takes much more than sixteen times as long, in each of a few tries.

    By default it is 2,500 characters, and 10,000 in ``make deep``.
    """
    short_length = length or depth.examples(2_500, at_most=10_000)

    def seconds(length: int) -> float:
        text = piece * (length // len(piece))
        before = time.process_time()
        read(text)
        return time.process_time() - before

    tries = []
    for _ in range(_TRIES):
        # A quadratic search would take 256 times as long; what is over at once is not compared.
        long = seconds(16 * short_length)
        if long < 0.005 or long < 80 * (short := max(min(seconds(short_length) for _ in range(3)), 1e-4)):
            return
        tries.append(long / short)
    raise AssertionError(f"sixteen times the length takes {min(tries):.0f} times as long")
