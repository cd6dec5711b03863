"""Puzzles: numbers and a target."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Puzzle:
    """Numbers to combine into ``target``.

    Raises:
        ValueError: No numbers, or a negative one (an expression cannot write it).
    """

    numbers: tuple[int, ...]
    """Numbers in the order in which they are shown; a number that occurs twice may be used twice."""
    target: int

    def __post_init__(self) -> None:
        if not self.numbers:
            raise ValueError("a puzzle needs at least one number")
        if min(self.numbers) < 0:
            raise ValueError("the numbers of a puzzle must not be negative")
