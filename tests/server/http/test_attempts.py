"""Addresses from which tokens are guessed."""

from __future__ import annotations

import pytest

from verl_agent_env.errors import TooManyAttemptsError
from verl_agent_env.server.http.attempts import FailedAttempts


def test_a_network_of_ipv6_counts_as_one_address() -> None:
    attempts = FailedAttempts(lambda: 0.0)
    for nth in range(10):
        attempts.require_allowed(f"2001:db8::{nth:x}")
        attempts.count(f"2001:db8::{nth:x}")
    with pytest.raises(TooManyAttemptsError) as caught:
        attempts.require_allowed("2001:db8::ffff")
    assert caught.value.to_problem()["code"] == "too_many_attempts"
    attempts.require_allowed("2001:db8:0:1::1")


def test_attempts_are_forgotten_with_time_and_addresses_within_a_bound(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [0.0]
    attempts = FailedAttempts(lambda: now[0])
    for _ in range(10):
        attempts.count("192.0.2.1")
    # Who watches the log sees from where.
    assert [vars(record)["address"] for record in caplog.records] == ["192.0.2.1"]
    with pytest.raises(TooManyAttemptsError):
        attempts.require_allowed("192.0.2.1")
    now[0] += 1000.0
    attempts.require_allowed("192.0.2.1")
    for nth in range(20_000):
        attempts.count(f"10.{nth // 65536}.{nth // 256 % 256}.{nth % 256}")
    assert len(attempts._addresses) <= 8192
