"""Named presets: all of them play, and they are what users of other projects know."""

from __future__ import annotations

from typing import Any

import pytest

from verl_agent_env.envs import presets
from verl_agent_env.envs.base import ChatEnv
from verl_agent_env.envs.frozen_lake import FrozenLakeEnv
from verl_agent_env.envs.registry import default_registry
from verl_agent_env.envs.sokoban import SokobanEnv
from verl_agent_env.messages import action_schema

NAMES = [*presets.SOKOBAN, *presets.FROZEN_LAKE]


def built(name: str, **kwargs: Any) -> Any:
    kind = default_registry().kind(name)
    env = kind.build(kind.validate(kwargs))
    assert isinstance(env, ChatEnv)
    return env


def grid(env: Any) -> list[str]:
    return str(env.grid_text()).split("\n")


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_is_made_reset_and_played_to_its_end(name: str) -> None:
    env = built(name)
    first, _ = env.reset(seed=11)
    assert env.observation_space.contains(first)
    assert built(name).reset(seed=11)[0] == first
    env.action_space.seed(3)
    for number in range(1, env.arguments.max_steps + 1):
        action = env.action_space.sample()
        observation, _, terminated, truncated, info = env.step(action)
        assert env.observation_space.contains(observation)
        assert info["action_is_valid"] is True
        if terminated or truncated:
            assert truncated is (number == env.arguments.max_steps and not terminated)
            break
    assert env.ended


@pytest.mark.parametrize("name", NAMES)
def test_the_schema_of_arguments_has_the_presets_as_defaults(name: str) -> None:
    kind = default_registry().kind(name)
    properties = kind.arguments_schema()["properties"]
    assert {key: properties[key]["default"] for key in kind.presets} == kind.presets


@pytest.mark.parametrize(
    ("short", "rows", "columns", "boxes", "steps"),
    [
        ("sokoban_3box-v0", 10, 10, 3, 200),
        ("sokoban_small-v0", 7, 7, 2, 200),
        ("sokoban_large-v0", 13, 11, 3, 300),
        ("sokoban_huge-v0", 13, 13, 5, 300),
        ("sokoban_8x8-v0", 8, 8, 2, 120),
        ("sokoban_ragen-v0", 6, 6, 1, 10),
        ("sokoban_ragen_3box-v0", 6, 6, 3, 10),
        ("sokoban_gem_easy-v0", 6, 6, 2, 20),
        ("sokoban_gem_hard-v0", 8, 8, 4, 50),
        ("sokoban_verl_agent-v0", 6, 6, 1, 15),
    ],
)
def test_rooms_have_the_known_sizes(short: str, rows: int, columns: int, boxes: int, steps: int) -> None:
    env = built(short, cell_separator="")
    env.reset(seed=4)
    assert (len(grid(env)), len(grid(env)[0])) == (rows, columns)
    text = env.grid_text()
    assert text.count("X") + text.count("√") == boxes
    assert env.arguments.max_steps == steps


def test_gem_pays_for_success_only_and_ends_on_bad_format() -> None:
    env = built("sokoban_gem_easy-v0")
    env.reset(seed=1)
    rewards = []
    for action in env.solution():
        word = action["tool_calls"][0]["function"]["name"].removeprefix("push_")
        _, reward, terminated, _, _ = env.step(f"I go \\boxed{{{word}}}")
        rewards.append(reward)
    assert terminated
    assert rewards == [0.0] * (len(rewards) - 1) + [1.0]
    env.reset(seed=1)
    assert env.step("no idea")[1:3] == (-0.1, True)


def test_ragen_takes_five_moves_in_an_answer_and_ten_in_an_episode() -> None:
    env = built("sokoban_ragen-v0", room="######\n#@  ##\n# $ .#\n######")
    env.reset(seed=1)
    answer = "<think>…</think><answer>Down || Up || Down || Up || Right || Right</answer>"
    observation, reward, terminated, truncated, info = env.step(answer)
    assert (terminated, truncated, info["num_steps"]) == (False, False, 5)
    assert reward == pytest.approx(-0.5)
    assert "#_P_##\n#_X_O#" in observation[0]["content"]
    assert env.step("well")[1] == pytest.approx(-0.1)
    assert env.step("<answer>Left || Down || Right || Right</answer>")[1:3] == (pytest.approx(10.6), True)
    schema = action_schema(env.tools, parallel=env.allow_parallel_tool_calls)
    assert "move_" not in str(schema)


def test_verl_agent_sees_pictures_alone() -> None:
    env = built("sokoban_verl_agent-v0")
    env.reset(seed=1)
    observation, *_ = env.step("<think>…</think><action>left</action>")
    assert [part["type"] for part in observation[0]["content"]] == ["image_url"]


def test_lakes_of_gymnasium_are_its_maps_and_slippery() -> None:
    small, large = built("frozen_lake_gymnasium-v1"), built("frozen_lake_gymnasium_8x8-v1")
    assert isinstance(small, FrozenLakeEnv)
    small.reset(seed=1)
    large.reset(seed=1)
    assert grid(small) == ["P\tF\tF\tF", "F\tH\tF\tH", "F\tF\tF\tH", "H\tF\tF\tG"]
    assert len(grid(large)) == 8
    assert (small.arguments.max_steps, large.arguments.max_steps) == (100, 200)
    assert small.arguments.is_slippery
    assert large.arguments.is_slippery


def test_lakes_of_ragen_have_its_glyphs() -> None:
    env = built("frozen_lake_ragen-v1")
    seen: set[str] = set()
    for seed in range(60):
        env.reset(seed=seed)
        env.action_space.seed(seed)
        while not env.ended:
            env.step(env.action_space.sample())
            seen |= set(env.grid_text())
    assert seen == set("P_OGX√\n")
    env.reset(seed=0)
    assert env.step("hello")[1] == pytest.approx(-0.1)


def test_arguments_of_a_caller_win_over_the_preset() -> None:
    env = built("sokoban_small-v0", num_boxes=1)
    assert isinstance(env, SokobanEnv)
    assert (env.arguments.dim_room, env.arguments.num_boxes) == ((7, 7), 1)
