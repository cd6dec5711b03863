"""What one call can wait for, one thing after the other, adds up to no more than anybody may wait."""

from __future__ import annotations

from verl_agent_env import waits


def test_all_that_a_call_can_wait_for_keeps_the_limit() -> None:
    # A worker falls silent, no other one is there for a while, the next one brings the environment back, has no thread
    # free, and cannot write.
    step = waits.PEER_SILENCE_S + waits.OWNER_S + waits.RECOVERY_S + waits.PLACE_S + waits.STORE_S
    assert step <= waits.MAX_WAIT_S
    assert waits.OWNER_S + waits.RUN_S + waits.STORE_S <= waits.MAX_WAIT_S


def test_silence_is_noticed_by_looks_and_one_question() -> None:
    assert 0 < 2 * waits.PEER_LOOK_S < waits.PEER_SILENCE_S
