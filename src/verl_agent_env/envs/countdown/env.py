"""Countdown: combine the given numbers into the target."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import orjson
from pydantic import Field, model_validator

from verl_agent_env.envs.base import ChatEnv, EnvArguments, Execution
from verl_agent_env.envs.countdown.generator import InfeasibleRulesError, PuzzleRules, generate_puzzle
from verl_agent_env.envs.countdown.puzzle import Puzzle
from verl_agent_env.envs.countdown.scoring import PROFILES, ScoreProfile, VerdictKind, score
from verl_agent_env.envs.countdown.solver import MAX_NUMBERS, SearchLimitError, solve
from verl_agent_env.envs.turn import Outcome
from verl_agent_env.messages import Tool, ToolCall
from verl_agent_env.types import Action, Content

MAX_GIVEN_NUMBERS = 32
_MAX_MAGNITUDE = 10**9

_SOLVER_STEPS = 200_000

_Number = Annotated[int, Field(ge=0, le=_MAX_MAGNITUDE)]

_EQUATION_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "equation": {
            "type": "string",
            "description": "An expression of the given numbers, such as (1 + 2) * 3.",
            "examples": ["1 + 2 * 3", "(4 + 5) * 6 - 7", "9 / 3 + 8", "2 +", "1 / 0"],
        }
    },
    "required": ["equation"],
    "additionalProperties": False,
}


class CountdownArguments(EnvArguments):
    """Keyword arguments of Countdown."""

    max_steps: int = Field(default=1_000_000, ge=1, le=1_000_000)
    """Attempts after which the episode is truncated; the default stands for as many as one likes."""
    max_attempts: int | None = Field(default=None, ge=1)
    """Judged attempts after which the episode ends (``terminated``); any number when not given."""
    numbers: list[_Number] | None = Field(default=None, min_length=1, max_length=MAX_GIVEN_NUMBERS)
    """The numbers of a given puzzle, instead of a random one; ``target`` goes with them."""
    target: int | None = Field(default=None, ge=-_MAX_MAGNITUDE, le=_MAX_MAGNITUDE)
    """The target of a given puzzle."""
    num_numbers: int | tuple[int, int] = 6
    """How many numbers a random puzzle has, or the fewest and the most; from 2 to 8."""
    number_range: tuple[int, int] = (1, 9)
    """Smallest and largest number of a random puzzle."""
    target_range: tuple[int, int] = (1, 999)
    """Smallest and largest target of a random puzzle."""
    operators: str = Field(default="+-*/", min_length=1, max_length=4)
    """The operators that may be used, some of ``+ - * /``."""
    use_all: bool | None = None
    """Whether each number must be used exactly once, or at most once; as the score profile has it when not given."""
    natural: bool = True
    """Whether a random puzzle has a solution without fractions and negative numbers on the way."""
    allow_trivial: bool = False
    """Whether the target of a random puzzle may be one of its numbers."""
    score_profile: Literal["default", "seed_project", "tinyzero", "ragen", "reasoning_gym"] = "default"
    """What each kind of answer earns: 1 or 0 by default, or as another project has it."""
    scores: dict[VerdictKind, float] = Field(default_factory=dict)
    """Rewards that differ from the profile's, by kind of answer."""

    @model_validator(mode="after")
    def _check_puzzle(self) -> CountdownArguments:
        if (self.numbers is None) != (self.target is None):
            raise ValueError("numbers and target go together: give both or neither")
        _ = self.rules
        return self

    @functools.cached_property
    def profile(self) -> ScoreProfile:
        """What each kind of answer earns."""
        profile = PROFILES[self.score_profile]
        return dataclasses.replace(
            profile,
            **self.scores,  # type: ignore[arg-type]
            use_all=profile.use_all if self.use_all is None else self.use_all,
            grammar=dataclasses.replace(profile.grammar, operators=self.operators),
        )

    @functools.cached_property
    def rules(self) -> PuzzleRules:
        """What random puzzles look like."""
        count = self.num_numbers
        return PuzzleRules(
            num_numbers=(count, count) if isinstance(count, int) else count,
            number_range=self.number_range,
            target_range=self.target_range,
            operators=self.operators,
            use_all=self.profile.use_all,
            natural=self.natural,
            allow_trivial=self.allow_trivial,
        )


class CountdownEnv(ChatEnv):
    """Combine the given numbers with + - * / into an expression that equals the target.

    Arithmetic is exact. A random puzzle always has a solution.

    ## Action Space

    One tool, ``test_equation(equation)``. In plain text the expression itself does as well, alone or in ``<answer>``.

    ## Observation

    The numbers and the target; after an attempt, what the expression equals or why it does not count.

    ## Rewards

    1 for an expression that uses each number exactly once and equals the target, else 0. ``score_profile`` takes the
    rewards of another project, ``scores`` sets single ones.

    ## Episode End

    Terminated when the puzzle is solved (``success`` in the info) or after ``max_attempts``; any number of attempts by
    default. Truncated after ``max_steps``.

    ## Arguments

    See :class:`CountdownArguments`.
    """

    env_name = "verl_env/countdown-v0"
    Arguments: ClassVar[type[EnvArguments]] = CountdownArguments
    execution: ClassVar[Execution] = "inline"
    tools = (
        Tool(
            "test_equation", "Test whether an expression of the numbers equals the target.", _EQUATION_SCHEMA
        ),
    )
    arguments: CountdownArguments

    __slots__ = ("_attempts", "_puzzle")

    def task_prompt_text(self) -> str:
        count = (
            "each of the numbers exactly once"
            if self.arguments.profile.use_all
            else "each number at most once"
        )
        signs = " ".join(self.arguments.operators)
        return (
            f"Make an expression that equals the target. Use {count}, the operators {signs} and parentheses."
            " Call the tool test_equation with your expression, such as (1 + 2) * 3."
        )

    def begin_episode(self, options: Mapping[str, Any]) -> None:
        if options:
            raise self.invalid_arguments((["options"], "Countdown takes no options"))
        arguments = self.arguments
        if arguments.numbers is not None and arguments.target is not None:
            self._puzzle = Puzzle(tuple(arguments.numbers), arguments.target)
        else:
            try:
                self._puzzle = _puzzle_of(self.episode_seed, arguments.rules)
            except InfeasibleRulesError as infeasible:
                raise self.invalid_arguments((["target_range"], str(infeasible))) from None
        self._attempts = 0

    def look(self) -> Content:
        numbers = ", ".join(str(number) for number in self._puzzle.numbers)
        return f"Numbers: {numbers}\nTarget: {self._puzzle.target}"

    def act(self, call: ToolCall) -> Outcome:
        verdict = score(call.arguments["equation"], self._puzzle, self.arguments.profile)
        self._attempts += 1
        solved = verdict.kind == "correct"
        is_last = self.arguments.max_attempts is not None and self._attempts >= self.arguments.max_attempts
        return Outcome(
            verdict.message if verdict.kind != "malformed" else "",
            verdict.reward,
            terminated=solved or is_last,
            success=solved,
            effective=solved,
            fault=verdict.message if verdict.kind == "malformed" else None,
        )

    def call_from_word(self, word: str) -> ToolCall:
        return ToolCall("test_equation", {"equation": word})

    def idle_reward(self) -> float:
        return self.arguments.profile.no_answer

    def solution(self) -> list[Action] | None:
        """The call that solves the puzzle; ``None`` if there is none, or the solver gave up."""
        equation = self._solve()
        if equation is None:
            return None
        function = {"name": "test_equation", "arguments": orjson.dumps({"equation": equation}).decode()}
        return [
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "call_0", "type": "function", "function": function}],
            }
        ]

    def secrets(self) -> Sequence[str]:
        equation = self._solve()
        return () if equation is None else (equation,)

    def dump_state(self) -> Any:
        return [list(self._puzzle.numbers), self._puzzle.target, self._attempts]

    def load_state(self, state: Any) -> None:
        numbers, target, self._attempts = state
        self._puzzle = Puzzle(tuple(numbers), target)

    def _solve(self) -> str | None:
        if len(self._puzzle.numbers) > MAX_NUMBERS:
            return None
        arguments = self.arguments
        try:
            return solve(
                self._puzzle,
                operators=arguments.operators,
                use_all=arguments.profile.use_all,
                # What the generator promises; a given puzzle may need fractions.
                natural=arguments.natural and arguments.numbers is None,
                max_steps=_SOLVER_STEPS,
            )
        except SearchLimitError:
            return None


@functools.lru_cache(maxsize=1024)
def _puzzle_of(seed: int, rules: PuzzleRules) -> Puzzle:
    """The samples of one group share a seed: the cache gives them their puzzle for nothing."""
    return generate_puzzle(seed, rules)
