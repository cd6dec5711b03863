"""The Countdown environment: puzzles, attempts, rewards and ends."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from gymnasium.utils.env_checker import check_env

from verl_agent_env.envs.countdown import CountdownEnv
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
    env = CountdownEnv(num_numbers=2, number_range=[5, 5], target_range=[7, 8], operators="*")
    with pytest.raises(InvalidEnvArgumentsError) as caught:
        env.reset(seed=1)
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
