"""What an instance admits, and how much of its history it keeps."""

from __future__ import annotations

import pytest

from verl_agent_env.engine.instance import Instance
from verl_agent_env.envs.registry import Registry
from verl_agent_env.errors import (
    EnvironmentClosedError,
    EnvironmentLostError,
    EpisodeEndedError,
    SequenceConflictError,
    SequenceGapError,
    SequenceStaleError,
)
from verl_agent_env.wire.codec import ResetAnswer, StepAnswer

BEGINNING = ResetAnswer(b"[]", b"{}")
LIMIT = 1000


def answer_of(number: int, *, terminated: bool = False, truncated: bool = False) -> StepAnswer:
    return StepAnswer(b"[%d]" % number, float(number), terminated, truncated, b"{}")


@pytest.fixture
def instance(registry: Registry) -> Instance:
    return instance_of(registry, "inline")


def instance_of(registry: Registry, kind: str, limit: int = LIMIT) -> Instance:
    made = Instance("000-x", registry.kind(f"probe/{kind}-v0"), {}, None, 60.0)
    made.begin(1, None, BEGINNING, limit)
    return made


def played(instance: Instance, count: int, limit: int = LIMIT) -> list[StepAnswer]:
    answers = [answer_of(i) for i in range(count)]
    for i, answer in enumerate(answers):
        instance.commit(b"%d" % i, answer, limit)
    return answers


def test_next_number_or_none_is_applied(instance: Instance) -> None:
    played(instance, 2)
    assert instance.admit(b"x", 2) is None
    assert instance.admit(b"x", None) is None


def test_repeat_of_the_last_step_gets_its_answer(instance: Instance) -> None:
    answers = played(instance, 3)
    assert instance.admit(b"2", 2) is answers[2]
    assert instance.seq == 3


def test_repeat_of_the_last_step_after_the_end_gets_its_answer(instance: Instance) -> None:
    last = answer_of(9, truncated=True)
    instance.commit(b"end", last, LIMIT)
    assert instance.admit(b"end", 0) is last
    with pytest.raises(EpisodeEndedError):
        instance.admit(b"end", 1)
    with pytest.raises(EpisodeEndedError):
        instance.admit(b"end", None)


def test_same_number_with_another_action_is_a_conflict(instance: Instance) -> None:
    played(instance, 3)
    with pytest.raises(SequenceConflictError) as caught:
        instance.admit(b"other", 2)
    assert (caught.value.seq, caught.value.expected_seq) == (2, 3)


@pytest.mark.parametrize("seq", [0, 1])
def test_older_number_is_stale(instance: Instance, seq: int) -> None:
    played(instance, 3)
    with pytest.raises(SequenceStaleError) as caught:
        instance.admit(b"%d" % seq, seq)
    assert (caught.value.seq, caught.value.expected_seq) == (seq, 3)


@pytest.mark.parametrize("seq", [4, 100])
def test_later_number_is_a_gap(instance: Instance, seq: int) -> None:
    played(instance, 3)
    with pytest.raises(SequenceGapError) as caught:
        instance.admit(b"x", seq)
    assert (caught.value.seq, caught.value.expected_seq) == (seq, 3)


def test_number_of_the_last_episode_is_a_gap_in_the_new_one(instance: Instance) -> None:
    played(instance, 3)
    instance.begin(2, None, BEGINNING, LIMIT)
    assert instance.episode == 1
    with pytest.raises(SequenceGapError):
        instance.admit(b"2", 2)


def test_closed_and_lost_admit_nothing(instance: Instance) -> None:
    played(instance, 1)
    instance.lost = "why"
    with pytest.raises(EnvironmentLostError) as lost:
        instance.admit(b"0", 0)
    assert lost.value.reason == "why"
    instance.closed_as = "idle"
    with pytest.raises(EnvironmentClosedError) as closed:
        instance.admit(b"0", 0)
    assert closed.value.reason == "idle"


def test_replayable_keeps_actions_only(instance: Instance) -> None:
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


def test_history_beyond_its_bound_is_dropped_for_the_episode(instance: Instance) -> None:
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


def test_last_answer_outlives_the_history(instance: Instance) -> None:
    answers = played(instance, 5, limit=3)
    assert instance.admit(b"4", 4) is answers[4]


def test_new_episode_keeps_history_again(instance: Instance) -> None:
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
