"""The number of an answer is compared exactly, within its tolerance, and only where it is the answer."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from tests.cpu import assert_within
from verl_agent_env.envs.scorers import parse_scorer


def score(text: str, /, **spec: Any) -> float:
    return parse_scorer(spec).score(text)


@pytest.mark.parametrize(
    ("reference", "answer", "options", "reward"),
    [
        (42, "The answer is 42.", {}, 1),
        (42, r"\boxed{42} (not 41)", {}, 1),
        (42, "43", {}, 0),
        (0.1, "0.1", {"abs_tolerance": 0}, 1),
        (0.1, "1/10", {"abs_tolerance": 0}, 1),
        ("1,234.5", "1234.5", {}, 1),
        ("3/4", "0.75", {}, 1),
        ("50%", "0.5", {}, 1),
        (50, "50%", {}, 0),
        (50, "50%", {"percent": "ignore"}, 1),
        (100, "101", {"rel_tolerance": 0.01}, 1),
        (100, "101.1", {"rel_tolerance": 0.01}, 0),
        (100, "101", {"abs_tolerance": 1}, 1),
        (-100, "-99", {"rel_tolerance": 0.01}, 1),
        (6.63e-34, "6.63e-34", {}, 1),
        (6.63e-34, "6.63 × 10^{-34}", {}, 1),
        (6.63e-34, "0", {}, 0),
        (6.63e-34, "5e-20", {}, 0),
        (1.6e-5, "1.5e-5", {}, 0),
        (1.6e-5, "1.5e-5", {"abs_tolerance": 2e-6}, 1),
        (0, "1e-9", {}, 1),
        ("1/3", "0.333333", {}, 1),
        (1, "nan", {}, 0),
        (1, "inf", {"abs_tolerance": 1e300}, 0),
        (1, "1e999999999", {"abs_tolerance": 1e300}, 0),
        (1, "no idea", {}, 0),
        (1, "", {}, 0),
    ],
)
def test_numeric_compares_within_tolerance(
    reference: object, answer: str, options: dict[str, Any], reward: float
) -> None:
    assert score(answer, type="numeric", answer=reference, **options) == reward


@pytest.mark.parametrize("reference", [math.nan, math.inf, "", "seven", "1/0", "1e999", "1 or 2"])
def test_reference_that_is_no_number_is_refused(reference: object) -> None:
    with pytest.raises(ValidationError):
        parse_scorer({"type": "numeric", "answer": reference})


@pytest.mark.parametrize("tolerance", [-1, math.nan, math.inf])
@pytest.mark.parametrize("field", ["abs_tolerance", "rel_tolerance"])
def test_tolerance_must_be_finite(field: str, tolerance: float) -> None:
    with pytest.raises(ValidationError):
        parse_scorer({"type": "numeric", "answer": 1, field: tolerance})


# --- where the number stands -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mark", ["<answer>{}</answer>", r"So it is \boxed{{{}}}.", r"<answer>\boxed{{{}}}</answer>", "<answer>{}"]
)
@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("5000", r"5\times10^3"),
        ("1/2", r"\frac12"),
        ("3/2", "1 1/2"),
        ("1234567", "12,34,567"),
        ("3.14", "3,14"),
        (42, "４２"),
        ("0.5", "50 percent"),
        (1500000, "1.5 million"),
        (-42, "- 42"),
        (5, "5 g of CO2"),
        (42, "42 (since 6*7 = 42)"),
    ],
)
def test_marked_number_is_read(mark: str, reference: object, answer: str) -> None:
    assert score(mark.format(answer), type="numeric", answer=reference) == 1


@pytest.mark.parametrize("mark", ["<answer>{}</answer>", r"So it is \boxed{{{}}}."])
@pytest.mark.parametrize(
    "answer",
    [
        *(
            r"3\sqrt{2}",
            r"\pi/2",
            "x^2",
            "10:30",
            "3:4",
            "4!",
            "3.14 ± 0.01",
            "2 or 3",
            "2, 3",
            "2 + 3",
            "2-3",
            "3x",
            "2/3/4",
        ),
        *("not 3", ">3", "3 to 4", "2 h 30 min", "3 = 4", "(2, 3)", "(2,100)", "(-2,5)", "[2,100]"),
    ],
)
def test_piece_of_a_marked_answer_never_counts(mark: str, answer: str) -> None:
    for reference in (2, 3, 4, 10, 30, 24, 3.14, 0.01, 5, 2.5, 1, 2100, -2.5):
        assert score(mark.format(answer), type="numeric", answer=reference) == 0, reference


@pytest.mark.parametrize(
    "text",
    [
        *(
            "42",
            "7 · 6\n42",
            "7 · 6\n\n**42**\n",
            "42 apples",
            "x = 42",
            "6 · 7 = 42.",
            "so 6 · 7 = 42, so x = 42",
            "$$\n6 = 7 = 42\n$$",
        ),
        *(
            "The answer is 42.",
            "So the final answer is $42$.",
            "**Answer:** 42",
            "**The answer is 42.**",
            "#### 42",
            "Answer = 42",
        ),
        *(
            "The answer is 42, because 6 · 7 = 42.",
            "The answer is 42 since 6 · 7 is 42.",
            "The answer is approximately 42.",
        ),
        *(
            "The answer to question 3 is 42.",
            "Answer:\n```\n42\n```",
            "The final answer is:\n\\[\n42\n\\]",
            "Result: 42 m",
        ),
        *(
            "The final answer is $42$. I hope it is correct.",
            "The answer is 42.\nI am sure that my answer is correct.",
        ),
        *(
            "The answer is 41. No, wait. The answer is 42.",
            "<think>The answer is 7</think>\nThe answer is 42",
        ),
        *(
            "答案是42。",
            "答案：42",
            "Die Antwort ist 42.",
            "La réponse est 42.",
            "La respuesta es 42",
            "答えは42",
        ),
    ],
)
def test_final_answer_of_an_unmarked_text_counts(text: str) -> None:
    assert score(text, type="numeric", answer=42) == 1


@pytest.mark.parametrize(
    "text",
    [
        *(
            "First 3, then 42",
            "I think 42 is close, but no",
            "between 10 and 42",
            "1, 2, 42",
            "7-42",
            "Is it 42?",
            "42 and 43",
            "x = 41 or x = 42",
        ),
        *(
            "x = 1, y = 42",
            "The answer is not 42.",
            "The answer is 42 or 43.",
            "The answer is 42, or maybe 43.",
            "The answer is wrong: 42",
        ),
        *(
            "The answer is 42 if x > 0",
            "The answer is between 41 and 42",
            "The answer is 10:42",
            "The answer is 42!",
            "The answer is 42x",
        ),
        *(
            r"The answer is $42\sqrt{2}$",
            "The answer is 42. No wait. The answer is 43.",
            "My first answer was 42, but it is wrong.",
        ),
        *(
            "Step 42",
            "No answer, 42 times",
            "We had 42 of them and lost them all",
            "The answer is 43.\nx = 42",
            "",
        ),
    ],
)
def test_number_that_no_text_gives_as_its_answer_does_not_count(text: str) -> None:
    assert score(text, type="numeric", answer=42) == 0


@pytest.mark.parametrize(
    ("rule", "right", "wrong"),
    [("divide", [0.5], [50]), ("ignore", [50], [0.5]), ("either", [0.5, 50, "50%"], [5, 0.005])],
)
def test_percent_rule_says_what_a_percent_sign_is_worth(
    rule: str, right: list[Any], wrong: list[Any]
) -> None:
    for answer in ("50%", r"50\%", "50 percent"):
        assert all(score(answer, type="numeric", answer=reference, percent=rule) == 1 for reference in right)
        assert all(score(answer, type="numeric", answer=reference, percent=rule) == 0 for reference in wrong)


def test_reference_with_an_uncertainty_sets_the_tolerance_and_lets_answers_have_one() -> None:
    for answer, reward in (("3.14 ± 0.01", 1), ("3.15", 1), ("3.13 ± 0.5", 1), ("3.16", 0), ("0.01", 0)):
        assert score(answer, type="numeric", answer="3.14 ± 0.01") == reward


@pytest.mark.parametrize(
    "piece",
    ["1", "= 1 ", "The answer is 1. ", "\\boxed{1", "<answer>1", "answer ", "#### 1\n", "1,", "a", "<think>"],
)
def test_answer_of_a_megabyte_is_scored_at_once(piece: str) -> None:
    scorer = parse_scorer({"type": "numeric", "answer": 42})
    text = piece * (1_000_000 // len(piece))
    # A quadratic search would take minutes.
    assert_within(2.0, lambda: scorer.score(text))


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        (5, "The answer is 5 - no, 6."),
        (5, "The answer is 5, no wait, 6."),
        (5, "The answer is 5, sorry, 6."),
        (5, "The answer cannot be 5."),
        (5, "The answer isn't 5."),
        (5, "I wonder whether the answer is 5"),
        (5, "Suppose that the correct answer is 5"),
        (5, "Let x = 5."),
        (5, "If x = 5"),
        (5, "x >= 5"),
        (5, "<=5"),
        (6, "2x = 6"),
        (6, "x + 1 = 6"),
        (6, "3 * n = 6"),
        (5, "5 (or 6)"),
        (5, "5 [or maybe 6]"),
        (5, "5 at least"),
        (56, r"\boxed{5\\6}"),
        (5600, r"\boxed{5\\600}"),
    ],
)
def test_a_number_that_is_taken_back_given_compared_or_asked_for_is_no_answer(
    reference: int, text: str
) -> None:
    assert score(text, type="numeric", answer=reference) == 0


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        (6, "If x = 5, then y = 6"),
        (6, "So a + b = 6"),
        (6, "m+n = 6"),
        (6, "2 m * 3 m = 6 m²"),
        (6, "f(2) = 6"),
        (6, "=> 6"),
        (6, "→ x = 6"),
        (6, r"\Rightarrow 6"),
        (0.5, "0.5 (or 1/2)"),
        (0.5, "50% (or 1/2)"),
        (6, "6 (or thereabouts)"),
        (6, "ca. 6"),
        (6, "6 Å"),
        (600, "₹600/-"),
        (6, r"\boxed{6 \\}"),
        (6, "उत्तर: 6"),
    ],
)
def test_a_number_is_the_answer_beside_reasons_and_the_same_number(reference: float, text: str) -> None:
    assert score(text, type="numeric", answer=reference) == 1
