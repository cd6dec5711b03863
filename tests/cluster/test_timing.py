"""Durations of the cluster: what follows from the lease, and what does not fit together."""

from __future__ import annotations

from typing import Any

import pytest

from verl_agent_env import waits
from verl_agent_env.cluster.timing import Timing


@pytest.mark.parametrize("lease_s", [0.08, 0.5, 2.0, 5.0, 60.0, 1e6])
def test_a_lease_outlives_two_lost_heartbeats_and_its_holder_gives_up_before_the_store(
    lease_s: float,
) -> None:
    timing = Timing(lease_s)
    assert 3 * timing.heartbeat_s + timing.retry_s <= timing.valid_s < timing.lease_s
    assert timing.lease_s <= timing.blocked_after_s < timing.lease_s + 1
    assert timing.rejoin_s > timing.lease_s


def test_the_defaults_are_those_of_the_documentation() -> None:
    timing = Timing()
    assert (timing.heartbeat_s, timing.retry_s, timing.valid_s) == (0.625, 0.25, 4.0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"settle_s": -1.0}, "must not be negative"),
        ({"grace_s": -0.1}, "must not be negative"),
        ({"lease_s": 0.0}, "above 0"),
        ({"poll_s": 0.0}, "above 0"),
        ({"safety": 0.0}, "between 0 and 1"),
        ({"safety": 1.0}, "between 0 and 1"),
        ({"heartbeats_per_lease": 3}, "two lost heartbeats"),
        ({"safety": 0.7}, "two lost heartbeats"),
        ({"settle_s": 16.0}, "gather_s"),
        ({"hand_over_again_s": waits.HAND_OVER_S}, "hand_over_again_s"),
    ],
)
def test_what_does_not_fit_together_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Timing(**wrong)
