"""Generator of solvable puzzles from a seed.

By construction: random numbers are combined at random, and the result is the target. For rules that random results
rarely meet, such as a target of exactly 24, the target is drawn too and the solver checks it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from verl_agent_env.envs.countdown.puzzle import Puzzle
from verl_agent_env.envs.countdown.solver import MAX_NUMBERS, PuzzleSearchLimitError, solve
from verl_agent_env.envs.rng import EpisodeRandom

_CONSTRUCTIONS = 200
_SEARCHES = 40
_MAX_SEARCH_STEPS = 10_000
MAX_MAGNITUDE = 10**9
_TRIALS = 32
_FITTING_TRIALS = 3
"""Share of random results that must fit: one in so many. Then ``_CONSTRUCTIONS`` trials practically never fail."""
_QUICK_NUMBERS = 4
"""Numbers that are searched exhaustively within a millisecond."""


class InfeasibleRulesError(ValueError):
    """No puzzle was found for the rules; the message says which rule to loosen."""


@dataclass(frozen=True, slots=True)
class PuzzleRules:
    """Rules of puzzles. The defaults are six numbers from 1 to 9, as in the first project of this name.

    Raises:
        ValueError: A range is empty or out of bounds, or an operator is unknown.
        InfeasibleRulesError: The target range lies beyond what the numbers can reach.
    """

    num_numbers: tuple[int, int] = (6, 6)
    """Fewest and most numbers, at most eight."""
    number_range: tuple[int, int] = (1, 9)
    """Smallest and largest number."""
    target_range: tuple[int, int] = (1, 999)
    """Smallest and largest target."""
    operators: str = "+-*/"
    """Operators of the solution, some of ``+ - * /``."""
    use_all: bool = True
    """True if the solution uses every number, else it may leave some over."""
    natural: bool = True
    """True if all intermediate results of the solution are whole and not negative, else any rationals."""
    allow_trivial: bool = False
    """True if the target may be one of the numbers."""

    def __post_init__(self) -> None:
        _check_range("num_numbers", self.num_numbers, 2, MAX_NUMBERS)
        _check_range("number_range", self.number_range, 0, MAX_MAGNITUDE)
        _check_range("target_range", self.target_range, -MAX_MAGNITUDE, MAX_MAGNITUDE)
        if not self.operators or not set(self.operators) <= set("+-*/"):
            raise ValueError("operators must be some of '+-*/'")
        self._check_reach()

    def _check_reach(self) -> None:
        """Reject rules that no numbers can satisfy, independent of the seed."""
        count, largest = self.num_numbers[1], self.number_range[1]
        # No operator gives more than a product of two numbers, or a sum if one of them is below two.
        bound = (
            max(largest, 2) ** count if "*" in self.operators or "/" in self.operators else largest * count
        )
        if self.target_range[0] > bound:
            raise InfeasibleRulesError(
                f"{count} numbers up to {largest} reach at most {bound}: lower target_range, raise number_range "
                "or num_numbers, or allow more operators"
            )
        lowest = -bound if "-" in self.operators and not self.natural else 0
        if self.target_range[1] < lowest:
            raise InfeasibleRulesError(
                f"results are never below {lowest} under these rules: raise target_range, or set natural to false "
                "and allow '-'"
            )


def generate_puzzle(seed: int, rules: PuzzleRules | None = None) -> Puzzle:
    """Generate the puzzle of ``seed`` (not negative), the same one in every process.

    Raises:
        InfeasibleRulesError: None was found within a fixed number of tries.
    """
    return draw_puzzle(EpisodeRandom.from_seed(seed), rules or PuzzleRules())


def draw_puzzle(random: EpisodeRandom, rules: PuzzleRules) -> Puzzle:
    """Draw the next puzzle from ``random``.

    Raises:
        InfeasibleRulesError: None was found within a fixed number of tries.
    """
    for _ in range(_CONSTRUCTIONS):
        numbers = _draw_numbers(random, rules)
        target = _combine_at_random(random, numbers, rules)
        if target is not None and _fits(target, numbers, rules):
            return Puzzle(numbers, target)
    for _ in range(_SEARCHES):
        numbers = _draw_numbers(random, rules)
        target = _between(random, rules.target_range)
        if _fits(target, numbers, rules) and _is_solvable(Puzzle(numbers, target), rules):
            return Puzzle(numbers, target)
    low, high = rules.target_range
    raise InfeasibleRulesError(
        f"no puzzle found whose target is from {low} to {high}: widen target_range, number_range or num_numbers, "
        "allow more operators, or set use_all or natural to false"
    )


@functools.lru_cache(maxsize=256)
def need_search(rules: PuzzleRules) -> bool:
    """Return true if puzzles of these rules may need a search, which takes seconds if there are none."""
    if rules.num_numbers[1] <= _QUICK_NUMBERS:
        return False
    random = EpisodeRandom.from_seed(0)
    fitting = 0
    for _ in range(_TRIALS):
        numbers = _draw_numbers(random, rules)
        target = _combine_at_random(random, numbers, rules)
        fitting += target is not None and _fits(target, numbers, rules)
    return fitting < _FITTING_TRIALS


def _is_solvable(puzzle: Puzzle, rules: PuzzleRules) -> bool:
    """Return true if the solver finds a solution within few steps."""
    try:
        answer = solve(
            puzzle,
            operators=rules.operators,
            use_all=rules.use_all,
            natural=rules.natural,
            max_steps=_MAX_SEARCH_STEPS,
        )
    except PuzzleSearchLimitError:
        return False
    return answer is not None


def _draw_numbers(random: EpisodeRandom, rules: PuzzleRules) -> tuple[int, ...]:
    count = _between(random, rules.num_numbers)
    return tuple(_between(random, rules.number_range) for _ in range(count))


def _combine_at_random(random: EpisodeRandom, numbers: tuple[int, ...], rules: PuzzleRules) -> int | None:
    """Combine ``numbers`` at random into a whole number; ``None`` if the draw fails.

    Every intermediate result is whole, even if the rules allow fractions; it may be negative if they allow it.
    """
    pool = list(numbers)
    random.shuffle(pool)
    if not rules.use_all:
        # At least two, so that the solution has an operator.
        del pool[2 + random.randrange(len(pool) - 1) :]
    while len(pool) > 1:
        left = pool.pop(random.randrange(len(pool)))
        right = pool.pop(random.randrange(len(pool)))
        results = []
        for operator in rules.operators:
            result = _apply(operator, left, right, rules.natural)
            if result is not None:
                results.append(result)
        if not results:
            return None
        pool.append(random.choice(results))
    return pool[0]


def _apply(operator: str, left: int, right: int, natural: bool) -> int | None:
    if operator == "+":
        return left + right
    if operator == "*":
        return left * right
    if operator == "-":
        return None if natural and left < right else left - right
    return None if right == 0 or left % right else left // right


def _fits(target: int, numbers: tuple[int, ...], rules: PuzzleRules) -> bool:
    low, high = rules.target_range
    return low <= target <= high and (rules.allow_trivial or target not in numbers)


def _between(random: EpisodeRandom, bounds: tuple[int, int]) -> int:
    """Draw a number between two bounds, both included."""
    low, high = bounds
    return low + random.randrange(high - low + 1)


def _check_range(name: str, bounds: tuple[int, int], lowest: int, highest: int) -> None:
    if not lowest <= bounds[0] <= bounds[1] <= highest:
        raise ValueError(f"{name} must be a range (low, high) between {lowest} and {highest}")


TINYZERO_RULES = PuzzleRules((3, 4), (1, 99), (10, 100), natural=False)
"""Rules of the data set of TinyZero: three or four numbers, all of them used."""
RAGEN_RULES = PuzzleRules((3, 4), (1, 99), (10, 100), operators="+-", natural=False)
"""Rules of the part of that data set that RAGEN keeps (``has_solution`` in ``ragen/env/countdown/env.py``): solved by sums
and differences."""
REASONING_GYM_RULES = PuzzleRules((4, 6), (1, 100), (100, 999), natural=False, allow_trivial=True)
"""Ranges of ``CountdownConfig`` in reasoning-gym (``reasoning_gym/games/countdown.py``)."""
TWENTY_FOUR_RULES = PuzzleRules((4, 4), (1, 13), (24, 24), natural=False)
"""Rules of the game of 24: four cards."""
