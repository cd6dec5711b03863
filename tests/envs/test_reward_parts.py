"""Rewards in parts: every environment names them on demand, they sum to the reward, and weights and penalties count."""

from __future__ import annotations

from typing import Any

import gymnasium
import pytest
from hypothesis import given
from hypothesis import strategies as st

import verl_agent_env  # noqa: F401 - registers the environments
from verl_agent_env.envs.registry import default_registry
from verl_agent_env.envs.reward_parts import LengthPenalty, RepetitionPenalty
from verl_agent_env.errors import InvalidEnvArgumentsError

LAKE: dict[str, Any] = {"desc": ["SFG"], "is_slippery": False, "invalid_action_reward": -0.2}
CALL = {"id": "1", "type": "function", "function": {"name": "move_right", "arguments": "{}"}}


def lake(reward_parts: dict[str, Any] | None, **kwargs: Any) -> Any:
    env = gymnasium.make("verl_env/frozen_lake-v1", **LAKE, **kwargs, reward_parts=reward_parts).unwrapped
    env.reset(seed=1)
    return env


def played(env: Any, *actions: Any) -> list[tuple[float, dict[str, float] | None]]:
    steps = [env.step(action) for action in actions]
    return [(step[1], step[4].get("reward_parts")) for step in steps]


def test_without_the_argument_nothing_is_said_of_parts() -> None:
    assert played(lake(None), "right", "what?", "right") == [(0.0, None), (-0.2, None), (1.0, None)]


def test_named_parts_sum_to_the_same_reward() -> None:
    assert played(lake({}), "right", "what?", "right") == [
        (0.0, {"task": 0.0}),
        (-0.2, {"task": 0.0, "invalid_action": -0.2}),
        (1.0, {"task": 1.0}),
    ]


def test_weights_count_for_each_part() -> None:
    parts = {"weights": {"task": 3, "invalid_action": 0.5}}
    assert played(lake(parts), "what?", "right", "right") == [
        (-0.1, {"task": 0.0, "invalid_action": -0.1}),
        (0.0, {"task": 0.0}),
        (3.0, {"task": 3.0}),
    ]


def test_several_moves_of_one_action_are_one_sum() -> None:
    env = lake({}, max_actions_per_turn=3)
    calls = [
        {"id": f"{number}", "type": "function", "function": {"name": name, "arguments": "{}"}}
        for number, name in enumerate(("move_right", "fly", "move_right"))
    ]
    reward, parts = played(env, {"role": "assistant", "content": "", "tool_calls": calls})[0]
    assert parts == {"task": 1.0, "invalid_action": -0.2}
    assert reward == 0.8


@pytest.mark.parametrize(
    "action",
    [
        "<think>aa</think>right",
        {"role": "assistant", "content": "<think>aa</think>right"},
        {"role": "assistant", "reasoning_content": "aaaaaaaa", "content": "", "tool_calls": [CALL]},
    ],
)
def test_penalties_look_at_all_that_was_written(action: Any) -> None:
    """Thoughts too, in whichever form the action came."""
    parts = {"length": {"free_chars": 2, "max_chars": 10, "penalty": -0.5}}
    ((reward, found),) = played(lake(parts), action)
    assert found == {"task": 0.0, "length": -0.5}
    assert reward == -0.5


def test_format_is_rewarded_where_the_text_has_it() -> None:
    parts = {"format": {"pattern": "<think>.*</think>.*", "reward": 0.1, "wrong_reward": -0.1}}
    assert played(lake(parts), "<think>\n</think>right", "right")[0][1] == {"task": 0.0, "format": 0.1}
    assert played(lake(parts), "right")[0][1] == {"task": 0.0, "format": -0.1}


def test_repetitions_are_penalized_by_their_share() -> None:
    penalty = RepetitionPenalty(words=2, penalty=-1)
    assert penalty.value("a b a b a b") == pytest.approx(-3 / 5)
    assert penalty.value("a b c d") == 0.0
    assert penalty.value("a") == 0.0
    assert penalty.value("") == 0.0


def test_length_is_free_at_first_and_never_costs_more_than_the_penalty() -> None:
    penalty = LengthPenalty(free_chars=10, max_chars=20, penalty=-2)
    assert [penalty.value("x" * length) for length in (0, 10, 15, 20, 1_000)] == [0, 0, -1, -2, -2]


@given(text=st.text(max_size=80))
def test_parts_always_sum_to_the_reward(text: str) -> None:
    parts = {
        "weights": {"task": 0.3, "length": 0.7},
        "format": {"pattern": "[a-z]+"},
        "length": {"free_chars": 3, "max_chars": 30, "penalty": -0.1},
        "repetition": {"words": 1, "penalty": -0.3},
    }
    for reward, found in played(lake(parts), text):
        assert found is not None
        assert sum(found.values()) == reward


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"weights": {"tsk": 1}}, "there is no part 'tsk'; there are: task, invalid_action"),
        ({"weights": {"length": 1}}, "there is no part 'length'"),
        ({"weights": {"task": float("nan")}}, "finite"),
        ({"length": {"free_chars": 5, "max_chars": 5}}, "free_chars must be below max_chars"),
        ({"format": {"pattern": "("}}, "not a pattern"),
        ({"repetition": {"words": 0}}, "greater than or equal to 1"),
        ({"judge": {}}, "Extra inputs"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(parts: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidEnvArgumentsError, match=said):
        lake(parts)


def test_steps_are_replayed_by_their_text_only_where_the_reward_depends_on_it() -> None:
    kind = default_registry().kind("frozen_lake")
    plain, in_parts = kind.validate(LAKE), kind.validate({**LAKE, "reward_parts": {}})
    assert kind.fitting(plain) is kind
    assert kind.reads_calls
    fitting = kind.fitting(in_parts)
    assert (fitting.execution, fitting.reads_calls) == ("inline", False)
    assert kind.fitting(kind.validate({**LAKE, "reward_parts": {"weights": {"task": 2}}})) is fitting
