"""Every puzzle keeps its rules, is solvable, and is the same in every process."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.children import python
from tests.depth import examples
from verl_agent_env.envs.countdown.generator import (
    REASONING_GYM_RULES,
    TINYZERO_RULES,
    TWENTY_FOUR_RULES,
    InfeasibleRulesError,
    PuzzleRules,
    draw_puzzle,
    generate_puzzle,
)
from verl_agent_env.envs.countdown.solver import solve
from verl_agent_env.envs.rng import EpisodeRandom

RULES = {
    "default": PuzzleRules(),
    "tinyzero": TINYZERO_RULES,
    "reasoning_gym": REASONING_GYM_RULES,
    "twenty_four": TWENTY_FOUR_RULES,
    "some numbers": PuzzleRules((4, 6), (1, 100), (100, 999), use_all=False),
    "sums": PuzzleRules((3, 5), (0, 20), (-20, 40), "+-", natural=False),
}

SCRIPT = """
from verl_agent_env.envs.countdown.generator import PuzzleRules, TWENTY_FOUR_RULES, generate_puzzle
print([generate_puzzle(seed, rules) for seed in range(20) for rules in (PuzzleRules(), TWENTY_FOUR_RULES)])
"""


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=examples(25))
@given(seed=st.integers(0, 2**63))
def test_puzzle_keeps_its_rules_and_is_solvable(name: str, seed: int) -> None:
    rules = RULES[name]
    puzzle = generate_puzzle(seed, rules)
    assert rules.num_numbers[0] <= len(puzzle.numbers) <= rules.num_numbers[1]
    assert all(rules.number_range[0] <= number <= rules.number_range[1] for number in puzzle.numbers)
    assert rules.target_range[0] <= puzzle.target <= rules.target_range[1]
    assert puzzle.target not in puzzle.numbers
    answer = solve(puzzle, operators=rules.operators, use_all=rules.use_all, natural=rules.natural)
    assert answer is not None


def test_puzzles_are_the_same_whatever_the_hash_seed() -> None:
    printed = set()
    for hash_seed in ("0", "1", "4242"):
        done = python("-c", SCRIPT, variables={"PYTHONHASHSEED": hash_seed})
        assert done.returncode == 0, done.stderr
        printed.add(done.stdout)
    assert len(printed) == 1
    assert repr(generate_puzzle(0)) in printed.pop()


def test_puzzle_of_a_seed_never_changes() -> None:
    # Journals and data sets name puzzles by their seed: a change here breaks them.
    assert generate_puzzle(0).numbers == (2, 6, 9, 4, 8, 1)
    assert generate_puzzle(0).target == 43


def test_seeds_give_different_puzzles() -> None:
    assert len({generate_puzzle(seed) for seed in range(100)}) > 95


def test_one_generator_draws_one_puzzle_after_another() -> None:
    random = EpisodeRandom.from_seed(5)
    first, second = (draw_puzzle(random, PuzzleRules()) for _ in range(2))
    assert first == generate_puzzle(5)
    assert first != second


def test_trivial_puzzles_appear_only_when_they_are_allowed() -> None:
    rules = PuzzleRules((2, 2), (1, 3), (1, 3), allow_trivial=True)
    puzzles = [generate_puzzle(seed, rules) for seed in range(100)]
    assert any(puzzle.target in puzzle.numbers for puzzle in puzzles)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_numbers": (1, 3)},
        {"num_numbers": (3, 9)},
        {"num_numbers": (4, 3)},
        {"number_range": (-1, 5)},
        {"number_range": (5, 1)},
        {"target_range": (5, 1)},
        {"target_range": (0, 10**12)},
        {"operators": ""},
        {"operators": "+^"},
    ],
)
def test_rules_out_of_bounds_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        PuzzleRules(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_numbers": (2, 2), "number_range": (1, 9), "target_range": (82, 99)},
        {"operators": "+-", "target_range": (55, 99)},
        {"target_range": (-9, -1)},
    ],
)
def test_targets_beyond_reach_are_refused_at_once(arguments: dict[str, object]) -> None:
    with pytest.raises(InfeasibleRulesError, match="target_range"):
        PuzzleRules(**arguments)  # type: ignore[arg-type]


def test_rules_that_no_draw_can_meet_end_in_a_typed_error() -> None:
    rules = PuzzleRules((3, 3), (2, 2), (7, 7), "+*")
    with pytest.raises(InfeasibleRulesError, match="widen target_range"):
        generate_puzzle(0, rules)
