"""The measurement of recovery counts what came back, and takes what did not for an endless wait."""

from __future__ import annotations

import math

from loadtests.bench_recovery import Loss, cost_of_recovery


async def test_all_environments_come_back_and_cost_something() -> None:
    assert await cost_of_recovery(20) > 0


def test_an_environment_that_never_answered_breaks_the_bound() -> None:
    loss = Loss(lost=3, answered_at=[1.0, 2.5])
    assert loss.all_s == math.inf
    loss.answered_at.append(2.0)
    assert loss.all_s == 2.5
