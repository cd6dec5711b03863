"""Demonstrations: actions that an environment takes, and shortest ways over the ice."""

from __future__ import annotations

from typing import Any

import pytest

from verl_agent_env.envs.demonstrations import actions_of_calls
from verl_agent_env.envs.frozen_lake import FrozenLakeEnv
from verl_agent_env.messages import parse_action


def test_each_tool_becomes_one_call_in_one_message() -> None:
    actions = actions_of_calls(["move_up", "move_left"])
    assert [parse_action(action).calls[0].name for action in actions] == ["move_up", "move_left"]
    assert [parse_action(action).calls[0].id for action in actions] == ["call_0", "call_1"]
    assert all(FrozenLakeEnv.action_space.contains(action) for action in actions)


@pytest.mark.parametrize("seed", range(20))
def test_a_lake_is_crossed_by_its_solution(seed: int) -> None:
    env = FrozenLakeEnv(size=8, random_start_and_goal=True)
    env.reset(seed=seed)
    actions = env.solution()
    assert actions
    for action in actions:
        assert not env.ended
        *_, info = env.step(action)
    assert info["success"] is True
    assert env.solution() == []


def test_the_way_over_the_ice_is_a_shortest_one() -> None:
    env = FrozenLakeEnv(map_name="4x4")
    env.reset(seed=0)
    actions = env.solution()
    assert actions is not None
    assert len(actions) == 6


@pytest.mark.parametrize(
    "kwargs", [{"map_name": "4x4", "is_slippery": True}, {"desc": ["SHG"]}, {"desc": ["SHG", "FFH"]}]
)
def test_slippery_ice_and_shut_in_goals_have_no_solution(kwargs: dict[str, Any]) -> None:
    env = FrozenLakeEnv(**kwargs)
    env.reset(seed=0)
    assert env.solution() is None


def test_who_fell_into_a_hole_has_no_solution() -> None:
    env = FrozenLakeEnv(desc=["SHG", "FFF"])
    env.reset(seed=0)
    env.step("right")
    assert env.solution() is None
