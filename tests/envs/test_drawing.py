"""Arguments that only some seeds can satisfy: every seed gets an episode; what none can satisfy is refused for all of them."""

from __future__ import annotations

from typing import Any

import pytest

from verl_agent_env.envs.drawing import draw_or_go_on, first_of
from verl_agent_env.envs.frozen_lake import random_map
from verl_agent_env.envs.registry import default_registry
from verl_agent_env.envs.sokoban.solver import solve
from verl_agent_env.errors import InvalidEnvArgumentsError
from verl_agent_env.seeds import following_seed

SOME: dict[str, tuple[dict[str, Any], int]] = {
    "sokoban": ({"dim_room": [10, 10], "num_boxes": 4, "min_pushes": 30}, 12),
    "frozen_lake": ({"size": 8, "frozen_prob": 0.3, "is_slippery": False}, 4),
    "countdown": ({"num_numbers": [3, 3], "number_range": [1, 20], "target_range": [397, 397]}, 12),
}
"""By environment, arguments with which some seeds find nothing, and how many seeds to try."""
NONE: dict[str, dict[str, Any]] = {
    "sokoban": {"dim_room": [6, 6], "num_boxes": 1, "min_pushes": 60},
    "frozen_lake": {"size": 24, "frozen_prob": 0.05},
    "countdown": {"num_numbers": [2, 2], "number_range": [1, 9], "target_range": [83, 83]},
}


def begin(name: str, arguments: dict[str, Any], seed: int) -> Any:
    kind = default_registry().kind(name)
    env = kind.build(kind.validate(arguments))
    return env.reset(seed=seed)[0], env


def even(seed: int) -> int | None:
    return None if seed % 2 else seed


def test_a_seed_that_has_something_gets_it() -> None:
    assert draw_or_go_on(4, even, lambda: 0, tries=1) == 4


def test_a_seed_that_has_nothing_gets_that_of_one_that_follows() -> None:
    seed = next(seed for seed in range(1, 99, 2) if following_seed(seed) % 2 == 0)
    assert draw_or_go_on(seed, even, lambda: 0, tries=2) == following_seed(seed)


def test_a_seed_that_none_of_those_that_follow_can_help_gets_the_example() -> None:
    assert draw_or_go_on(5, lambda _: None, lambda: "example", tries=3) == "example"


def test_without_an_example_no_seed_gets_anything() -> None:
    assert draw_or_go_on(4, lambda seed: seed, lambda: None, tries=9) is None


def test_the_example_is_that_of_the_first_fixed_seed_that_has_one() -> None:
    assert first_of(lambda seed: seed if seed > 1 else None, tries=3) == 2
    assert first_of(lambda seed: seed if seed > 1 else None, tries=2) is None


@pytest.mark.parametrize("name", SOME)
def test_every_seed_begins_and_equal_seeds_begin_alike(name: str) -> None:
    arguments, seeds = SOME[name]
    shown = [begin(name, arguments, seed)[0] for seed in range(seeds)]
    assert shown[:3] == [begin(name, arguments, seed)[0] for seed in range(3)]
    assert len({str(observation) for observation in shown}) > 1


def test_some_of_these_seeds_have_no_map_of_their_own() -> None:
    maps = [random_map(8, 0.3, seed) for seed in range(4)]
    assert None in maps
    for seed, cells in enumerate(maps):
        if cells is not None:
            _, env = begin("frozen_lake", SOME["frozen_lake"][0], seed)
            assert env.dump_state()[0] == cells


def test_what_another_seed_gave_satisfies_the_arguments() -> None:
    arguments, seeds = SOME["sokoban"]
    for seed in range(seeds):
        _, env = begin("sokoban", arguments, seed)
        level = env._level_of({})
        solution = solve(level)
        assert solution is not None
        assert solution.pushes >= arguments["min_pushes"]


@pytest.mark.parametrize("name", NONE)
@pytest.mark.parametrize("seed", [0, 1, 77])
def test_what_no_seed_can_satisfy_is_refused_for_each(name: str, seed: int) -> None:
    with pytest.raises(InvalidEnvArgumentsError):
        begin(name, NONE[name], seed)
