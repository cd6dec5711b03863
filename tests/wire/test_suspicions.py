"""What a worker makes of the suspicions that it is told."""

from __future__ import annotations

import dataclasses

import pytest

from verl_agent_env.wire.suspicions import CallId, Level, Suspicion, Suspicions

ENV_ID = "00a-" + "1" * 32


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def suspicion(level: Level = "refused", seq: int = 3, **fields: float) -> Suspicion:
    return Suspicion(ENV_ID, 2, seq, level, "SIGSEGV", **fields)


def told(*suspicions: Suspicion) -> dict[str, Suspicion]:
    return {each.key: each for each in suspicions}


def test_json_gives_the_suspicion_back_and_passes_over_what_it_does_not_know() -> None:
    kept = suspicion("alone")
    assert Suspicion.from_json(kept.to_json()) == kept
    assert Suspicion.from_json(kept.to_json()[:-1] + b',"later":1}') == kept


def test_only_a_refused_environment_has_a_refusal_and_it_names_the_call() -> None:
    known = Suspicions()
    for level in ("suspected", "alone", "examined"):
        known.replace(told(suspicion(level)))
        assert known.refusal(ENV_ID) is None
    known.replace(told(suspicion()))
    refusal = known.refusal(ENV_ID)
    assert refusal is not None
    assert refusal.fields() == {"env_id": ENV_ID, "episode": 2, "seq": 3, "cause": "SIGSEGV"}
    assert known.refusal("00a-" + "2" * 32) is None


def test_an_examination_takes_nothing_away_of_what_is_known() -> None:
    known = Suspicions()
    known.replace(told(suspicion("alone"), suspicion("examined", seq=7)))
    assert known.is_examined(ENV_ID)
    assert known.runs_alone(CallId(ENV_ID, 2, 3))
    assert known.counts() == {"alone": 1, "examined": 1}
    known.replace(told(suspicion("alone")))
    assert not known.is_examined(ENV_ID)


@pytest.mark.parametrize("call", [(ENV_ID, 2, 4), (ENV_ID, 1, 3), ("00b-" + "1" * 32, 2, 3)])
def test_no_other_call_runs_alone(call: tuple[str, int, int]) -> None:
    known = Suspicions()
    known.replace(told(suspicion("alone")))
    assert not known.runs_alone(CallId(*call))


def test_what_was_told_ends_with_its_time_and_what_was_inherited_does_not() -> None:
    clock = Clock()
    known = Suspicions([suspicion()], clock)
    other = dataclasses.replace(suspicion(lasts_s=5.0), env_id="00b-" + "1" * 32)
    known.replace(told(other))
    assert known.refusal(other.env_id) is not None
    clock.now = 6.0
    assert known.refusal(other.env_id) is None
    known.replace({})
    clock.now = 1e9
    assert known.refusal(ENV_ID) is not None


@pytest.mark.parametrize(
    ("seq", "words"), [(3, "step 3 of episode 2"), (-1, "beginning of episode 2"), (-2, "bringing it back")]
)
def test_the_refusal_says_in_words_which_call_it_was(seq: int, words: str) -> None:
    known = Suspicions([suspicion(seq=seq)])
    assert words in str(known.refusal(ENV_ID))
