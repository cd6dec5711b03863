"""Each profile that is named after a project pays what the project's own function pays, for every text.

The functions are written anew here, from what the versions that the profiles name do.
"""

from __future__ import annotations

import ast
import contextlib
import math
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.depth import examples
from verl_agent_env.envs.countdown.puzzle import Puzzle
from verl_agent_env.envs.countdown.scoring import PROFILES, score
from verl_agent_env.envs.registry import default_registry

Number = int | float

_OPERATIONS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


class TooMuchError(BaseException):
    """A power that takes Python too long; no error that a source would catch."""


def python_value(text: str) -> Number:
    """What ``eval`` gives for arithmetic; it raises what that raises, or something else for other Python."""
    value: Number = _value(ast.parse(text.strip(), mode="eval").body)
    return value


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        operand = _value(node.operand)
        return -operand if isinstance(node.op, ast.USub) else operand
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Pow) and (abs(right) > 40 or abs(left) > 10**6):
            raise TooMuchError
        return _OPERATIONS[type(node.op)](left, right)
    raise TypeError("not arithmetic")


def digits_of(text: str) -> list[int]:
    return sorted(int(run) for run in re.findall(r"\d+", text))


def tinyzero(answer: str | None, numbers: Sequence[int], target: int) -> float:
    """No tags 0; else 0.1, and 1 for all numbers once and a value within 1e-5, of digits, signs and brackets only."""
    if answer is None:
        return 0.0
    if digits_of(answer) != sorted(numbers) or re.match(r"^[\d+\-*/().\s]+$", answer) is None:
        return 0.1
    with contextlib.suppress(Exception):
        if abs(python_value(answer) - target) < 1e-5:
            return 1.0
    return 0.1


def ragen(answer: str | None, numbers: Sequence[int], target: int) -> float:
    """No answer in the format -0.1; other digits 0; else 0.1, and 1 within 1e-5."""
    if answer is None or not answer.strip():
        return -0.1
    if digits_of(answer) != sorted(numbers):
        return 0.0
    with contextlib.suppress(Exception):
        if abs(python_value(answer) - target) < 1e-5:
            return 1.0
    return 0.1


def reasoning_gym(answer: str | None, numbers: Sequence[int], target: int) -> float:
    """No answer, or none that SymPy makes a float of, 0.01; else 0.05, and 1 for all numbers and a value that is close."""
    parse_expr = pytest.importorskip("sympy.parsing.sympy_parser").parse_expr
    if answer is None or not answer.strip():
        return 0.01
    with contextlib.suppress(Exception):
        value = float(parse_expr(answer))
        if math.isnan(value):
            # 0 / 0; here it has no value, as other divisions by zero there.
            return 0.01
        if sorted(map(int, re.findall(r"\b\d+\b", answer))) != sorted(numbers):
            return 0.05
        # numpy.isclose with atol=1e-6 and its own rtol.
        is_close = math.isfinite(value) and abs(value - target) <= 1e-6 + 1e-5 * abs(target)
        return 1.0 if is_close else 0.05
    return 0.01


SOURCES = {"tinyzero": tinyzero, "ragen": ragen, "reasoning_gym": reasoning_gym}
PUZZLES = [
    Puzzle((1, 2, 3), 9),
    Puzzle((4, 4, 3, 2), 24),
    Puzzle((1, 5), 6),
    Puzzle((8, 2), 4),
    Puzzle((9, 3, 10, 7), 100),
]

answers = st.one_of(
    st.none(),
    st.text("0123456789+-*/(). ", max_size=14).filter(lambda text: "**" not in text),
    st.lists(
        st.sampled_from(
            [*"12345", "10", "07", "1.5", "3.", ".5", *"+-*/+-*/", "//", "%", "**", *"()()", " ", "=", "x"]
        ),
        max_size=11,
    ).map("".join),
)


@st.composite
def combinations(draw: st.DrawFn) -> tuple[Puzzle, str]:
    """A puzzle, and its numbers joined by operators and brackets."""
    puzzle = draw(st.sampled_from(PUZZLES))
    parts = [str(number) for number in draw(st.permutations(puzzle.numbers))]
    while len(parts) > 1:
        at = draw(st.integers(0, len(parts) - 2))
        sign = draw(st.sampled_from(["+", "-", "*", "/", " + ", " * ", "//", "%", ".", "**"]))
        joined = f"{parts[at]}{sign}{parts[at + 1]}"
        parts[at : at + 2] = [f"({joined})" if draw(st.booleans()) else joined]
    return puzzle, parts[0]


@pytest.mark.parametrize("name", SOURCES)
@settings(max_examples=examples(60))
@given(answer=answers, puzzle=st.sampled_from(PUZZLES))
def test_profile_pays_what_its_source_pays_for_any_text(
    name: str, answer: str | None, puzzle: Puzzle
) -> None:
    assume(name == "tinyzero" or answer is None or answer.strip())
    # SymPy computes a power however large it is.
    assume(name != "reasoning_gym" or answer is None or "**" not in answer)
    try:
        paid = SOURCES[name](answer, puzzle.numbers, puzzle.target)
    except TooMuchError:
        assume(False)
    assert score(answer, puzzle, PROFILES[name]).reward == paid


@pytest.mark.parametrize("name", SOURCES)
@settings(max_examples=examples(60))
@given(combination=combinations())
def test_profile_pays_what_its_source_pays_for_the_right_numbers(
    name: str, combination: tuple[Puzzle, str]
) -> None:
    puzzle, answer = combination
    assume(name != "reasoning_gym" or "**" not in answer)
    try:
        paid = SOURCES[name](answer, puzzle.numbers, puzzle.target)
    except TooMuchError:
        assume(False)
    assert score(answer, puzzle, PROFILES[name]).reward == paid


WRITTEN = [
    *(
        "(1+2)*3",
        "1+2+3",
        "9",
        "3*3",
        "(1+2",
        "1+2*3)",
        "1/0",
        "1/(1+2-3)",
        "7//2+1",
        "2**3+1",
        "(1+2)*3=9",
        "9=(1+2)*3",
        "1.5*2",
    ),
    *(
        r"(1+2)\times 3",
        "(1+2)×3",
        "(1+2)x3",
        "(1 + 2) * 3 ",
        "The answer is (1+2)*3",
        "[1+2]*3",
        "1 2 3",
        "I give up",
        "１+２+３",
    ),
    *(
        "(1+2)*3.",
        "(1+2)*3,",
        "`(1+2)*3`",
        "3*(1+2)\n",
        "(1+\n2)*3",
        "9.0",
        "+1+2+3",
        "--1+2*3",
        "4**.5",
        "10%3",
    ),
    *(
        "(1+2)\n*3",
        '"(1+2)*3"',
        "**(1+2)*3**",
        "$(1+2)*3$",
        r"\boxed{(1+2)*3}",
        "(1+2)*3 || 1+2+3",
        'test_equation("(1+2)*3")',
        '{"name": "test_equation", "arguments": {"equation": "(1+2)*3"}}',
    ),
]


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("answer", WRITTEN)
def test_preset_pays_what_its_source_pays_for_what_stands_in_the_tags(name: str, answer: str) -> None:
    kind = default_registry().kind(f"countdown_{name}")
    env: Any = kind.build(kind.validate({"numbers": [1, 2, 3], "target": 9}))
    env.reset(seed=0)
    paid = env.step(f"<think>1+2+3</think><answer>{answer}</answer>")[1]
    assert paid == SOURCES[name](answer.strip(), (1, 2, 3), 9)


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("answer", WRITTEN)
def test_profile_pays_what_its_source_pays_for_what_models_write(name: str, answer: str) -> None:
    puzzle = Puzzle((1, 2, 3), 9)
    assert score(answer, puzzle, PROFILES[name]).reward == SOURCES[name](
        answer, puzzle.numbers, puzzle.target
    )


@pytest.mark.parametrize("name", SOURCES)
def test_profile_names_the_version_of_its_source(name: str) -> None:
    assert re.search(r" [0-9a-f]{7} \(\d{4}-\d\d-\d\d\), \S+\.py$", PROFILES[name].source)
