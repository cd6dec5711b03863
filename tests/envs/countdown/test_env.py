"""The Countdown environment: puzzles, attempts, rewards and ends."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import orjson
import pytest
from gymnasium.utils.env_checker import check_env

from tests.messages.reading.corpus import DIALECTS
from verl_agent_env.envs.checker.malformed import malformed_actions
from verl_agent_env.envs.countdown import CountdownEnv
from verl_agent_env.envs.countdown.expression import evaluate
from verl_agent_env.envs.countdown.generator import (
    RAGEN_RULES,
    REASONING_GYM_RULES,
    TINYZERO_RULES,
    TWENTY_FOUR_RULES,
    PuzzleRules,
)
from verl_agent_env.envs.countdown.puzzle import Puzzle
from verl_agent_env.envs.countdown.scoring import PROFILES
from verl_agent_env.envs.countdown.solver import solve
from verl_agent_env.envs.registry import default_registry
from verl_agent_env.errors import InvalidEnvArgumentsError
from verl_agent_env.types import Action

GIVEN: dict[str, Any] = {"numbers": [1, 2, 3], "target": 9}


def attempt(equation: str, call_id: str = "c1") -> Action:
    function = {"name": "test_equation", "arguments": orjson.dumps({"equation": equation}).decode()}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": call_id, "type": "function", "function": function}],
    }


def started(**kwargs: Any) -> CountdownEnv:
    env = CountdownEnv(**{**GIVEN, **kwargs})
    env.reset(seed=0)
    return env


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_beginning_of_an_equation_in_a_call_that_is_cut_off_is_not_paid(dialect: str) -> None:
    whole = DIALECTS[dialect]("test_equation", {"equation": "(1 + 2) * 3 - 1"})
    beginning = whole[: whole.index("(1 + 2) * 3") + len("(1 + 2) * 3")]
    _, reward, terminated, _, info = started().step(beginning)
    assert (reward, terminated, info["action_is_valid"]) == (0.0, False, False)


def test_gymnasium_accepts_it() -> None:
    check_env(CountdownEnv(), skip_render_check=True)


def test_the_first_observation_shows_prompt_numbers_and_target() -> None:
    observation, _ = CountdownEnv(**GIVEN).reset(seed=0)
    assert observation[0]["content"].endswith("Numbers: 1, 2, 3\nTarget: 9")
    assert "test_equation" in observation[0]["content"]


def test_the_right_equation_ends_the_episode_with_reward_one() -> None:
    observation, reward, terminated, truncated, info = started().step(attempt("(1 + 2) * 3"))
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)
    assert observation[0]["role"] == "tool"
    assert observation[0]["tool_call_id"] == "c1"


@pytest.mark.parametrize(
    ("equation", "told"),
    [
        ("1 + 2 + 3", "equals 6"),
        ("9", "not one of the given"),
        ("3 * 3", "used 2 times"),
        ("2 * 3", "missing: 1"),
    ],
)
def test_a_wrong_equation_earns_nothing_and_says_why(equation: str, told: str) -> None:
    observation, reward, terminated, _, info = started().step(attempt(equation))
    assert (reward, terminated, info["success"], info["action_is_valid"]) == (0.0, False, False, True)
    assert told in observation[0]["content"]


@pytest.mark.parametrize("equation", ["(1 + 2", "", "1 + two", "__import__('os')", "1" * 300])
def test_what_is_no_expression_is_an_invalid_action(equation: str) -> None:
    env = started(invalid_action_reward=-0.5)
    observation, reward, terminated, _, info = env.step(attempt(equation))
    assert (reward, terminated, info["action_is_valid"]) == (-0.5, False, False)
    assert observation[0]["content"].startswith("Invalid action")


def test_attempts_are_unlimited_by_default() -> None:
    env = started()
    for _ in range(200):
        *_, terminated, truncated, _ = env.step(attempt("1 + 2 + 3"))
        assert not terminated
        assert not truncated


def test_the_last_attempt_ends_the_episode_right_or_wrong() -> None:
    env = started(max_attempts=2)
    assert env.step(attempt("1 + 2 + 3"))[2] is False
    *_, terminated, truncated, info = env.step(attempt("(((("))
    assert (terminated, truncated, info["success"]) == (True, False, False)


@pytest.mark.parametrize(
    "text",
    [
        "(1 + 2) * 3",
        "<answer>(1+2)*3</answer>",
        "\\boxed{(1 + 2) × 3}",
        "<think>1+1</think><action>(1+2)*3</action>",
        "The answer is (1 + 2) * 3.",
        "<answer>The answer is (1 + 2) * 3 = 9</answer>",
        r"<answer>\(\left(1+2\right)\times 3\)</answer>",
        r"I get \boxed{9 = (1+2) \times 3}",
        r"So $(1+2) \times 3 = \boxed{9}$",
        r"\boxed{9} = (1+2)*3",
        "<answer>\n```\n(1+2)&times;3\n```\n</answer>",
        "（1＋2）×3",
        "<answer>(1+2)*3<|im_end|>",
    ],
)
def test_plain_text_is_an_attempt(text: str) -> None:
    observation, reward, *_ = started().step(text)
    assert reward == 1.0
    assert observation[0]["role"] == "user"


@pytest.mark.parametrize(
    ("profile", "equation", "expected"),
    [
        ("default", "1 + 2 + 3", 0.0),
        ("tinyzero", "1 + 2 + 3", 0.1),
        ("tinyzero", "(1 + 2) * 3", 1.0),
        ("ragen", "1 + 2 + 3", 0.1),
        ("ragen", "9", 0.0),
        ("reasoning_gym", "1 + 2 + 3", 0.05),
        ("ragen", "(1 + 2) x 3", 0.1),
        ("reasoning_gym", "3 * 3", 0.05),
    ],
)
def test_a_score_profile_sets_the_rewards(profile: str, equation: str, expected: float) -> None:
    assert started(score_profile=profile).step(attempt(equation))[1] == expected


def test_single_rewards_of_a_profile_can_be_set() -> None:
    assert started(scores={"wrong_value": -2.0}).step(attempt("1 + 2 + 3"))[1] == -2.0


def test_an_operator_that_is_not_allowed_is_no_expression() -> None:
    *_, info = started(operators="+-").step(attempt("(1 + 2) * 3"))
    assert info["action_is_valid"] is False


@pytest.mark.parametrize(
    ("kwargs", "place"),
    [
        ({"numbers": [1, 2]}, []),
        ({"target": 5}, []),
        ({"num_numbers": 40}, []),
        ({"operators": "%"}, []),
        ({"numbers": [-1], "target": 1}, ["numbers", 0]),
        ({"score_profile": "nobody"}, ["score_profile"]),
    ],
)
def test_unfit_arguments_are_refused_before_anything_is_built(
    kwargs: dict[str, Any], place: list[Any]
) -> None:
    with pytest.raises(InvalidEnvArgumentsError) as caught:
        CountdownEnv(**kwargs)
    assert caught.value.errors[0]["loc"] == place


def test_rules_that_no_puzzle_meets_are_refused_with_advice() -> None:
    with pytest.raises(InvalidEnvArgumentsError) as caught:
        CountdownEnv(num_numbers=2, number_range=[5, 5], target_range=[7, 8], operators="*")
    assert caught.value.errors[0]["loc"] == ["target_range"]


@pytest.mark.parametrize(
    "name", [n for n in default_registry().names() if n.startswith("verl_env/countdown")]
)
def test_every_variant_draws_puzzles_that_its_solver_solves(name: str) -> None:
    kind = default_registry().kind(name)
    solved = 0
    for seed in range(10):
        env = kind.build(kind.validate({}))
        assert isinstance(env, CountdownEnv)
        env.reset(seed=seed)
        solution = env.solution()
        assert solution is not None
        *_, terminated, _, info = env.step(solution[0])
        solved += terminated and info["success"]
    assert solved == 10


def test_a_snapshot_keeps_puzzle_and_attempts() -> None:
    env = started(max_attempts=2)
    env.step(attempt("1 + 2 + 3"))
    twin = CountdownEnv(**GIVEN, max_attempts=2)
    twin.restore(env.snapshot())
    assert twin.step(attempt("1 + 2 + 3")) == env.step(attempt("1 + 2 + 3"))
    assert twin.ended


# --- what an episode pays in all --------------------------------------------------------------------------------


def test_partial_success_is_paid_once_and_the_episode_is_worth_its_best_attempt() -> None:
    env = started(score_profile="tinyzero")
    rewards = [env.step(attempt(equation))[1] for equation in ["1 + 2 + 3", "1 * 2 * 3", "1", "(1 + 2) * 3"]]
    assert rewards == pytest.approx([0.1, 0.0, 0.0, 0.9])


def test_a_negative_reward_is_paid_for_each_attempt() -> None:
    env = started(scores={"wrong_value": -0.25})
    assert [env.step(attempt("1 + 2 + 3"))[1] for _ in range(3)] == [-0.25] * 3


ANSWERS = {
    "correct": "(1 + 2) * 3",
    "wrong_value": "1 + 2 + 3",
    "wrong_numbers": "9",
    "undefined": "1 / (1 + 2 - 3)",
    "malformed": "(1 + 2 * 3",
}


@pytest.mark.parametrize("profile", sorted(PROFILES))
@pytest.mark.parametrize("kind", sorted(ANSWERS))
def test_every_profile_pays_through_the_environment_what_it_says(profile: str, kind: str) -> None:
    # With one number twice, the undefined expression has the right numbers.
    puzzle: dict[str, Any] = {"numbers": [1, 1, 2, 3], "target": 9} if kind == "undefined" else GIVEN
    env = started(**puzzle, score_profile=profile)
    assert env.step(attempt(ANSWERS[kind]))[1] == pytest.approx(getattr(PROFILES[profile], kind))


@pytest.mark.parametrize("profile", sorted(PROFILES))
@pytest.mark.parametrize("text", ["", "I give up.", "The answer is 9", "I take sqrt(4) + 2"])
def test_prose_is_no_answer_and_no_attempt(profile: str, text: str) -> None:
    env = started(score_profile=profile, max_attempts=1)
    _, reward, terminated, _, info = env.step(text)
    assert (reward, terminated, info["action_is_valid"]) == (PROFILES[profile].no_answer, False, False)
    assert env.step(attempt("(1 + 2) * 3"))[2] is True


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_what_is_marked_as_an_answer_is_an_attempt_whatever_it_is(profile: str) -> None:
    env = started(score_profile=profile, max_attempts=1)
    _, reward, terminated, _, info = env.step("<answer>(1 + 2 * 3 it is</answer>")
    assert (terminated, info["action_is_valid"]) == (True, False)
    assert reward == PROFILES[profile].malformed


# --- rules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "equation"),
    [
        ({"numbers": [1, 5, 5, 5], "target": 24, "natural_answers": True}, "5 * (5 - 1 / 5)"),
        ({"numbers": [2, 3], "target": 1, "signs": "forbid"}, "-2 + 3"),
        ({"allow_result": False}, "(1 + 2) * 3 = 9"),
        ({"numbers": [1, 2, 3], "target": 3, "use_all": True}, "1 + 2"),
    ],
)
def test_a_stricter_rule_takes_an_answer_away(kwargs: dict[str, Any], equation: str) -> None:
    assert started(**kwargs).step(attempt(equation))[4]["success"] is False
    loosened = {"natural_answers": False, "signs": "anywhere", "allow_result": True, "use_all": False}
    assert started(**{**kwargs, **loosened}).step(attempt(equation))[4]["success"] is True


def test_tolerance_takes_what_is_near() -> None:
    assert started(numbers=[1, 3], target=0, tolerance=0.5).step(attempt("1 / 3"))[4]["success"] is True
    assert started(numbers=[1, 3], target=0).step(attempt("1 / 3"))[4]["success"] is False


def test_a_longer_equation_than_allowed_is_refused() -> None:
    padded = "(1 + 2) *" + " " * 150 + "3"
    assert started(max_equation_chars=128).step(attempt(padded))[4]["action_is_valid"] is False
    assert started().step(attempt(padded))[4]["success"] is True


def test_several_equations_of_one_answer_are_tested_in_order() -> None:
    env = started(max_actions_per_turn=3)
    observation, reward, terminated, _, info = env.step("<answer>1 + 2 + 3 || (1 + 2) * 3 || 1</answer>")
    assert (reward, terminated, info["num_steps"], len(observation)) == (1.0, True, 2, 1)
    assert "equals 6" in observation[0]["content"]


def test_the_attempts_left_are_told() -> None:
    observation, *_ = started(max_attempts=2).step(attempt("1 + 2 + 3"))
    assert observation[0]["content"].endswith("You have 1 attempt left.")


# --- where puzzles come from ------------------------------------------------------------------------------------


def test_a_puzzle_may_come_with_the_reset() -> None:
    env = CountdownEnv()
    observation, _ = env.reset(seed=0, options={"numbers": [2, 3], "target": 6})
    assert observation[0]["content"].endswith("Numbers: 2, 3\nTarget: 6")
    assert env.step(attempt("2 * 3"))[4]["success"] is True


@pytest.mark.parametrize(
    "options",
    [
        {"numbers": [1, 2]},
        {"target": 3},
        {"numbers": [], "target": 1},
        {"numbers": [1], "target": "x"},
        {"n": 1},
    ],
)
def test_an_unfit_option_leaves_the_running_episode_alone(options: dict[str, Any]) -> None:
    env = started()
    before = env.snapshot()
    with pytest.raises(InvalidEnvArgumentsError) as caught:
        env.reset(options=options)
    assert caught.value.errors[0]["loc"][0] == "options"
    assert env.snapshot() == before


def test_a_given_puzzle_without_a_solution_has_no_demonstration() -> None:
    env = started(numbers=[1, 1], target=100)
    assert env.solution() is None
    assert env.secrets() == ()


def test_the_same_seed_draws_the_same_puzzle_and_others_differ() -> None:
    shown = [CountdownEnv().reset(seed=seed)[0][0]["content"] for seed in (1, 1, 2, 3)]
    assert shown[0] == shown[1]
    assert len(set(shown)) == 3


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("countdown", PuzzleRules()),
        ("countdown_tinyzero", TINYZERO_RULES),
        ("countdown_tinyzero-v0", TINYZERO_RULES),
        ("countdown_ragen", RAGEN_RULES),
        ("countdown_ragen-v0", TINYZERO_RULES),
        ("countdown_reasoning_gym", REASONING_GYM_RULES),
        ("countdown_reasoning_gym-v0", PuzzleRules((4, 6), (1, 100), (100, 999))),
        ("countdown_24", TWENTY_FOUR_RULES),
    ],
)
def test_presets_draw_the_puzzles_of_their_models(name: str, rules: PuzzleRules) -> None:
    assert default_registry().kind(name).validate({}).rules == rules


@pytest.mark.parametrize("name", ["countdown_tinyzero", "countdown_ragen", "countdown_reasoning_gym"])
@pytest.mark.parametrize("action", ["well", "<answer>1 +</answer>", "<answer>1</answer>", None])
def test_one_answer_is_the_whole_episode_of_a_single_turn_preset(name: str, action: Any) -> None:
    kind = default_registry().kind(name)
    env = kind.build(kind.validate({}))
    env.reset(seed=2)
    assert env.step(action)[2:4] == (True, False)


def test_puzzles_of_ragen_are_solved_by_sums_and_differences_and_answers_may_use_all_operators() -> None:
    kind = default_registry().kind("countdown_ragen")
    env = kind.build(kind.validate({}))
    assert isinstance(env, CountdownEnv)
    for seed in range(20):
        env.reset(seed=seed)
        numbers, target = env.dump_state()[:2]
        assert solve(Puzzle(tuple(numbers), target), operators="+-") is not None
    assert "*" in env.arguments.operators


def test_operators_of_puzzles_are_operators_of_answers() -> None:
    with pytest.raises(InvalidEnvArgumentsError):
        CountdownEnv(operators="+-", puzzle_operators="*")


@pytest.mark.parametrize("name", ["countdown_tinyzero", "countdown_ragen", "countdown_reasoning_gym"])
def test_a_preset_reads_the_tags_alone_as_its_source_does(name: str) -> None:
    kind = default_registry().kind(name)
    profile = PROFILES[name.removeprefix("countdown_")]
    for text, paid in (
        ("<think>hm</think><answer>(1+2)*3</answer>", 1.0),
        ("<answer>1+2+3</answer>", profile.wrong_value),
        (r"<answer>(1+2)\times 3</answer>", profile.malformed),
        ("(1+2)*3", profile.no_answer),
        (r"\boxed{(1+2)*3}", profile.no_answer),
        ("The answer is (1+2)*3", profile.no_answer),
    ):
        env = kind.build(kind.validate(GIVEN))
        env.reset(seed=0)
        assert env.step(text)[1] == paid, text


# --- demonstrations and secrets ---------------------------------------------------------------------------------


def test_the_solution_is_worth_the_target_and_empty_once_it_is_played() -> None:
    env = started()
    [equation] = env.secrets()
    assert evaluate(equation).value == Fraction(9)
    solution = env.solution()
    assert solution is not None
    env.step(solution[0])
    assert env.solution() == []


def test_who_has_no_attempt_left_has_no_solution() -> None:
    env = started(max_attempts=1)
    env.step(attempt("1"))
    assert env.solution() is None


def test_no_action_makes_the_environment_tell_its_solution() -> None:
    env = CountdownEnv()
    for seed in range(5):
        env.reset(seed=seed)
        [secret] = env.secrets()
        for description, action in malformed_actions("test_equation"):
            observation, reward, *_, info = env.step(action)
            assert math.isfinite(reward), description
            assert secret not in str(observation), description
            assert secret not in str(info), description


def test_sampled_actions_are_equations() -> None:
    env = CountdownEnv()
    env.action_space.seed(0)
    for _ in range(20):
        env.reset(seed=0)
        assert env.step(env.action_space.sample())[4]["action_is_valid"] is True


def test_a_snapshot_keeps_what_was_earned() -> None:
    env = started(score_profile="tinyzero")
    env.step(attempt("1 + 2 + 3"))
    twin = CountdownEnv(**GIVEN, score_profile="tinyzero")
    twin.restore(env.snapshot())
    assert twin.step(attempt("(1 + 2) * 3"))[1] == pytest.approx(0.9)


@pytest.mark.parametrize(
    "text",
    [
        r"<think>(1+2)*3 = \boxed{9}</think> \boxed{9}",
        r"(1+2)*3, so \boxed{9}",
        r"1+2+3 = \boxed{9}",
        r"3*3 = \boxed{9}",
    ],
)
def test_a_result_in_a_box_is_not_paid_for_itself(text: str) -> None:
    assert started().step(text)[1] == 0
