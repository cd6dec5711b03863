"""Expressions are compared by their meaning, in bounded time, and only as a whole."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.cpu import assert_within
from tests.depth import examples
from tests.envs.scorers.answer_pairs import EXPRESSIONS, NUMBERS, Pair
from verl_agent_env.envs.scorers import parse_scorer
from verl_agent_env.envs.single_turn_chat import SingleTurnChatEnv
from verl_agent_env.errors import InvalidEnvArgumentsError

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None, reason="needs the extra 'math'"
)


def score(text: str, /, **spec: Any) -> float:
    return parse_scorer({"type": "math", **spec}).score(text)


def agrees(kind: str, pair: Pair) -> bool:
    scorer = parse_scorer({"type": kind, "answer": pair.reference})
    return (scorer.score(f"<answer>{pair.answer}</answer>") == 1) == pair.is_right


def test_both_scorers_agree_with_every_pair_of_numbers() -> None:
    """The agreement that docs/scorers.md reports."""
    assert [pair for pair in NUMBERS if not agrees("numeric", pair)] == []
    # A product is a number for mathematics.
    assert [pair for pair in NUMBERS if not agrees("math", pair)] == [Pair("30", "3 × 10", False)]
    assert len(NUMBERS) == 105


def test_math_agrees_with_every_pair_of_expressions() -> None:
    assert [pair for pair in EXPRESSIONS if not agrees("math", pair)] == []
    assert len(EXPRESSIONS) == 79


@pytest.mark.parametrize(
    ("text", "reference", "reward"),
    [
        (r"So it is \boxed{\sqrt{18}}.", r"3\sqrt{2}", 1),
        (r"The answer is $\sqrt{18}$.", r"3\sqrt{2}", 1),
        ("x = \\sqrt{18}", r"3\sqrt{2}", 1),
        (r"We need \sqrt{18} and more", r"3\sqrt{2}", 0),
        (r"\boxed{x = \sqrt{18}}", r"3\sqrt{2}", 1),
        (r"\boxed{3x = \sqrt{18}}", r"3\sqrt{2}", 0),
        ("", r"3\sqrt{2}", 0),
        (r"\boxed{}", "x", 0),
    ],
)
def test_final_answer_is_found_as_by_the_numeric_scorer(text: str, reference: str, reward: float) -> None:
    assert score(text, answer=reference) == reward


def test_one_of_several_references_is_enough() -> None:
    for answer, reward in ((r"\boxed{\sqrt{8}}", 1), (r"\boxed{2.5}", 1), (r"\boxed{\sqrt{3}}", 0)):
        assert score(answer, answer=[r"2\sqrt{2}", "5/2"]) == reward


def test_rounding_says_how_close_numbers_must_be() -> None:
    assert score("0.333333", answer="1/3") == 1
    assert score("0.3333", answer="1/3") == 0
    assert score("0.3333", answer="1/3", rounding=3) == 1
    assert score("0.3", answer="1/3", rounding=1) == 1
    assert score("1.4142136", answer=r"\sqrt{2}") == 1
    assert score("1.4", answer=r"\sqrt{2}") == 0


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        # Of public reports on the library.
        (r"\frac{1}{2004!}", r"\frac{1}{2006!}"),
        (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}"),
        (r"\frac{2^{2005}+1}{3 \cdot 2^{2006}}", r"\frac{1}{3 \cdot 2^{2006}}"),
        (r"1-\frac{1}{\mathrm{e}}", r"1+\frac{1}{\mathrm{e}}"),
        ("10^{-10}", "0"),
        ("10^{-10}", r"2\cdot10^{-10}"),
        ("1011_2", "1011_3"),
        ("1011_2", "1010_2"),
        ("11", "1011_2"),
        ("6", "2x = 6"),
        # Pairs, not thousands.
        ("(1,200)", "1200"),
        ("(1,200)", "1,200"),
        ("(-1,200)", "-1200"),
        ("1200", "(1,200)"),
        # A decimal comma, a pair, a set.
        ("(0,5)", "0,5"),
        ("(0, 5)", "x = 0,5"),
        (r"\left(0,5\right)", r"0,5\text{ m}"),
        ("(-1,5)", "-1,5"),
        ("(0;5)", "0,5"),
        ("(0,5]", "0,5"),
        ("[0,5]", "0,5"),
        ("[0,5]", "(0,5)"),
        ("0,5", "(0,5)"),
        ("0,5", r"\left( 0,5 \right)"),
        ("0,5", "[0,5]"),
        (r"\{0,5\}", "(0,5)"),
        ("(0,5)", r"\left\{0,5\right\}"),
        # A side and an area.
        (r"\frac{a+b}{2}", r"\frac{A+B}{2}"),
        ("2a + A", "3a"),
        ("x \\ge 3", "x > 3"),
    ],
)
def test_what_the_library_takes_for_equal_and_is_not_is_wrong(reference: str, answer: str) -> None:
    for text in (answer, f"\\boxed{{{answer}}}"):
        assert score(text, answer=reference) == 0


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        (r"1-\frac{1}{e}", r"1-\frac{1}{\mathrm{e}}"),
        (r"\emptyset", r"\varnothing"),
        (r"6\pi", "6π cm²"),
        ("1011_2", r"1011_{2}"),
        ("1011_2", "1011"),
        ("(1,200)", "(1, 200)"),
        ("(0,5)", r"$\left(0, 5\right)$"),
        ("(0,5)", "0, 5"),
        ("0,5", "0,5"),
        (r"\{0,5\}", "0,5"),
        (r"\{0,5\}", "5, 0"),
        ("0,5", r"\{5,0\}"),
        (r"\{(1,2),(3,4)\}", "(3,4), (1,2)"),
        (r"(-\infty,0)\cup(1,2)", r"(-\infty, 0) \cup (1, 2)"),
        ("x \\ge 3", "x >= 3"),
        ("10^{-10}", "1/10000000000"),
        (r"\frac{1}{2^{99}}", "2^{-99}"),
    ],
)
def test_other_spellings_of_an_expression_are_equal(reference: str, answer: str) -> None:
    assert score(f"\\boxed{{{answer}}}", answer=reference) == 1


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("9^{9^{9^9}}", r"\sqrt{4}"),
        (r"\sum_{k=1}^{10^8} k^{-2}", r"\sqrt{4}"),
        (r"\sin(x)^{500}", r"\sqrt{4}"),
        ("(1+x)^{10^9}", "x"),
        (r"\int_0^1 e^{x^2\sin(x^x)}dx", "x"),
        ("{" * 900, "x"),
        (r"\frac{" * 150, "x"),
        ("x" * 900, "x"),
    ],
)
def test_expression_that_is_too_hard_is_wrong_and_holds_nothing_up(answer: str, reference: str) -> None:
    assert score(f"<answer>{answer}</answer>", answer=reference, timeout_s=0.5) == 0
    assert score("<answer>x+x</answer>", answer="2x") == 1


def test_long_answer_is_wrong_at_once() -> None:
    text = "<answer>" + "x+" * 500_000 + "1</answer>"
    assert score(text, answer="x") == 0
    assert_within(2.0, lambda: score(text, answer="x"))


@pytest.mark.parametrize(
    "options",
    [
        {"answer": ""},
        {"answer": []},
        {"answer": "x" * 2000},
        {"answer": "x", "timeout_s": 100},
        {"answer": "x", "rounding": 99},
    ],
)
def test_unfit_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        parse_scorer({"type": "math", **options})


def test_reference_that_cannot_be_read_is_refused_with_the_reset() -> None:
    env = SingleTurnChatEnv(scorer={"type": "math", "answer": r"\frac{"})
    with pytest.raises(InvalidEnvArgumentsError) as caught:
        env.reset(seed=0)
    assert caught.value.errors[0]["loc"] == ["scorer"]
    assert "frac" not in str(caught.value.errors)


def test_right_expression_ends_an_episode_with_success() -> None:
    env = SingleTurnChatEnv(scorer={"type": "math", "answer": "(x+1)^2"})
    env.reset(seed=0)
    _, reward, terminated, _, info = env.step(r"\boxed{x^2+2x+1}")
    assert (reward, terminated, info["success"]) == (1.0, True, True)


WRITTEN = [
    *"xyzab0123456789+-*/^_()[]{}=<>,.;:!|&%$~ π√∞",
    "\\frac",
    "\\sqrt",
    "\\left(",
    "\\text{",
    "\\begin{pmatrix}",
    "\\\\",
    "\\int",
    "\\lim",
]


@settings(max_examples=examples(60))
@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(WRITTEN), max_size=25).map("".join)))
def test_any_text_is_scored(text: str) -> None:
    assert score(f"<answer>{text}</answer>", answer=r"\sqrt{7}+\sqrt{11}", timeout_s=0.5) in (0.0, 1.0)
