"""FrozenLake against Gymnasium's own, step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv as Reference
from gymnasium.envs.toy_text.frozen_lake import generate_random_map

from verl_agent_env.envs.frozen_lake import MAPS, FrozenLakeArguments, FrozenLakeEnv, random_map
from verl_agent_env.errors import InvalidEnvArgumentsError

WORDS = ("left", "down", "right", "up")
SEVERAL_STARTS = ["SFSF", "FHFS", "SFFF", "HFFG"]


def started(**kwargs: Any) -> FrozenLakeEnv:
    env = FrozenLakeEnv(include_task_prompt=False, **kwargs)
    env.reset(seed=3)
    return env


def position(env: FrozenLakeEnv) -> int:
    row, column = env.player_cell()
    return row * len(env.glyph_rows()[0]) + column


def text(observation: Any) -> str:
    [message] = observation
    return str(message["content"])


# --- dynamics -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("desc", [MAPS["4x4"], MAPS["8x8"], SEVERAL_STARTS, ["SFHG", "FFFF"], ["SF", "HG"]])
@pytest.mark.parametrize(
    ("is_slippery", "success_rate"), [(False, 1 / 3), (True, 1 / 3), (True, 0.8), (True, 0.0), (True, 1.0)]
)
@pytest.mark.parametrize("reward_schedule", [(1, 0, 0), (5.5, -3, -0.25)])
def test_episodes_equal_gymnasiums(
    desc: list[str], is_slippery: bool, success_rate: float, reward_schedule: tuple[float, float, float]
) -> None:
    options: dict[str, Any] = {"is_slippery": is_slippery, "success_rate": success_rate}
    reference = Reference(desc=list(desc), reward_schedule=reward_schedule, **options)  # type: ignore[arg-type]
    env = FrozenLakeEnv(desc=list(desc), reward_schedule=reward_schedule, max_steps=1000, **options)
    num_ended = 0
    for seed in range(12):
        actions = np.random.default_rng(seed).integers(4, size=60).tolist()
        expected, _ = reference.reset(seed=seed)
        env.reset(seed=seed)
        assert position(env) == expected
        for action in actions:
            before = position(env)
            expected, reward, terminated, truncated, _ = reference.step(action)  # type: ignore[no-untyped-call]
            _, got, ended, cut, info = env.step(WORDS[action])
            assert (position(env), got, ended, cut) == (expected, reward, terminated, truncated)
            assert info["success"] is (ended and got == reward_schedule[0])
            assert info["action_is_effective"] is (position(env) != before)
            if ended:
                num_ended += 1
                break
    assert num_ended > 0 or success_rate == 0.0


@pytest.mark.parametrize(
    ("size", "frozen_prob"), [(2, 0.5), (4, 0.8), (8, 0.8), (8, 0.6), (13, 0.7), (5, 1.0)]
)
def test_random_maps_equal_gymnasiums(size: int, frozen_prob: float) -> None:
    env = FrozenLakeEnv(
        size=size, frozen_prob=frozen_prob, cell_separator="", glyphs={"start": "S", "player": "S"}
    )
    for seed in range(40):
        expected = generate_random_map(size, frozen_prob, seed)
        env.reset(seed=seed)
        assert env.grid_text().split("\n") == expected


@pytest.mark.parametrize("name", ["4x4", "8x8"])
def test_named_maps_are_gymnasiums(name: str) -> None:
    from gymnasium.envs.toy_text.frozen_lake import MAPS as REFERENCE_MAPS

    assert list(MAPS[name]) == REFERENCE_MAPS[name]


def test_random_ends_are_apart_and_connected() -> None:
    starts = set()
    for seed in range(100):
        cells = random_map(4, 0.6, seed, True)
        assert cells is not None
        assert (cells.count("S"), cells.count("G")) == (1, 1)
        starts.add(cells.index("S"))
        assert FrozenLakeEnv(desc=[cells[i : i + 4] for i in range(0, 16, 4)]) is not None
    assert len(starts) > 10


def test_every_random_map_has_a_way() -> None:
    env = FrozenLakeEnv(size=6, frozen_prob=0.55, random_start_and_goal=True)
    for seed in range(50):
        env.reset(seed=seed)
        assert env.solution() is not None


def test_map_that_is_not_found_is_refused_and_the_episode_goes_on() -> None:
    env = FrozenLakeEnv(size=64, frozen_prob=0.01)
    with pytest.raises(InvalidEnvArgumentsError) as caught:
        env.reset(seed=1)
    assert caught.value.errors[0]["loc"] == ["frozen_prob"]


def test_seed_determines_the_map_in_every_instance() -> None:
    assert started().grid_text() == started().grid_text()
    assert len({FrozenLakeEnv().reset(seed=seed)[0][0]["content"] for seed in range(10)}) == 10


def test_time_limit_truncates_and_an_end_at_the_limit_terminates() -> None:
    env = started(desc=["SFG"], max_steps=2)
    assert env.step("left")[2:4] == (False, False)
    assert env.step("left")[2:4] == (False, True)
    env.reset(seed=3)
    env.step("right")
    assert env.step("right")[1:4] == (1.0, True, False)


def test_options_are_refused() -> None:
    env = started(desc=["SFG"])
    env.step("right")
    with pytest.raises(InvalidEnvArgumentsError):
        env.reset(options={"x": 1})
    assert position(env) == 1


@pytest.mark.parametrize(
    "kwargs",
    [
        *({"desc": ["SF", "G"]}, {"desc": ["SXG"]}, {"desc": ["FFG"]}, {"desc": ["SFF"]}, {"desc": []}),
        *({"desc": [""]}, {"desc": ["S" + "F" * 64 + "G"]}, {"desc": ["SG"], "map_name": "4x4"}),
        *({"map_name": "5x5"}, {"size": 1}, {"size": 65}, {"frozen_prob": 0}, {"frozen_prob": 1.1}),
        *({"success_rate": -0.1}, {"reward_schedule": [1, 0]}, {"reward_schedule": [1, 0, float("inf")]}),
    ],
)
def test_impossible_lakes_are_refused(kwargs: dict[str, Any]) -> None:
    with pytest.raises(InvalidEnvArgumentsError):
        FrozenLakeEnv(**kwargs)


# --- how it looks -------------------------------------------------------------------------------------------


def test_first_observation_is_prompt_and_map() -> None:
    env = FrozenLakeEnv(desc=["SF", "HG"])
    observation, info = env.reset(seed=9)
    assert text(observation) == f"{env.task_prompt()}\n\nP\tF\nH\tG"
    assert info == {"seed": 9}


def test_each_glyph_is_an_argument() -> None:
    glyphs = {"player": "1", "start": "2", "frozen": "3", "hole": "4", "goal": "5"}
    env = started(desc=["SFHG"], glyphs=glyphs, cell_separator="")
    assert env.grid_text() == "1345"
    assert text(env.step("right")[0]) == "2145"
    assert text(env.step("right")[0]) == "2315"


@pytest.mark.parametrize(("moves", "shown"), [(["down"], "S X G"), (["right"], "√ H S")])
def test_player_in_a_hole_or_on_the_goal_may_look_different(moves: list[str], shown: str) -> None:
    glyphs = {"start": "S", "player_on_hole": "X", "player_on_goal": "√"}
    env = started(desc=["SG", "HF"] if moves == ["down"] else ["SG"], glyphs=glyphs, cell_separator="")
    seen = text(env.step(moves[0])[0])
    assert ("X" in seen) is (moves == ["down"])
    assert ("√" in seen) is (moves == ["right"])


def test_wide_glyphs_show_the_same_as_narrow_ones() -> None:
    narrow = started(map_name="4x4", cell_separator=" ")
    wide = started(map_name="4x4", cell_separator=" ", glyphs={"player": "[P]"})
    for word in ("down", "down", "right", "left"):
        assert text(wide.step(word)[0]).replace("[P]", "P") == text(narrow.step(word)[0])


def test_prompt_tells_of_slipping_only_where_it_slips() -> None:
    assert "slippery" in started(is_slippery=True).task_prompt()
    assert "slippery" not in started().task_prompt()


def test_slip_chances_add_up() -> None:
    thresholds = FrozenLakeArguments(success_rate=0.7).slip_thresholds
    assert thresholds == pytest.approx((0.15, 0.85, 1.0))
