"""Each profile pays what its model pays, and none can be tricked."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_agent_env.envs.countdown.expression import Grammar
from verl_agent_env.envs.countdown.generator import PuzzleRules, generate_puzzle
from verl_agent_env.envs.countdown.puzzle import Puzzle
from verl_agent_env.envs.countdown.scoring import PROFILES, ScoreProfile, score
from verl_agent_env.envs.countdown.solver import solve

PUZZLE = Puzzle((4, 4, 3, 2), 24)

ANSWERS: dict[str, str | None] = {
    "correct": "4 * 3 * 4 / 2",
    "wrong_value": "4 + 4 + 3 + 2",
    "wrong_numbers": "24",
    "undefined": "(3 + 2) / (4 - 4)",
    "malformed": "(4 * 3 * 4 / 2",
    "no_answer": None,
}


@pytest.mark.parametrize(
    ("profile", "rewards"),
    [
        ("default", (1, 0, 0, 0, 0, 0)),
        ("seed_project", (1, 0, 0, 0, 0, 0)),
        ("tinyzero", (1, 0.1, 0.1, 0.1, 0.1, 0)),
        ("tinyzero_v0", (1, 0.1, 0.1, 0.1, 0.1, 0)),
        ("ragen", (1, 0.1, 0, 0.1, 0.1, -0.1)),
        ("ragen_v0", (1, 0.1, 0, 0.1, 0, -0.1)),
        ("reasoning_gym", (1, 0.05, 0.05, 0.01, 0.01, 0.01)),
        ("reasoning_gym_v0", (1, 0.05, 0.05, 0.01, 0.01, 0)),
    ],
)
def test_profile_pays_what_its_model_pays(profile: str, rewards: tuple[float, ...]) -> None:
    for (kind, answer), reward in zip(ANSWERS.items(), rewards, strict=True):
        verdict = score(answer, PUZZLE, PROFILES[profile])
        assert (verdict.kind, verdict.reward) == (kind, reward), answer


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(
    "answer", ["24", "24 + 4 - 4", "0 + 24", "4 * 3 * 2 * 1", "4 * 4 * 4 - 40", "42 - 34 + 16"]
)
def test_numbers_that_were_not_given_never_win(profile: str, answer: str) -> None:
    verdict = score(answer, PUZZLE, PROFILES[profile])
    assert verdict.kind == "wrong_numbers"
    assert verdict.reward < 1


def test_number_used_too_often_is_refused() -> None:
    assert score("2 * 3 * 4 * (4 - 3)", PUZZLE).kind == "wrong_numbers"


def test_numbers_are_checked_before_the_value() -> None:
    assert score("1 / 0", PUZZLE, PROFILES["ragen"]).kind == "wrong_numbers"
    assert score("4 / (4 - 4)", PUZZLE, PROFILES["ragen"]).kind == "wrong_numbers"


def test_left_over_number_is_fine_only_at_most_once() -> None:
    answer = "4 * 3 * 2"
    assert score(answer, PUZZLE, PROFILES["default"]).kind == "wrong_numbers"
    assert score(answer, PUZZLE, PROFILES["reasoning_gym_v0"]).kind == "correct"
    assert score(answer, PUZZLE, PROFILES["reasoning_gym"]).kind == "wrong_numbers"


def test_number_equal_to_the_target_counts_as_given_when_it_is() -> None:
    puzzle = Puzzle((24, 3), 24)
    assert score("24", puzzle, PROFILES["reasoning_gym_v0"]).kind == "correct"
    assert score("24", puzzle, PROFILES["default"]).kind == "wrong_numbers"


def test_arithmetic_is_exact() -> None:
    verdict = score("1 / 3 * 3", Puzzle((1, 3, 3), 1))
    assert (verdict.kind, verdict.value) == ("correct", Fraction(1))
    # 1/999999 away: right to 1e-5 only.
    close = Puzzle((1, 1, 999999), 1)
    assert score("1 + 1 / 999999", close).kind == "wrong_value"
    assert score("1 + 1 / 999999", close, PROFILES["tinyzero"]).kind == "correct"


def test_trailing_result_is_read_over_where_the_profile_says_so() -> None:
    answer = "4 * 3 * 4 / 2 = 24"
    assert score(answer, PUZZLE, PROFILES["default"]).kind == "correct"
    assert score(answer, PUZZLE, PROFILES["tinyzero_v0"]).kind == "malformed"
    assert score(answer, PUZZLE, PROFILES["tinyzero"]).reward == 0.1
    assert score("4 + 3 + 4 + 2 = 24", PUZZLE).kind == "wrong_value"


def test_words_around_an_equation_matter_to_those_profiles_whose_sources_they_stop() -> None:
    answer = "The answer is 4 × 3 × 4 / 2 = 24."
    paid = {"tinyzero": 0.1, "ragen": 0, "reasoning_gym": 0.01}
    for name, profile in PROFILES.items():
        expected = paid.get(name, 1 if profile.grammar.allow_result else profile.malformed)
        assert score(answer, PUZZLE, profile).reward == expected, name


def test_value_is_close_enough_for_reasoning_gym_by_a_share_of_the_target() -> None:
    puzzle = Puzzle((500, 1, 1, 250), 500)
    assert score("500 + 1 * 1 / 250", puzzle, PROFILES["reasoning_gym"]).kind == "correct"
    assert score("500 + 1 * 1 / 250", puzzle).kind == "wrong_value"


def test_natural_profile_refuses_fractions_on_the_way() -> None:
    puzzle = Puzzle((3, 3, 8, 8), 24)
    answer = "8 / (3 - 8 / 3)"
    assert score(answer, puzzle).kind == "correct"
    strict = ScoreProfile(natural=True, illegal_step=0.25)
    verdict = score(answer, puzzle, strict)
    assert (verdict.kind, verdict.reward) == ("illegal_step", 0.25)


def test_every_reward_is_an_argument() -> None:
    profile = replace(PROFILES["ragen"], correct=5.0, wrong_value=-2.0)
    assert score(ANSWERS["correct"], PUZZLE, profile).reward == 5.0
    assert score(ANSWERS["wrong_value"], PUZZLE, profile).reward == -2.0


@given(st.integers(0, 10**6), st.sampled_from(sorted(PROFILES)))
def test_solution_of_a_generated_puzzle_wins_under_every_profile(seed: int, profile: str) -> None:
    puzzle = generate_puzzle(seed, PuzzleRules((3, 5)))
    assert score(solve(puzzle), puzzle, PROFILES[profile]).kind == "correct"


@given(st.one_of(st.none(), st.text(max_size=300)), st.sampled_from(sorted(PROFILES)))
def test_any_text_is_judged_and_the_message_stays_short(text: str | None, profile: str) -> None:
    verdict = score(text, PUZZLE, PROFILES[profile])
    assert verdict.kind != "correct"
    assert 0 < len(verdict.message) < 200


def test_message_about_a_huge_value_stays_short() -> None:
    profile = ScoreProfile(grammar=Grammar(operators="+-*/^"))
    verdict = score("4^60*4 - 3^60 / 2", Puzzle((4, 60, 4, 3, 60, 2), 24), profile)
    assert verdict.kind == "wrong_value"
    assert len(verdict.message) < 120
