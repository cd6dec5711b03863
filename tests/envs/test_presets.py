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
        ("sokoban_ragen-v1", 6, 6, 1, 10),
        ("sokoban_ragen_3box-v0", 6, 6, 3, 10),
        ("sokoban_ragen_3box-v1", 6, 6, 3, 10),
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
    env = built("frozen_lake_ragen")
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


def test_lakes_of_ragen_are_as_they_are_now_and_the_former_ones_keep_their_version() -> None:
    for short, frozen, success, most in (
        ("frozen_lake_ragen", 0.9, 0.8, 2),
        ("frozen_lake_ragen-v2", 0.9, 0.8, 2),
        ("frozen_lake_ragen-v1", 0.8, 1 / 3, 5),
    ):
        arguments = built(short).arguments
        assert (arguments.frozen_prob, arguments.success_rate, arguments.is_slippery) == (
            frozen,
            success,
            True,
        )
        assert (arguments.size, arguments.max_steps, arguments.max_actions_per_turn) == (4, 10, most)
        assert f"at most {most} in an answer" in built(short).task_prompt()


def test_rooms_of_ragen_take_two_moves_in_an_answer_now() -> None:
    assert built("sokoban_ragen").arguments.max_actions_per_turn == 2
    assert built("sokoban_ragen_3box").arguments.max_actions_per_turn == 2
    assert "at most 2 in an answer" in built("sokoban_ragen").task_prompt()


def test_lake_of_ragen_slips_and_freezes_as_its_source_does() -> None:
    """As ``generate_random_map(size=4, p=0.9)`` and Gymnasium's lake with ``success_rate=0.8`` do."""
    env = built("frozen_lake_ragen")
    holes = meant = moves = 0
    for seed in range(1000):
        env.reset(seed=seed)
        cells = env.grid_text().replace("\n", "")
        holes += cells.count("O")
        row, column = divmod(cells.index("P"), 4)
        if row < 3 and 0 < column < 3:
            env.step("<answer>Down</answer>")
            moves += 1
            after = env.grid_text().replace("\n", "")
            at = next(place for place, glyph in enumerate(after) if glyph in "PX√")
            meant += at == 4 * (row + 1) + column
    # 14 cells of 16 are drawn, and lakes without a way are drawn anew.
    assert 0.08 < holes / (1000 * 14) < 0.12
    assert 0.7 < meant / moves < 0.9


@pytest.mark.parametrize("name", [name for name in presets.SOURCES if "ragen" in name or "countdown" in name])
def test_presets_of_changing_projects_name_their_source(name: str) -> None:
    assert default_registry().kind(name).name == name
    assert next(spec.source for spec in default_registry().specs() if spec.name == name)


def test_every_source_is_that_of_a_preset() -> None:
    assert set(presets.SOURCES) <= {*presets.SOKOBAN, *presets.FROZEN_LAKE, *presets.COUNTDOWN}


def test_arguments_of_a_caller_win_over_the_preset() -> None:
    env = built("sokoban_small-v0", num_boxes=1)
    assert isinstance(env, SokobanEnv)
    assert (env.arguments.dim_room, env.arguments.num_boxes) == ((7, 7), 1)
