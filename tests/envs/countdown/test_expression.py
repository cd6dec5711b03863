"""The parser agrees with arithmetic on a tree, and survives every text."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cpu import assert_within
from verl_agent_env.envs.countdown.expression import (
    ExpressionError,
    Grammar,
    Limits,
    evaluate,
    holds_equation,
)

Tree: TypeAlias = "int | tuple[str, Tree, Tree] | tuple[str, Tree]"

POWER = Grammar(operators="+-*/^")
WIDE = Limits(max_chars=10_000, max_depth=100)

trees: st.SearchStrategy[Tree] = st.recursive(
    st.integers(0, 10**6),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from("+-*/"), inner, inner), st.tuples(st.just("neg"), inner)
    ),
    max_leaves=12,
)


def tree_value(tree: Tree) -> Fraction:
    if isinstance(tree, int):
        return Fraction(tree)
    if len(tree) == 2:
        return -tree_value(tree[1])
    left, right = tree_value(tree[1]), tree_value(tree[2])
    if tree[0] == "+":
        return left + right
    if tree[0] == "-":
        return left - right
    return left * right if tree[0] == "*" else left / right


def tree_text(tree: Tree, blank: str) -> str:
    """Fully parenthesised, so that no rule of precedence is shared with the parser."""
    if isinstance(tree, int):
        return str(tree)
    if len(tree) == 2:
        return f"(-{tree_text(tree[1], blank)})"
    return f"({tree_text(tree[1], blank)}{blank}{tree[0]}{blank}{tree_text(tree[2], blank)})"


def tree_numbers(tree: Tree) -> tuple[int, ...]:
    if isinstance(tree, int):
        return (tree,)
    return tuple(number for part in tree[1:] if not isinstance(part, str) for number in tree_numbers(part))


@given(trees, st.sampled_from(["", " ", "\t\n"]))
def test_value_and_numbers_equal_those_of_the_tree(tree: Tree, blank: str) -> None:
    text = tree_text(tree, blank)
    try:
        expected = tree_value(tree)
    except ZeroDivisionError:
        with pytest.raises(ExpressionError) as caught:
            evaluate(text, WIDE)
        assert caught.value.kind == "division_by_zero"
        assert caught.value.numbers == tree_numbers(tree)
        return
    result = evaluate(text, WIDE)
    assert result.value == expected
    assert result.numbers == tree_numbers(tree)


@given(st.lists(st.tuples(st.sampled_from("+-*"), st.integers(0, 99)), min_size=1, max_size=12))
def test_flat_chains_follow_the_usual_precedence(chain: list[tuple[str, int]]) -> None:
    # Sums of products, folded by hand: the oracle has no parser of its own.
    terms = [1]
    for operator, number in chain:
        if operator == "*":
            terms[-1] *= number
        else:
            terms.append(number if operator == "+" else -number)
    text = "1" + "".join(f"{operator}{number}" for operator, number in chain)
    assert evaluate(text).value == sum(terms)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8 / 4 / 2", Fraction(1)),
        ("7 - 4 - 2", Fraction(1)),
        ("2 * (3 + 4)", Fraction(14)),
        ("1/3 + 1/6", Fraction(1, 2)),
        ("3 × 4 ÷ 2 − 1", Fraction(5)),
        ("3x4", Fraction(12)),
        (r"3 \times 4 \div 6 \cdot 5", Fraction(10)),
        ("-3 + 5", Fraction(2)),
        ("4 - -3", Fraction(7)),
        ("+-+5", Fraction(-5)),
    ],
)
def test_ways_of_writing_give_the_expected_value(text: str, expected: Fraction) -> None:
    assert evaluate(text).value == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2^10", Fraction(1024)),
        ("2**3**2", Fraction(512)),
        ("-2^2", Fraction(-4)),
        ("2^-2", Fraction(1, 4)),
        ("(1/2)^2", Fraction(1, 4)),
        ("0^0", Fraction(1)),
        ("(-2)^3", Fraction(-8)),
        ("(-2)^(-1)", Fraction(-1, 2)),
    ],
)
def test_powers_bind_to_the_right_and_stay_exact(text: str, expected: Fraction) -> None:
    assert evaluate(text, grammar=POWER).value == expected


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ("1 +", "syntax"),
        ("(1 + 2", "syntax"),
        ("1 + 2)", "syntax"),
        ("()", "syntax"),
        ("1 2", "syntax"),
        ("2(3)", "syntax"),
        ("1.5 + 2", "syntax"),
        ("7 // 2", "syntax"),
        ("07 + 1", "syntax"),
        ("1 + 2 = 3", "syntax"),
        ("__import__('os')", "syntax"),
        ("² + 4", "syntax"),
        ("2 ** 3", "operator_not_allowed"),
        ("2 ^ 3", "operator_not_allowed"),
        ("1 / (2 - 2)", "division_by_zero"),
        ("1" * 19, "number_too_large"),
        ("1+" * 200 + "1", "too_long"),
        ("(" * 33 + "1" + ")" * 33, "too_deep"),
        ("-" * 33 + "1", "too_deep"),
    ],
)
def test_faulty_text_has_its_kind(text: str, kind: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        evaluate(text)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("9**9**9", "exponent_too_large"),
        ("9^65", "exponent_too_large"),
        ("0^(0-1)", "division_by_zero"),
        ("4^(1/2)", "exponent_not_integer"),
        ("(9^64)^64", "number_too_large"),
        ("^".join(["2"] * 40), "too_deep"),
        ("999999999999999999^64 * 999999999999999999^64", "number_too_large"),
    ],
)
def test_powers_beyond_the_limits_have_their_kind(text: str, kind: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        evaluate(text, grammar=POWER)
    assert caught.value.kind == kind


def test_depth_up_to_the_limit_is_read() -> None:
    assert evaluate("(" * 32 + "1" + ")" * 32).value == 1


def test_syntax_error_points_at_the_character() -> None:
    with pytest.raises(ExpressionError) as caught:
        evaluate("  1 + ? 2")
    assert caught.value.position == 4
    assert caught.value.numbers is None


@pytest.mark.parametrize("text", ["6 * 4 = 24", "6*4=24", "6 * 4 = -24", "6 * 4 = 999"])
def test_result_is_read_over_where_the_grammar_says_so(text: str) -> None:
    result = evaluate(text, grammar=Grammar(allow_result=True))
    assert (result.value, result.numbers) == (Fraction(24), (6, 4))


@pytest.mark.parametrize(
    "text", ["6 * 4 =", "= 24", "24 = 24", "6 * 4 = 3 * 4", "6 * 4 = 2 +", "6 * 4 = 24 + (", "=", "6 = * 4"]
)
def test_equation_with_a_broken_or_a_different_side_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        evaluate(text, grammar=Grammar(allow_result=True))
    assert caught.value.kind == "syntax"


@pytest.mark.parametrize(
    ("signs", "accepted", "refused"),
    [
        ("forbid", ["1 - 2"], ["-1", "(-1)", "2 * -1"]),
        ("leading", ["-1", "3 * (-1)", "(+2)"], ["2 * -1", "--1", "2 + -1"]),
        ("anywhere", ["-1", "2 * -1", "--1"], ["1 -"]),
    ],
)
def test_signs_are_taken_where_the_grammar_allows_them(
    signs: str, accepted: list[str], refused: list[str]
) -> None:
    grammar = Grammar(signs=signs)  # type: ignore[arg-type]
    for text in accepted:
        evaluate(text, grammar=grammar)
    for text in refused:
        with pytest.raises(ExpressionError):
            evaluate(text, grammar=grammar)


@pytest.mark.parametrize(
    ("text", "natural"), [("6 / 3 - 2", True), ("1 - 2 + 3", False), ("1 / 2 * 4", False), ("-1 + 2", False)]
)
def test_natural_tells_whole_results_that_are_not_negative(text: str, natural: bool) -> None:
    assert evaluate(text).natural is natural


@given(st.one_of(st.text(max_size=400), st.text("0123456789+-*/^()x =.\n٣²\ud800", max_size=300)))
def test_any_text_has_a_value_or_an_expression_error(text: str) -> None:
    for grammar in (Grammar(), Grammar(operators="+-*/^", allow_result=True)):
        with contextlib.suppress(ExpressionError):
            assert isinstance(evaluate(text, grammar=grammar).value, Fraction)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 100_000,
        "-" * 100_000 + "1",
        "9" * 1_000_000,
        "9**" * 50_000 + "9",
        "1" + "+1" * 50_000,
        " " * 1_000_000 + "1" + " " * 1_000_000,
        "(9^64*9^64)" * 20,
        "999999999999999999^64" + "*999999999999999999^64" * 9,
    ],
)
def test_hostile_text_is_done_with_at_once(text: str) -> None:
    def read() -> None:
        with contextlib.suppress(ExpressionError):
            evaluate(text, grammar=POWER)

    assert_within(0.25, read)


@pytest.mark.parametrize("field", ["max_chars", "max_depth", "max_digits", "max_bits"])
def test_limits_out_of_bounds_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        Limits(**{field: 0})
    with pytest.raises(ValueError, match=field):
        Limits(**{field: 10**9})


@pytest.mark.parametrize("operators", ["", "%", "+-*/%"])
def test_unknown_operators_are_refused(operators: str) -> None:
    with pytest.raises(ValueError, match="operators"):
        Grammar(operators=operators)


# --- what models write -----------------------------------------------------------------------------------------

EQUATION = Grammar(allow_result=True)

NINE = [
    # operators and brackets
    *(
        "(1+2)*3",
        "(1 + 2) × 3",
        "(1 + 2) x 3",
        "(1+2)X3",
        "(1 + 2) ✕ 3",
        "(1 + 2) ∗ 3",
        "(1 + 2)·3",
        "(1 + 2) ✖️ 3",
        "（1＋2）＊3",
    ),
    *(
        "[1+2]*3",
        "{1+2}*3",
        "【1+2】×3",
        "⟨1+2⟩·3",
        "(1 ➕ 2) * 3",
        "(１+２)*３",
        "(١+٢)*٣",
        "-(1+2)*(-3)",
        "(1 − -2) × 3",
        "(1.0 + 2) * 3",
    ),
    # LaTeX
    *(
        r"\left(1+2\right)\times 3",
        r"\((1+2)\times 3\)",
        r"\[(1+2)\times 3\]",
        r"$(1+2)\times 3$",
        r"$$(1+2) \cdot 3$$",
        r"(1+2)\ast 3",
    ),
    *(
        r"\{1+2\}\times 3",
        r"\boxed{(1+2)\times 3}",
        r"\mathbf{(1+2)\times 3}",
        r"\text{Answer: } (1+2)\times 3",
        r"\big(1+2\big)\,\times\,3",
    ),
    *(
        r"\frac{3}{1}\times(1+2)",
        r"\frac{(1+2)\times 3}{1}",
        r"\dfrac31\cdot(1+2)",
        r"\frac{\frac{9}{1}}{1}",
        r"3 \times \frac{6}{2}",
    ),
    # around it
    *(
        "(1+2)*3.",
        "(1+2)*3,",
        "(1+2)*3;",
        "\u200b(1+2)\u200b*3\ufeff",
        "`(1+2)*3`",
        "**(1+2)*3**",
        '"(1+2)*3"',
        "```\n(1+2)*3\n```",
    ),
    *(
        "```python\n(1+2)*3\n```",
        "(1+2)&times;3",
        "(1&#43;2)*3",
        "(1+2)&nbsp;*&nbsp;3",
        "1. (1+2)*3",
        "* (1+2)*3",
        "> (1+2)*3",
        r"(1 + 2) \* 3",
        "(1 plus 2) times 3",
        "(1+2) multiplied by 3",
        "So (1 plus 2) times 3 it is",
        "(1+2)\n*3",
    ),
    # a result
    *(
        "(1+2)*3 = 9",
        "(1+2)*3 == 9",
        "(1+2)*3 = **9**",
        "(1+2)*3 = 9!",
        "(1+2)*3 (= 9)",
        "(1+2)*3 [= 9]",
        "9 = 3*3 = (1+2)*3",
        "(1+2)*3 = 3*3 = 9",
        "(1+2)*3=9.0",
        "(1+2)*3 ≈ 9",
        "(1+2)*3 → 9",
        "(1+2)*3 -> 9",
        "(1+2)*3 => 9",
        "(1+2)*3 ⇒ 9",
    ),
    *(
        r"(1+2)*3 \approx 9",
        r"(1+2)*3 \Rightarrow 9",
        "9 = (1+2)*3",
        "9 == (1+2)*3",
        "= (1+2)*3",
        "(1+2)*3 = 3*3 = 9",
        "(1+2)*3 = 10",
    ),
    # words
    *(
        "The answer is (1+2)*3",
        "The answer is (1+2)*3.",
        "Answer: (1+2)*3",
        "**Answer:** (1+2)*3",
        "Answer: **(1+2)*3**",
        "Target = (1+2)*3",
    ),
    *(
        "So the final answer is `(1+2)*3`.",
        r"The answer is: \[ (1+2) \times 3 = 9 \]",
        "(1 + 2) * 3 is the answer",
        "答案是 (1+2)*3",
    ),
    *(
        "We can use (1+2)*3 = 9.",
        "Using the numbers 1, 2 and 3: (1+2)*3",
        "The equation (1+2)*3 equals 9",
        "(1+2)*3 (which equals 9)",
    ),
    *(
        "Here it is:\n- (1+2)*3",
        "Here it is:\n* (1+2)*3 = 9",
        "(using (1+2)*3 = 9)",
        "((1+2)*3 works)",
        "I have it!\n\n(1+2)*3",
    ),
    "(1+2)*3 = 9 because 1+2=3 and 3*3=9",
    "(1+2)*3 = 9 ✓",
    "✅ (1+2)*3",
    "The answer is (1+2)*3 = 9!",
    "(1+2)*3 = target",
    "target=(1+2)*3",
    "x = (1+2)*3",
    "Final equation: (1+2)*3 = 9. Check: 1+2=3, 3*3=9",
    "I tried 1+2+3 = 6 but (1+2)*3 = 9 works",
    "It is not 1+2+3. It is (1+2)*3",
    "The answer is (1+2)*3, the other way 1*2*3 fails",
]


@pytest.mark.parametrize("text", NINE)
def test_equation_is_read_as_models_write_it(text: str) -> None:
    assert evaluate(text, grammar=EQUATION).value == 9
    assert holds_equation(text, grammar=EQUATION)


@pytest.mark.parametrize("sign", ["÷", "➗", "∕", "⁄", r"\div ", "／", "/"])
def test_division_is_read_as_models_write_it(sign: str) -> None:
    assert evaluate(f"6 {sign} 4").value == Fraction(3, 2)


@pytest.mark.parametrize("sign", ["−", "–", "—", "－", "➖", "‐", "-"])
def test_subtraction_is_read_as_models_write_it(sign: str) -> None:
    assert evaluate(f"6 {sign} 4").value == 2


@pytest.mark.parametrize(
    "text",
    [
        *(
            "I give up",
            "the answer is 9",
            "three plus two",
            "(1+2) times three",
            "three times (1+2)",
            "(1+2)*3 times (",
            "1 + two",
            "1 + 2 + three",
            "1+2+x",
            "(1+2)*y",
            "2x+3",
            "a+b",
            "2 of 3",
        ),
        *(
            "sqrt(4)+2",
            "max(1,2)+3",
            "f(1)+2",
            "foo(1+2)*3",
            "(1+2)*3x",
            "2+3! is it",
            "1+2% of",
            "(1+2",
            "1,234 + 2 is it",
            "3.5 + 2 is it",
        ),
        *(
            "(1, 2) + 3 as",
            "It is not (1+2)*3",
            "07+1 is it",
            "1+2 = 3*3 it is",
            "2(3) is it",
            "x)(1+2)*3",
            "2^3 is it",
            "__import__('os')",
        ),
        *(
            "1 + 2 = 3; 3 * 3 = 9",
            "1+2=3\n3*3=9",
            "\\frac{1}{2",
            "\\frac{1}",
            "\\frac",
            "1 + \\frac12 3",
            "²+4",
            "½+1",
        ),
    ],
)
def test_piece_of_something_else_is_no_equation(text: str) -> None:
    with pytest.raises(ExpressionError):
        evaluate(text, grammar=EQUATION)


@pytest.mark.parametrize("text", ["I give up", "", "the answer is 9", "no + way", "sqrt(4)+2", "x" * 10_000])
def test_words_alone_hold_no_equation(text: str) -> None:
    assert not holds_equation(text, grammar=EQUATION)


def test_answer_at_the_end_of_a_long_text_is_read() -> None:
    text = "I try 1+1. " * 2000 + "The answer is (1+2)*3."
    assert evaluate(text, grammar=EQUATION).value == 9


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7 // 2", 3),
        ("7 % 4", 3),
        ("2 ** 3", 8),
        ("4 ** .5", 2),
        ("1.5 * 2", 3),
        ("00 + 1", 1),
        (".5 + 2.", Fraction(5, 2)),
        ("-2**2", -4),
    ],
)
def test_notation_of_python_is_its_arithmetic(text: str, value: Fraction) -> None:
    python = Grammar(notation="python", more_operators=frozenset({"^", "//", "%"}))
    assert evaluate(text, grammar=python).value == value


@pytest.mark.parametrize(
    "text",
    [
        "1 × 2",
        "1 x 2",
        "[1]",
        "1 = 1",
        "07",
        "1,5",
        "The answer is 1+2",
        "$1$",
        "1 2",
        "2(3)",
        "()",
        "1_0",
        "1e3",
        "٣",
    ],
)
def test_notation_of_python_is_nothing_else(text: str) -> None:
    python = Grammar(notation="python", more_operators=frozenset({"^", "//", "%"}))
    with pytest.raises(ExpressionError) as caught:
        evaluate(text, grammar=python)
    assert (caught.value.kind, caught.value.is_undefined) == ("syntax", False)


def test_numbers_of_python_are_all_runs_of_digits() -> None:
    python = Grammar(notation="python")
    assert evaluate("1.5 + 22", grammar=python).numbers == (1, 5, 22)
    with pytest.raises(ExpressionError) as caught:
        evaluate("a1 + 22 = " + "9" * 5000, grammar=python)
    assert caught.value.numbers is not None
    assert caught.value.numbers[:2] == (1, 22)


WRITTEN = [
    *"0123456789+-*/^()[]{}=≈→.,;:!?×÷x`*$&\n ",
    "answer",
    "because",
    "not",
    "is",
    "\\frac",
    "\\times",
    "\\left(",
    "**",
    "(1+2)*3",
    "\u200b",
]


@given(st.lists(st.sampled_from(WRITTEN), max_size=60).map("".join))
def test_any_writing_has_a_value_or_an_expression_error(text: str) -> None:
    for grammar in (EQUATION, Grammar(notation="python", more_operators=frozenset({"^", "//", "%"}))):
        holds_equation(text, grammar=grammar)
        with contextlib.suppress(ExpressionError):
            assert isinstance(evaluate(text, grammar=grammar).value, Fraction)


@pytest.mark.parametrize(
    "piece",
    [
        "1+1 ",
        "(",
        "a(1)+",
        "answer is 1+1\n",
        "1=",
        "**1+1**",
        "-",
        "\\frac{",
        "because 1+1 ",
        "&times;",
        "1+1=2 or ",
        "( = 1",
        "= **1",
        "(   ",
        "1 times ",
    ],
)
@pytest.mark.parametrize("length", [8_000, 1_000_000])
def test_hostile_prose_is_done_with_at_once(piece: str, length: int) -> None:
    text = piece * (length // len(piece))

    def read() -> None:
        holds_equation(text, grammar=EQUATION)
        with contextlib.suppress(ExpressionError):
            evaluate(text, grammar=EQUATION)

    assert_within(1.0, read)
