"""The Countdown environment: combine numbers to reach a target."""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import orjson
from pydantic import ValidationError

from verl_agent_env.envs.base import ChatEnv, EnvArguments, Execution
from verl_agent_env.envs.countdown.arguments import CountdownArguments, GivenPuzzle, example_of, fault_of
from verl_agent_env.envs.countdown.expression import holds_equation
from verl_agent_env.envs.countdown.generator import InfeasibleRulesError, PuzzleRules, generate_puzzle
from verl_agent_env.envs.countdown.puzzle import Puzzle
from verl_agent_env.envs.countdown.scoring import score
from verl_agent_env.envs.countdown.solver import DEFAULT_MAX_STEPS, PuzzleSearchLimitError, solve
from verl_agent_env.envs.drawing import draw_or_go_on
from verl_agent_env.envs.turn import Outcome
from verl_agent_env.messages import ParsedAction, Tool, ToolCall
from verl_agent_env.messages.reading import marked_text, strip_thoughts
from verl_agent_env.types import Action, Content

_TOOL = "test_equation"
_TEST_EQUATION = Tool(
    _TOOL,
    "Test an equation: says what it equals, and whether it solves the puzzle.",
    {
        "type": "object",
        "properties": {
            "equation": {
                "type": "string",
                "description": "An arithmetic expression of the given numbers, such as (1 + 2) * 3.",
                # Small numbers: some of these are legal, and none of them uses all of six numbers.
                "examples": ["(1 + 2) * 3", "8 / 4 - 1", "9 * 7 + 5", "6 * (5 - 3) + 2", "7 - 9 / (4 + 2)"],
            }
        },
        "required": ["equation"],
        "additionalProperties": False,
    },
)

_NO_EQUATION = (
    f"There is no equation. Call {_TOOL}, or write the equation alone, as in <answer>(1 + 2) * 3</answer>."
)
_BOXED_RESULT = re.compile(
    r"(?:=|≈|→)\s*\$*\s*\\boxed\s*\{\s*[0-9.]+\s*\}|\\boxed\s*\{\s*[0-9.]+\s*\}\s*\$*\s*="
)
_TRIES = 3
"""Seeds that are tried for one puzzle."""
_SEARCH_FOR_SECRETS = 200_000
_SEARCH_MS = 3_000.0
"""Milliseconds of the longest search for a puzzle."""
_EQUATION_CHAR_MS = 0.01
"""Milliseconds per character of an equation, at worst."""


class CountdownEnv(ChatEnv):
    """Combine numbers with arithmetic so that the result is the target.

    Random puzzles are always solvable. Or a puzzle is given: as the arguments ``numbers`` and ``target``, or, for one
    episode, as options of the same names of ``reset``. Arithmetic is exact; nothing is executed as code.

    ## Action Space

    One tool, ``test_equation(equation)``, with an expression such as ``(1 + 2) * 3``. In plain text the equation alone
    suffices, also in ``<answer>``, ``<action>`` or ``\\boxed{}``; ``||`` separates several, up to ``max_actions_per_turn``. It is
    read in all spellings (``\\left(1+2\\right)\\times 3 = 9``) and with words around it ("The answer is (1 + 2) * 3"). Text marked
    as an answer is an attempt even if it is no expression; plain text without an equation is not an attempt.

    ## Observation

    First the numbers and the target; then the value of the tested equation, or the reason why it does not count.

    ## Rewards

    1 for an equation of the given numbers that equals the target, 0 for any other; ``score_profile`` names the scores
    of other projects, which reward partial success too. An attempt earns only the amount by which its positive reward
    exceeds the best of the episode so far, so the rewards of an episode sum to that of its best attempt.

    ## Episode End

    Terminated when the puzzle is solved (``success`` in the info), or after ``max_attempts`` tested equations (unlimited
    by default; a turn without an equation does not count); truncated after ``max_steps`` moves (1,000,000).

    ## Arguments

    See :class:`CountdownArguments`.
    """

    env_name = "verl_env/countdown-v0"
    Arguments: ClassVar[type[EnvArguments]] = CountdownArguments
    execution: ClassVar[Execution] = "inline"
    tools = (_TEST_EQUATION,)
    arguments: CountdownArguments

    __slots__ = ("_attempts", "_earned", "_puzzle", "_solved")

    @classmethod
    def validate_arguments(cls, kwargs: Mapping[str, Any]) -> EnvArguments:
        """Validate keyword arguments; rules that allow no puzzle are rejected.

        Rules that need a long search are checked by :meth:`begin_episode` instead.
        """
        arguments = super().validate_arguments(kwargs)
        if isinstance(arguments, CountdownArguments) and not arguments.needs_search:
            cls._require_puzzles(arguments)
        return arguments

    @classmethod
    def cost_ms(cls, arguments: EnvArguments) -> float:
        if not isinstance(arguments, CountdownArguments):
            return super().cost_ms(arguments)
        turn_ms = arguments.max_actions_per_turn * arguments.max_equation_chars * _EQUATION_CHAR_MS
        return max(turn_ms, _SEARCH_MS if arguments.needs_search else 1.0)

    @classmethod
    def _require_puzzles(cls, arguments: CountdownArguments) -> None:
        """Check that the rules allow a puzzle.

        Raises:
            InvalidEnvArgumentsError: The rules allow no puzzle.
        """
        fault = None if arguments.given_puzzle is not None else fault_of(arguments.rules)
        if fault is not None:
            raise cls.invalid_arguments((["target_range"], fault))

    def task_prompt_text(self) -> str:
        arguments = self.arguments
        profile = arguments.profile
        natural = (
            " Every intermediate result must be a whole number and not negative." if profile.natural else ""
        )
        limit = f" You have {_counted(arguments.max_attempts)}." if arguments.max_attempts else ""
        return (
            f"Write an equation of the given numbers that equals the target. You may use {' '.join(arguments.operators)}"
            f" and parentheses, and each number {'exactly' if profile.use_all else 'at most'} once.{natural} Call the"
            f" tool {_TOOL} to test an equation; it tells what it equals.{limit}"
        )

    def begin_episode(self, options: Mapping[str, Any]) -> None:
        self._puzzle = self._puzzle_of(options)
        self._attempts = 0
        self._earned = 0.0
        self._solved = False

    def observe(self) -> Content:
        puzzle = self._puzzle
        shown = f"Numbers: {', '.join(map(str, puzzle.numbers))}\nTarget: {puzzle.target}"
        left = self._attempts_left() if self._attempts else ""
        return f"{shown}\n{left}" if left else shown

    def act(self, call: ToolCall) -> Outcome:
        verdict = score(call.arguments["equation"], self._puzzle, self.arguments.profile)
        self._attempts += 1
        self._solved = verdict.kind == "correct"
        lost = not self._solved and self._attempts == self.arguments.max_attempts
        left = "" if self._solved else self._attempts_left()
        # A malformed expression is an invalid action and still an attempt; the base class reports the fault.
        malformed = verdict.kind == "malformed"
        said = left if malformed else f"{verdict.message} {left}".strip()
        return Outcome(
            said,
            self._paid(verdict.reward),
            terminated=self._solved or lost,
            success=self._solved,
            effective=self._solved,
            fault=verdict.message if malformed else None,
        )

    def _calls_of(self, parsed: ParsedAction) -> list[ToolCall]:
        is_lenient = self.arguments.profile.grammar.notation == "lenient"
        if not is_lenient and parsed.is_marked:
            # The sources read the content of the mark as it is, with quotes and all.
            written = marked_text(strip_thoughts(parsed.text), parsed.form)
            if written:
                return [self.call_from_marked_word(written)]
        if is_lenient and parsed.form == "boxed" and _BOXED_RESULT.search(parsed.text):
            # "(1 + 2) * 3 = \\boxed{9}": the box holds the result of the equation.
            return [self.call_from_word(strip_thoughts(parsed.text))]
        return super()._calls_of(parsed)

    def call_from_marked_word(self, word: str) -> ToolCall:
        # A marked answer is an attempt even if it is no expression.
        return ToolCall(_TOOL, {"equation": word})

    def call_from_word(self, word: str) -> ToolCall:
        profile = self.arguments.profile
        if not holds_equation(word, profile.limits, profile.grammar):
            return ToolCall("", {}, None, _NO_EQUATION)
        return ToolCall(_TOOL, {"equation": word})

    def no_op_reward(self) -> float:
        return self.arguments.profile.no_answer

    def solution(self) -> list[Action] | None:
        """Return the call that solves the puzzle; ``None`` if there is none, or the solver reached its limit."""
        if self._solved:
            return []
        equation = None if self.ended else self._known_solution(DEFAULT_MAX_STEPS)
        return None if equation is None else [_call_with(equation)]

    def layout(self) -> Any:
        return ["countdown", sorted(self._puzzle.numbers), self._puzzle.target]

    def layout_arguments(self) -> dict[str, Any]:
        return {"numbers": list(self._puzzle.numbers), "target": self._puzzle.target}

    def difficulty(self) -> float | None:
        """Return how many numbers the puzzle has."""
        return float(len(self._puzzle.numbers))

    def sample_action(self, dice: random.Random) -> Action:
        """Sample an equation of all the numbers, with random order, operators and parentheses."""
        parts = [str(number) for number in self._puzzle.numbers]
        while len(parts) > 1:
            left, right = (parts.pop(dice.randrange(len(parts))) for _ in range(2))
            joined = f"{left} {dice.choice(self.arguments.operators)} {right}"
            parts.append(f"({joined})" if parts else joined)
        return _call_with(parts[0])

    def secrets(self) -> Sequence[str]:
        equation = self._known_solution(_SEARCH_FOR_SECRETS)
        # A single number is part of the observation, as a number and as the target.
        return () if equation is None or equation.isdigit() else (equation,)

    def dump_state(self) -> Any:
        puzzle = self._puzzle
        return [list(puzzle.numbers), puzzle.target, self._attempts, self._earned, self._solved]

    def load_state(self, state: Any) -> None:
        numbers, target, self._attempts, self._earned, self._solved = state
        self._puzzle = Puzzle(tuple(numbers), target)

    # --- inner workings -------------------------------------------------------------------------------------

    def _puzzle_of(self, options: Mapping[str, Any]) -> Puzzle:
        if options:
            try:
                given = GivenPuzzle.model_validate(dict(options))
            except ValidationError as invalid:
                faults = invalid.errors(include_url=False, include_context=False, include_input=False)
                raise self.invalid_arguments(
                    *((["options", *fault["loc"]], fault["msg"]) for fault in faults)
                ) from None
            return Puzzle(given.numbers, given.target)
        fixed = self.arguments.given_puzzle
        if fixed is not None:
            return fixed
        if self.arguments.needs_search:
            self._require_puzzles(self.arguments)
        try:
            return drawn_puzzle(self.episode_seed, self.arguments.rules)
        except InfeasibleRulesError as infeasible:
            raise self.invalid_arguments((["target_range"], str(infeasible))) from None

    def _paid(self, reward: float) -> float:
        """Return the reward of an attempt: of a positive score only the part above the episode's best."""
        if reward <= 0.0:
            return reward
        gain = max(0.0, reward - self._earned)
        self._earned = max(self._earned, reward)
        return gain

    def _attempts_left(self) -> str:
        most = self.arguments.max_attempts
        return "" if most is None else f"You have {_counted(most - self._attempts)} left."

    def _known_solution(self, max_steps: int) -> str | None:
        arguments = self.arguments
        profile = arguments.profile
        return known_solution(self._puzzle, arguments.operators, profile.use_all, profile.natural, max_steps)


@functools.lru_cache(maxsize=4096)
def drawn_puzzle(seed: int, rules: PuzzleRules) -> Puzzle:
    """Generate the puzzle of a seed, or of one that follows where there is none; cached, as the samples of a GRPO group share a seed.

    Raises:
        InfeasibleRulesError: The rules allow no puzzle, whatever the seed.
    """
    puzzle = draw_or_go_on(
        seed, lambda candidate: _puzzle(candidate, rules), lambda: example_of(rules), _TRIES
    )
    if puzzle is None:
        raise InfeasibleRulesError(fault_of(rules) or "")
    return puzzle


def _puzzle(seed: int, rules: PuzzleRules) -> Puzzle | None:
    try:
        return generate_puzzle(seed, rules)
    except InfeasibleRulesError:
        return None


@functools.lru_cache(maxsize=256)
def known_solution(
    puzzle: Puzzle, operators: str, use_all: bool, natural: bool, max_steps: int
) -> str | None:
    """Find an equation that solves ``puzzle``; ``None`` if there is none, or the solver reached its limit."""
    try:
        return solve(puzzle, operators=operators, use_all=use_all, natural=natural, max_steps=max_steps)
    except (PuzzleSearchLimitError, ValueError):
        # More numbers than the solver takes are a ValueError.
        return None


def _call_with(equation: str) -> Action:
    arguments = orjson.dumps({"equation": equation}).decode()
    call = {"id": "call_0", "type": "function", "function": {"name": _TOOL, "arguments": arguments}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def _counted(attempts: int) -> str:
    return "1 attempt" if attempts == 1 else f"{attempts} attempts"
