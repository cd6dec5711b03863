"""Exact solver: finds an expression that has the target as its value, or proves that there is none.

Values of small groups of numbers (up to four) are tabulated bottom-up. Larger groups are never enumerated: for each
split into a small and a large part, and each value of the small part, the value that the large part must have follows
from the target, and is looked up or searched for in turn. Groups are sorted tuples of numbers, so equal numbers are
not tried twice.

Rational values are pairs (numerator, denominator > 0) in lowest terms: several times as fast as ``Fraction``.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from math import gcd
from typing import TypeAlias

from verl_agent_env.envs.countdown.puzzle import Puzzle

MAX_NUMBERS = 8
"""Limit of the numbers of a puzzle: seven take a second at worst, eight may exceed ``max_steps``."""

DEFAULT_MAX_STEPS = 2_000_000
"""Pairs of values that one search may combine: some 12 s. Seven numbers never need as many."""

_TABULATED = 4

_Group: TypeAlias = "tuple[int, ...]"
_Value: TypeAlias = "tuple[int, int]"
_Tree: TypeAlias = "int | tuple[str, _Tree, _Tree]"

_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}


class PuzzleSearchLimitError(RuntimeError):
    """The search exceeded its limit without a result; raise ``max_steps`` or take fewer numbers."""


def solve(
    puzzle: Puzzle,
    *,
    operators: str = "+-*/",
    use_all: bool = True,
    natural: bool = False,
    max_steps: int = DEFAULT_MAX_STEPS,
) -> str | None:
    """Find an expression with the puzzle's target as its value; ``None`` if there is none.

    Args:
        puzzle: At most :data:`MAX_NUMBERS` numbers.
        operators: Those of ``+ - * /`` that may occur; an exponent is never tried.
        use_all: Each number exactly once; otherwise at most once, and the fewest numbers that suffice.
        natural: Intermediate results must be whole and not negative, as in the television game. Otherwise any
            rational will do. No sign is ever put in front of a number.
        max_steps: Pairs of values to combine, some microseconds each; the same on every machine.

    Raises:
        ValueError: Too many numbers.
        PuzzleSearchLimitError: The search exceeded ``max_steps``.
    """
    if len(puzzle.numbers) > MAX_NUMBERS:
        raise ValueError(f"the solver takes at most {MAX_NUMBERS} numbers")
    if natural and puzzle.target < 0:
        return None
    search = _Search(operators, natural, max_steps)
    numbers = tuple(sorted(puzzle.numbers))
    for size in [len(numbers)] if use_all else range(1, len(numbers) + 1):
        # Sorted numbers give sorted groups; dict.fromkeys drops equal ones and keeps the order.
        for group in dict.fromkeys(combinations(numbers, size)):
            tree = search.reach(group, (puzzle.target, 1))
            if tree is not None:
                return _render(tree)
    return None


class _Search:
    """Tables of one puzzle, and results for larger groups."""

    __slots__ = ("_dead_ends", "_natural", "_operators", "_splits", "_steps_left", "_tables")

    def __init__(self, operators: str, natural: bool, max_steps: int) -> None:
        self._operators = frozenset(operators)
        self._natural = natural
        self._steps_left = max_steps
        self._tables: dict[_Group, dict[_Value, _Tree]] = {}
        self._splits: dict[_Group, list[tuple[_Group, _Group]]] = {}
        self._dead_ends: set[tuple[_Group, _Value]] = set()

    def reach(self, group: _Group, target: _Value) -> _Tree | None:
        """Find an expression that uses each number of ``group`` once and has the value ``target``."""
        if len(group) <= _TABULATED:
            return self._table(group).get(target)
        key = (group, target)
        if key in self._dead_ends:
            return None
        for small, large in self._split(group):
            self._spend(len(self._table(small)))
            for value, tree in self._table(small).items():
                found = self._complete(tree, value, large, target)
                if found is not None:
                    return found
        self._dead_ends.add(key)
        return None

    def _complete(self, tree: _Tree, value: _Value, large: _Group, target: _Value) -> _Tree | None:
        """Solve ``value ∘ y = target`` and ``y ∘ value = target`` for a ``y`` that ``large`` can reach."""
        for operator, flipped, wanted in self._inverses(value, target):
            other = self.reach(large, wanted)
            if other is not None:
                return (operator, other, tree) if flipped else (operator, tree, other)
        if value[0] == 0 and target[0] == 0:
            return self._absorb(tree, large)
        return None

    def _absorb(self, zero: _Tree, large: _Group) -> _Tree | None:
        """Build ``0 * y`` or ``0 / y`` for any value ``y`` that the group can have."""
        if "*" in self._operators:
            product: _Tree = large[0]
            for number in large[1:]:
                product = ("*", product, number)
            return ("*", zero, product)
        if "/" in self._operators:
            for value, tree in self._table(large).items():
                if value[0] != 0:
                    return ("/", zero, tree)
        return None

    def _inverses(self, value: _Value, target: _Value) -> Iterator[tuple[str, bool, _Value]]:
        """Yield operator, whether the unknown is the left operand, and the unknown's value.

        The unknown is reached by legal steps only, so with ``natural`` it is enough that it is whole and not
        negative itself: ``target`` is, too.
        """
        a, b = value
        p, q = target
        candidates: list[tuple[str, bool, int, int]] = []
        if "+" in self._operators:
            candidates.append(("+", False, p * b - a * q, q * b))
        if "-" in self._operators:
            candidates.append(("-", True, p * b + a * q, q * b))
            candidates.append(("-", False, a * q - p * b, q * b))
        if a != 0 and "*" in self._operators:
            candidates.append(("*", False, p * b, q * a))
        if a != 0 and "/" in self._operators:
            candidates.append(("/", True, p * a, q * b))
            if p != 0:
                candidates.append(("/", False, a * q, b * p))
        for operator, flipped, numerator, denominator in candidates:
            wanted = _lowest(numerator, denominator)
            if not self._natural or (wanted[0] >= 0 and wanted[1] == 1):
                yield operator, flipped, wanted

    def _table(self, group: _Group) -> dict[_Value, _Tree]:
        """Tabulate every value that ``group`` can have, with one expression for each."""
        table = self._tables.get(group)
        if table is not None:
            return table
        table = {}
        if len(group) == 1:
            table[(group[0], 1)] = group[0]
        for small, large in self._split(group):
            self._spend(len(self._table(small)) * len(self._table(large)))
            for left, left_tree in self._table(small).items():
                for right, right_tree in self._table(large).items():
                    for operator, flipped, value in self._combine(left, right):
                        if value not in table:
                            pair = (right_tree, left_tree) if flipped else (left_tree, right_tree)
                            table[value] = (operator, *pair)
        self._tables[group] = table
        return table

    def _combine(self, left: _Value, right: _Value) -> list[tuple[str, bool, _Value]]:
        """Return all results of two values; the flag tells that the operands are swapped."""
        a, b = left
        c, d = right
        operators = self._operators
        results = []
        if "+" in operators:
            results.append(("+", False, _lowest(a * d + c * b, b * d)))
        if "*" in operators:
            results.append(("*", False, _lowest(a * c, b * d)))
        if "-" in operators:
            difference = _lowest(a * d - c * b, b * d)
            if difference[0] >= 0 or not self._natural:
                results.append(("-", False, difference))
            if difference[0] <= 0 or not self._natural:
                results.append(("-", True, (-difference[0], difference[1])))
        if "/" in operators:
            if c != 0 and (not self._natural or a % c == 0):
                results.append(("/", False, _lowest(a * d, b * c)))
            if a != 0 and (not self._natural or c % a == 0):
                results.append(("/", True, _lowest(c * b, d * a)))
        return results

    def _spend(self, steps: int) -> None:
        self._steps_left -= steps
        if self._steps_left < 0:
            raise PuzzleSearchLimitError("the search was stopped: raise max_steps or take fewer numbers")

    def _split(self, group: _Group) -> list[tuple[_Group, _Group]]:
        """Return the ways to split ``group`` in two, the first part never the larger one; equal ways once."""
        splits = self._splits.get(group)
        if splits is None:
            found: dict[tuple[_Group, _Group], None] = {}
            positions = range(len(group))
            for size in range(1, len(group) // 2 + 1):
                for chosen in combinations(positions, size):
                    small = tuple(group[i] for i in chosen)
                    large = tuple(group[i] for i in positions if i not in chosen)
                    if (large, small) not in found:
                        found[small, large] = None
            splits = self._splits[group] = list(found)
        return splits


def _lowest(numerator: int, denominator: int) -> _Value:
    if denominator == 1:
        return numerator, 1
    if denominator < 0:
        numerator, denominator = -numerator, -denominator
    divisor = gcd(numerator, denominator)
    return numerator // divisor, denominator // divisor


def _render(tree: _Tree) -> str:
    """Write ``tree`` as text, with no more parentheses than the parser needs."""
    if isinstance(tree, int):
        return str(tree)
    operator, left, right = tree
    left_text, right_text = _render(left), _render(right)
    if not isinstance(left, int) and _PRECEDENCE[left[0]] < _PRECEDENCE[operator]:
        left_text = f"({left_text})"
    if not isinstance(right, int):
        weaker = _PRECEDENCE[right[0]] < _PRECEDENCE[operator]
        # a - (b + c) and a / (b * c): what follows "-" or "/" keeps its parentheses.
        if weaker or (operator in "-/" and _PRECEDENCE[right[0]] == _PRECEDENCE[operator]):
            right_text = f"({right_text})"
    return f"{left_text} {operator} {right_text}"
