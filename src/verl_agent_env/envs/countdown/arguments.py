"""Keyword arguments of Countdown."""

from __future__ import annotations

import dataclasses
import functools
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from verl_agent_env.envs.base import EnvArguments
from verl_agent_env.envs.countdown.expression import Grammar, Limits, Signs
from verl_agent_env.envs.countdown.generator import (
    MAX_MAGNITUDE,
    InfeasibleRulesError,
    PuzzleRules,
    generate_puzzle,
    need_search,
)
from verl_agent_env.envs.countdown.puzzle import Puzzle
from verl_agent_env.envs.countdown.scoring import PROFILES, ScoreProfile, VerdictKind
from verl_agent_env.envs.countdown.tokens import Notation

MAX_GIVEN_NUMBERS = 32
_QUICK_TRIALS = 4
"""Seeds that are tried before rules count as impossible, where a trial takes milliseconds."""

_Number = Annotated[int, Field(ge=0, le=MAX_MAGNITUDE)]
_Target = Annotated[int, Field(ge=-MAX_MAGNITUDE, le=MAX_MAGNITUDE)]


class GivenPuzzle(BaseModel):
    """Options of ``reset``: a puzzle from a data set."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    numbers: Annotated[tuple[_Number, ...], Field(min_length=1, max_length=MAX_GIVEN_NUMBERS, fail_fast=True)]
    target: _Target


class CountdownArguments(EnvArguments):
    """Keyword arguments of Countdown."""

    max_steps: int = Field(default=1_000_000, ge=1, le=1_000_000)
    """Moves after which the episode is truncated; a turn without a valid move counts as one. The default,
    also the largest value, amounts to no limit."""
    max_attempts: int | None = Field(default=None, ge=1, le=1_000_000)
    """Tested equations after which the puzzle is lost (``terminated``); unlimited by default."""
    numbers: (
        Annotated[tuple[_Number, ...], Field(min_length=1, max_length=MAX_GIVEN_NUMBERS, fail_fast=True)]
        | None
    ) = None
    """Given numbers instead of random ones, with ``target``. Solvability is not checked."""
    target: _Target | None = None
    """Target of given ``numbers``."""
    num_numbers: int | tuple[int, int] = 6
    """How many numbers a random puzzle has, or the fewest and the most; from 2 to 8."""
    number_range: tuple[_Number, _Number] = (1, 9)
    """Smallest and largest number of a random puzzle."""
    target_range: tuple[_Target, _Target] = (1, 999)
    """Smallest and largest target of a random puzzle."""
    operators: str = Field(default="+-*/", min_length=1, max_length=4)
    """Operators that an answer may use, some of ``+-*/``."""
    puzzle_operators: str | None = Field(default=None, min_length=1, max_length=4)
    """Operators that suffice to solve each random puzzle; by default ``operators``."""
    use_all: bool | None = None
    """True if an answer must use each number exactly once, false for at most once. By default the rule of the score
    profile: true for all but ``reasoning_gym_v0``."""
    natural_answers: bool = False
    """True if all intermediate results of an answer must be whole and not negative, as in the television game."""
    all_numbers_needed: bool = True
    """True if each random puzzle has a solution with all of its numbers, even if answers may use fewer."""
    natural: bool = True
    """True if each random puzzle has a solution without fractions and negative numbers, even if answers may use them."""
    allow_trivial: bool = False
    """True if the target of a random puzzle may be one of its numbers."""
    score_profile: Literal[
        "default",
        "seed_project",
        "tinyzero",
        "ragen",
        "reasoning_gym",
        "tinyzero_v0",
        "ragen_v0",
        "reasoning_gym_v0",
    ] = "default"
    """Rewards by kind of answer: 1 or 0 by default, or those of another project. A name with a version gives the rewards
    that former versions of this environment paid under the name."""
    scores: dict[VerdictKind, float] = Field(default_factory=dict)
    """Rewards that differ from the profile's, by kind of answer."""
    tolerance: float | None = Field(default=None, ge=0.0)
    """Distance allowed between value and target. By default that of the score profile; arithmetic is exact."""
    notation: Notation | None = None
    """Notation of answers: as models write (``lenient``), or Python's arithmetic alone (``python``). By default that of the
    score profile."""
    signs: Signs = "anywhere"
    """Places where an answer may have a sign before a number or a parenthesis."""
    allow_result: bool | None = None
    """True if an answer may be an equation whose other side, such as ``= 24``, is ignored. By default the rule of the score
    profile; always false for the notation ``python``."""
    max_equation_chars: int = Field(default=256, ge=128, le=4096)
    """Length of an expression; a longer one is malformed."""

    @model_validator(mode="after")
    def _check_puzzle(self) -> CountdownArguments:
        if (self.numbers is None) != (self.target is None):
            raise ValueError("give numbers and target together, or neither")
        if not set(self.puzzle_operators or "") <= set(self.operators):
            raise ValueError("puzzle_operators must be some of the operators")
        _ = self.rules
        return self

    @property
    def given_puzzle(self) -> Puzzle | None:
        """Puzzle of ``numbers`` and ``target``; ``None`` if puzzles are random."""
        if self.numbers is None or self.target is None:
            return None
        return Puzzle(self.numbers, self.target)

    @property
    def needs_search(self) -> bool:
        """True if a reset may search for a puzzle for seconds."""
        return self.given_puzzle is None and need_search(self.rules)

    @functools.cached_property
    def rules(self) -> PuzzleRules:
        """Rules of random puzzles.

        Raises:
            ValueError: The ranges are empty, or no numbers can reach a target.
        """
        count = self.num_numbers
        return PuzzleRules(
            num_numbers=(count, count) if isinstance(count, int) else count,
            number_range=self.number_range,
            target_range=self.target_range,
            operators=self.puzzle_operators or self.operators,
            # A puzzle must have a solution that the rules for answers allow.
            use_all=self.all_numbers_needed or self.profile.use_all,
            natural=self.natural or self.natural_answers,
            allow_trivial=self.allow_trivial,
        )

    @functools.cached_property
    def profile(self) -> ScoreProfile:
        """Score profile with the changes that the other arguments make."""
        known = PROFILES[self.score_profile]
        grammar = known.grammar
        scores: dict[str, Any] = {kind: reward for kind, reward in self.scores.items()}  # noqa: C416
        return dataclasses.replace(
            known,
            **scores,
            use_all=known.use_all if self.use_all is None else self.use_all,
            natural=self.natural_answers,
            tolerance=known.tolerance if self.tolerance is None else self.tolerance,
            rel_tolerance=known.rel_tolerance if self.tolerance is None else 0.0,
            grammar=Grammar(
                operators=self.operators,
                signs=self.signs,
                allow_result=grammar.allow_result if self.allow_result is None else self.allow_result,
                notation=grammar.notation if self.notation is None else self.notation,
                # Explicitly named operators exclude all others.
                more_operators=grammar.more_operators if self.operators == "+-*/" else frozenset(),
            ),
            limits=Limits(max_chars=self.max_equation_chars),
        )


def fault_of(rules: PuzzleRules) -> str | None:
    """Return why these rules allow no puzzle, after a few trials; takes seconds if they need a search, else milliseconds."""
    found = _example(rules)
    return found if isinstance(found, str) else None


def example_of(rules: PuzzleRules) -> Puzzle | None:
    """Return a puzzle that these rules allow, always the same one; ``None`` if they allow none."""
    found = _example(rules)
    return None if isinstance(found, str) else found


@functools.lru_cache(maxsize=256)
def _example(rules: PuzzleRules) -> Puzzle | str:
    fault = ""
    for seed in range(1 if need_search(rules) else _QUICK_TRIALS):
        try:
            return generate_puzzle(seed, rules)
        except InfeasibleRulesError as infeasible:
            fault = fault or str(infeasible)
    return fault
