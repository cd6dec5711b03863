"""The solver's answers are right, and it finds one whenever a search by brute force does."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cpu import assert_within
from tests.depth import examples
from verl_agent_env.envs.countdown.expression import Grammar, evaluate
from verl_agent_env.envs.countdown.puzzle import Puzzle
from verl_agent_env.envs.countdown.solver import PuzzleSearchLimitError, solve

operator_sets = st.sampled_from(["+-*/", "+-", "*/", "-", "/", "+*", "-/", "+"])


def reachable(numbers: tuple[Fraction, ...], operators: str, natural: bool, use_all: bool) -> set[Fraction]:
    """All values, by combining every pair in every way: slow and plain."""
    found: set[Fraction] = set()
    seen = set()
    stack = [tuple(sorted(numbers))]
    while stack:
        pool = stack.pop()
        if pool in seen:
            continue
        seen.add(pool)
        if len(pool) == 1 or not use_all:
            found.update(pool)
        for i, left in enumerate(pool):
            for j, right in enumerate(pool):
                if i == j:
                    continue
                rest = [value for k, value in enumerate(pool) if k not in (i, j)]
                results = {"+": left + right, "-": left - right, "*": left * right}
                if right != 0:
                    results["/"] = left / right
                for operator, result in results.items():
                    if operator in operators and (not natural or (result >= 0 and result.denominator == 1)):
                        stack.append(tuple(sorted([*rest, result])))
    return found


def assert_right(answer: str, puzzle: Puzzle, operators: str, use_all: bool, natural: bool) -> None:
    result = evaluate(answer, grammar=Grammar(operators=operators, signs="forbid"))
    assert result.value == puzzle.target
    missing = Counter(puzzle.numbers) - Counter(result.numbers)
    assert not Counter(result.numbers) - Counter(puzzle.numbers)
    assert not (use_all and missing)
    assert result.natural or not natural


@settings(max_examples=examples(60))
@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=4),
    operator_sets,
    st.booleans(),
    st.booleans(),
    st.integers(-30, 60),
)
def test_agrees_with_brute_force(
    numbers: list[int], operators: str, use_all: bool, natural: bool, target: int
) -> None:
    values = reachable(tuple(Fraction(number) for number in numbers), operators, natural, use_all)
    for wanted in [target, *sorted(int(value) for value in values if value.denominator == 1)[:20]]:
        puzzle = Puzzle(tuple(numbers), wanted)
        answer = solve(puzzle, operators=operators, use_all=use_all, natural=natural)
        assert (answer is not None) == (Fraction(wanted) in values)
        if answer is not None:
            assert_right(answer, puzzle, operators, use_all, natural)


# Five numbers and more are searched from the target backwards: another path than up to four.
@pytest.mark.parametrize("natural", [True, False])
@pytest.mark.parametrize("operators", ["+-*/", "-/", "+-", "*/"])
@pytest.mark.parametrize("numbers", [(1, 2, 3, 5, 7), (0, 0, 1, 2, 6), (4, 4, 4, 4, 4), (0, 3, 3, 8, 9)])
def test_five_numbers_agree_with_brute_force(numbers: tuple[int, ...], operators: str, natural: bool) -> None:
    values = reachable(tuple(Fraction(number) for number in numbers), operators, natural, use_all=True)
    for target in range(-15, 40):
        puzzle = Puzzle(numbers, target)
        answer = solve(puzzle, operators=operators, natural=natural)
        assert (answer is not None) == (Fraction(target) in values), target
        if answer is not None:
            assert_right(answer, puzzle, operators, True, natural)


@settings(max_examples=examples(40))
@given(
    st.lists(st.integers(1, 100), min_size=6, max_size=6), st.integers(100, 999), st.booleans(), st.booleans()
)
def test_answers_for_six_numbers_are_right(
    numbers: list[int], target: int, use_all: bool, natural: bool
) -> None:
    puzzle = Puzzle(tuple(numbers), target)
    answer = solve(puzzle, use_all=use_all, natural=natural)
    if answer is not None:
        assert_right(answer, puzzle, "+-*/", use_all, natural)


def test_known_puzzles_are_solved() -> None:
    # 3, 3, 8, 8 needs a fraction on the way to 24.
    assert solve(Puzzle((3, 3, 8, 8), 24)) is not None
    assert solve(Puzzle((3, 3, 8, 8), 24), natural=True) is None
    # A round of the television game that is known for its answer through 23,850.
    answer = solve(Puzzle((25, 50, 75, 100, 3, 6), 952), natural=True, use_all=False)
    assert answer is not None
    assert evaluate(answer).value == 952


def test_zero_divided_by_whatever_the_others_give_is_found() -> None:
    puzzle = Puzzle((0, 1, 2, 3, 4), 0)
    answer = solve(puzzle, operators="/")
    assert answer is not None
    assert_right(answer, puzzle, "/", True, False)


def test_fewest_numbers_are_used_when_not_all_are_needed() -> None:
    answer = solve(Puzzle((2, 3, 50, 7), 150), use_all=False)
    assert answer is not None
    assert sorted(evaluate(answer).numbers) == [3, 50]


def test_six_numbers_without_a_solution_take_well_under_a_second() -> None:
    puzzle = Puzzle((91, 87, 77, 64, 53, 98), 10**15 + 7)
    assert solve(puzzle) is None
    assert_within(1.0, lambda: solve(puzzle))


def test_too_many_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 8"):
        solve(Puzzle(tuple(range(9)), 5))


def test_search_stops_at_its_limit() -> None:
    with pytest.raises(PuzzleSearchLimitError):
        solve(Puzzle((91, 87, 77, 64, 53, 98), 10**15 + 7), max_steps=100)


@pytest.mark.parametrize("numbers", [(), (3, -1)])
def test_puzzle_without_usable_numbers_is_refused(numbers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="number"):
        Puzzle(numbers, 5)
