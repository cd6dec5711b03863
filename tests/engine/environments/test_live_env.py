"""What an instance admits, and how much of its history it keeps."""

from __future__ import annotations

import pytest

from verl_agent_env.engine.environments.live_env import MOVED, LiveEnv
from verl_agent_env.envs.registry import Registry
from verl_agent_env.errors import (
    EnvironmentClosedError,
    EnvironmentLostError,
    EpisodeEndedError,
    MovedError,
    SequenceConflictError,
    SequenceGapError,
    SequenceStaleError,
)
from verl_agent_env.types import slot_of
from verl_agent_env.wire.results import EncodedReset, EncodedStep

BEGINNING = EncodedReset(b"[]", b"{}")
LIMIT = 1000


def answer_of(number: int, *, terminated: bool = False, truncated: bool = False) -> EncodedStep:
    return EncodedStep(b"[%d]" % number, float(number), terminated, truncated, b"{}")


@pytest.fixture
def instance(registry: Registry) -> LiveEnv:
    return instance_of(registry, "inline")


def instance_of(registry: Registry, kind: str, limit: int = LIMIT) -> LiveEnv:
    made = LiveEnv("000-x", registry.kind(f"probe/{kind}-v0"), {}, None, 60.0)
    made.begin(1, None, BEGINNING, limit)
    return made


def played(instance: LiveEnv, count: int, limit: int = LIMIT) -> list[EncodedStep]:
    answers = [answer_of(i) for i in range(count)]
    for i, answer in enumerate(answers):
        instance.commit(b"%d" % i, answer, limit)
    return answers


def test_next_number_or_none_is_applied(instance: LiveEnv) -> None:
    played(instance, 2)
    assert instance.admit(b"x", 2) is None
    assert instance.admit(b"x", None) is None


def test_repeat_of_the_last_step_gets_its_answer(instance: LiveEnv) -> None:
    answers = played(instance, 3)
    assert instance.admit(b"2", 2) is answers[2]
    assert instance.seq == 3


def test_repeat_of_the_last_step_after_the_end_gets_its_answer(instance: LiveEnv) -> None:
    last = answer_of(9, truncated=True)
    instance.commit(b"end", last, LIMIT)
    assert instance.admit(b"end", 0) is last
    with pytest.raises(EpisodeEndedError):
        instance.admit(b"end", 1)
    with pytest.raises(EpisodeEndedError):
        instance.admit(b"end", None)


def test_same_number_with_another_action_is_a_conflict(instance: LiveEnv) -> None:
    played(instance, 3)
    with pytest.raises(SequenceConflictError) as caught:
        instance.admit(b"other", 2)
    assert (caught.value.seq, caught.value.expected_seq) == (2, 3)


@pytest.mark.parametrize("seq", [0, 1])
def test_older_number_is_stale(instance: LiveEnv, seq: int) -> None:
    played(instance, 3)
    with pytest.raises(SequenceStaleError) as caught:
        instance.admit(b"%d" % seq, seq)
    assert (caught.value.seq, caught.value.expected_seq) == (seq, 3)


@pytest.mark.parametrize("seq", [4, 100])
def test_later_number_is_a_gap(instance: LiveEnv, seq: int) -> None:
    played(instance, 3)
    with pytest.raises(SequenceGapError) as caught:
        instance.admit(b"x", seq)
    assert (caught.value.seq, caught.value.expected_seq) == (seq, 3)


def test_number_of_the_last_episode_is_a_gap_in_the_new_one(instance: LiveEnv) -> None:
    played(instance, 3)
    instance.begin(2, None, BEGINNING, LIMIT)
    assert instance.episode == 1
    with pytest.raises(SequenceGapError):
        instance.admit(b"2", 2)


def test_closed_and_lost_admit_nothing(instance: LiveEnv) -> None:
    played(instance, 1)
    instance.lost = "why"
    with pytest.raises(EnvironmentLostError) as lost:
        instance.admit(b"0", 0)
    assert lost.value.reason == "why"
    instance.closed_as = "idle"
    with pytest.raises(EnvironmentClosedError) as closed:
        instance.admit(b"0", 0)
    assert closed.value.reason == "idle"


def test_replayable_keeps_actions_only(instance: LiveEnv) -> None:
    played(instance, 3)
    assert instance.actions == [b"0", b"1", b"2"]
    assert instance.answers is None
    assert instance.beginning is None
    assert instance.replayable


def test_other_kinds_keep_answers_too(registry: Registry) -> None:
    instance = instance_of(registry, "live")
    answers = played(instance, 2)
    assert instance.answers == answers
    assert instance.beginning is BEGINNING
    assert not instance.replayable


def test_history_beyond_its_bound_is_dropped_for_the_episode(instance: LiveEnv) -> None:
    played(instance, 3, limit=3)
    assert instance.history_complete
    last = answer_of(3)
    instance.commit(b"3", last, 3)
    assert instance.actions is None
    assert not instance.history_complete
    assert not instance.replayable
    instance.commit(b"4", answer_of(4), 3)
    assert instance.actions is None
    assert not instance.history_complete


def test_last_answer_outlives_the_history(instance: LiveEnv) -> None:
    answers = played(instance, 5, limit=3)
    assert instance.admit(b"4", 4) is answers[4]


def test_new_episode_keeps_history_again(instance: LiveEnv) -> None:
    played(instance, 5, limit=3)
    instance.begin(2, None, BEGINNING, 3)
    assert instance.replayable
    played(instance, 2, limit=3)
    assert instance.actions == [b"0", b"1"]


def test_answers_count_towards_the_bound(registry: Registry) -> None:
    instance = instance_of(registry, "live", limit=9)
    instance.commit(b"1", answer_of(1), 9)
    assert instance.answers is None
    assert not instance.history_complete


# --- what one call asked for more than once ------------------------------------------------------------------


def asked(instance: LiveEnv, *operations: bytes) -> list[EncodedStep]:
    """Steps that these operations ask for; their actions are their ids."""
    answers = [answer_of(instance.seq + i) for i in range(len(operations))]
    for operation, answer in zip(operations, answers, strict=True):
        assert instance.admit(operation, None, operation) is None
        instance.commit(operation, answer, LIMIT, operation)
    return answers


def test_all_steps_of_the_last_call_are_answered_again(instance: LiveEnv) -> None:
    asked(instance, b"before")
    answers = asked(instance, b"a", b"a 1", b"a 2")
    for operation, answer in zip((b"a", b"a 1", b"a 2"), answers, strict=True):
        assert instance.admit(operation, None, operation) is answer
    assert instance.seq == 4


def test_numbered_steps_of_the_last_call_are_answered_again(instance: LiveEnv) -> None:
    for seq, operation in enumerate((b"a", b"a 1", b"a 2")):
        instance.commit(b"%d" % seq, answer_of(seq), LIMIT, operation)
    assert [instance.admit(b"%d" % seq, seq) for seq in range(3)] == [
        instance.admit(b"%d" % seq, None, operation) for seq, operation in enumerate((b"a", b"a 1", b"a 2"))
    ]
    with pytest.raises(SequenceConflictError):
        instance.admit(b"other", 0)


def test_an_operation_with_another_action_is_not_applied(instance: LiveEnv) -> None:
    asked(instance, b"a", b"a 1")
    for operation in (b"a", b"a 1"):
        with pytest.raises(SequenceConflictError):
            instance.admit(b"other", None, operation)


def test_steps_of_a_call_that_followed_are_new(instance: LiveEnv) -> None:
    asked(instance, b"a", b"a 1")
    asked(instance, b"b", b"b 1", b"b 2")
    asked(instance, b"c")
    assert instance.seq == 6


@pytest.mark.parametrize("late", [b"a", b"a 1", b"a 2", b"b"])
def test_a_late_copy_of_an_earlier_call_is_not_applied(instance: LiveEnv, late: bytes) -> None:
    asked(instance, b"a", b"a 1", b"a 2")
    asked(instance, b"b")
    asked(instance, b"c")
    with pytest.raises(SequenceStaleError):
        instance.admit(late, None, late)
    instance.begin(2, None, BEGINNING, LIMIT)
    with pytest.raises(SequenceStaleError):
        instance.admit(late, None, late)


@pytest.mark.parametrize("operations", [(b"a", b"b"), (b"a", b"a 1", b"a 2")])
@pytest.mark.parametrize("late", [0, 1, -1])
def test_a_late_copy_of_a_numbered_step_is_not_applied_in_the_next_episode(
    instance: LiveEnv, operations: tuple[bytes, ...], late: int
) -> None:
    for seq, operation in enumerate(operations):
        assert instance.admit(b"action", seq, operation) is None
        instance.commit(b"action", answer_of(seq), LIMIT, operation)
    instance.begin(2, None, BEGINNING, LIMIT)
    late %= len(operations)
    for seq in range(late):
        # The episode comes to the number of the copy.
        assert instance.admit(b"other", seq, b"new-%d" % seq) is None
        instance.commit(b"other", answer_of(seq), LIMIT, b"new-%d" % seq)
    with pytest.raises(SequenceStaleError):
        instance.admit(b"action", late, operations[late])
    assert instance.admit(b"other", late, b"another") is None


def test_a_step_that_another_call_came_before_is_applied_once(instance: LiveEnv) -> None:
    asked(instance, b"a", b"b", b"a 1")
    with pytest.raises(SequenceStaleError):
        instance.admit(b"a", None, b"a")
    assert instance.admit(b"a 1", None, b"a 1") is instance.last_answer
    asked(instance, b"a 2")


def test_a_step_that_failed_is_not_applied_after_those_that_followed(instance: LiveEnv) -> None:
    instance.commit(b"a 1", answer_of(0), LIMIT, b"a 1")
    with pytest.raises(SequenceStaleError):
        instance.admit(b"a", None, b"a")
    assert instance.admit(b"a 2", None, b"a 2") is None


def test_answers_of_one_call_are_kept_within_a_bound(instance: LiveEnv) -> None:
    large = EncodedStep(b"x" * 100_000, 0.0, False, False, b"{}")
    operations = [b"a", *(b"a %d" % number for number in range(1, 10))]
    for operation in operations:
        instance.commit(b"1", large, LIMIT, operation)
    outcomes = []
    for operation in operations:
        try:
            outcomes.append(instance.admit(b"1", None, operation) is large)
        except SequenceStaleError:
            outcomes.append(False)
    assert outcomes == [False] * 7 + [True] * 3


def test_many_calls_leave_little_behind(instance: LiveEnv) -> None:
    for number in range(100):
        asked(instance, b"%d" % number, b"%d 1" % number)
    assert instance.past_operations is not None
    assert len(instance.past_operations) == 8
    assert instance.earlier_steps is not None
    assert len(list(instance.earlier_steps)) == 1


def reset(instance: LiveEnv, seed: int, operation: bytes) -> None:
    assert instance.admit_reset(operation) is None
    instance.begin(seed, b'{"n":%d}' % seed, BEGINNING, LIMIT, operation)


def test_all_resets_of_the_last_call_are_shown_again(instance: LiveEnv) -> None:
    reset(instance, 1, b"before")
    for seed, operation in enumerate((b"a", b"a 1", b"a 2"), start=5):
        reset(instance, seed, operation)
    asked(instance, b"step")
    for seed, operation in enumerate((b"a", b"a 1", b"a 2"), start=5):
        begun = instance.admit_reset(operation)
        assert begun is not None
        assert (begun.seed, begun.options) == (seed, b'{"n":%d}' % seed)
    with pytest.raises(SequenceStaleError):
        instance.admit_reset(b"before")
    reset(instance, 9, b"b")
    for operation in (b"a", b"a 1", b"a 2"):
        with pytest.raises(SequenceStaleError):
            instance.admit_reset(operation)


def test_a_reset_that_another_call_came_before_is_carried_out_once(instance: LiveEnv) -> None:
    for seed, operation in enumerate((b"a", b"b", b"a 1")):
        reset(instance, seed, operation)
    with pytest.raises(SequenceStaleError):
        instance.admit_reset(b"a")
    assert instance.admit_reset(b"a 1") is not None
    reset(instance, 9, b"a 2")


def test_resets_of_one_call_are_known_within_a_bound(instance: LiveEnv) -> None:
    reset(instance, 0, b"a")
    for number in range(1, 40):
        reset(instance, number, b"a %d" % number)
    assert len(instance.earlier_resets) == 16
    with pytest.raises(SequenceStaleError):
        instance.admit_reset(b"a")
    assert instance.admit_reset(b"a 30") is not None
    large = b'{"x":"%b"}' % (b"y" * 5000)
    for operation in (b"b", b"b 1"):
        instance.begin(1, large, BEGINNING, LIMIT, operation)
    with pytest.raises(SequenceStaleError):
        instance.admit_reset(b"b")


def test_what_moved_is_never_said_to_be_closed(instance: LiveEnv) -> None:
    instance.closed_as = MOVED
    for ask in (instance.require_alive, lambda: instance.admit(b"1", 0), lambda: instance.admit_reset(b"")):
        with pytest.raises(MovedError) as caught:
            ask()
        assert caught.value.retryable
        assert caught.value.slot == slot_of(instance.env_id)
