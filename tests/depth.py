"""How thoroughly tests look for faults at random: bounded in ``make test``, many times as long in ``make deep``."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

EXAMPLES = 30
"""How many examples of a property are tried every day, where its test does not say it."""
_PROFILE = "tests"
_times = 1


def choose(times: int) -> None:
    """Try so many times as much; called once, before the tests are looked at.

    Raises:
        ValueError: It is less than once.
    """
    global _times
    if times < 1:
        raise ValueError("--depth must be 1 or more")
    _times = times
    settings.register_profile(
        _PROFILE,
        max_examples=examples(EXAMPLES),
        # The same examples every day: what a change broke fails at that change. Chance is for whoever asks for depth.
        derandomize=is_shallow(),
        # How long an example takes is the machine's affair.
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile(_PROFILE)


def is_shallow() -> bool:
    """Whether only as much is tried as belongs to every day."""
    return _times == 1


def examples(count: int, at_most: int | None = None) -> int:
    """How many examples to try where ``count`` are tried every day, and never more than ``at_most``."""
    wanted = count * _times
    return wanted if at_most is None else min(wanted, at_most)
