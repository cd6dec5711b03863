"""Which answers are given to SymPy's parser, which evaluates what it is given."""

from __future__ import annotations

import pytest

from verl_agent_env.envs.catalogue.reasoning_gym.formulas import is_small_formula


@pytest.mark.parametrize(
    "text",
    [
        *("42", "-3*x**2 + 4*y - 1", "(8 - 4) * 6 / 1", "x**(1/2)", "sin(2*x)/3 + C", "exp(x**2)*sqrt(x)"),
        *("(3*x**2 + 1)**4/8 + C", "2.5*X - log(Abs(x))", "2**x", " 7 + 1 ", "(x**2 + 1)**-2", "E**(2*x)"),
    ],
)
def test_a_formula_is_taken(text: str) -> None:
    assert is_small_formula(text)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "().__class__",
        "x.__class__",
        "exec('1')",
        "open('/etc/passwd')",
        "[x for x in (1,)]",
        "lambda: 1",
        "'text'",
        "x if y else z",
        "x and y",
        "f'{x}'",
        "factorial(99999999)",
        "sin(x, y)",
        "abc",
        "9**9**9",
        "9**(9**9)",
        "9**999999",
        "(9**64)**64",
        "9**(x**2)",
        "2**(1e9)",
        "10000000000000000",
        "x**(9**9)",
        "",
        "3x",
        "x = 1",
        "(" * 500 + "x" + ")" * 500,
        "-" * 1000 + "1",
        "1+" * 5000 + "1",
        "\x00",
        "\ud800",
    ],
)
def test_anything_else_is_not(text: str) -> None:
    assert not is_small_formula(text)
