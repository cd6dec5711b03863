"""Numbers are read exactly, whatever their dress, and nothing else is."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_agent_env.envs.numeric_answer import last_number, read_number


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", Fraction(7)),
        ("-7", Fraction(-7)),
        ("−7", Fraction(-7)),
        ("+7", Fraction(7)),
        ("1,234.5", Fraction(12345, 10)),
        ("1{,}234", Fraction(1234)),
        ("12,345,678", Fraction(12345678)),
        (".5", Fraction(1, 2)),
        ("1e-3", Fraction(1, 1000)),
        ("2.5E2", Fraction(250)),
        ("3/4", Fraction(3, 4)),
        ("-3 / 4", Fraction(-3, 4)),
        (r"\frac{3}{4}", Fraction(3, 4)),
        (r"-\dfrac{3}{4}", Fraction(-3, 4)),
        ("50%", Fraction(1, 2)),
        (r"12.5\%", Fraction(1, 8)),
        ("$1,000", Fraction(1000)),
        (r"\$5", Fraction(5)),
    ],
)
def test_number_is_read_exactly(text: str, expected: Fraction) -> None:
    assert read_number(text) == expected


@pytest.mark.parametrize(
    "text", ["", "seven", "nan", "inf", "1/0", "1e999", "1e-999999999", "9" * 65, "1 2", "1,23", "٣", "0x10"]
)
def test_what_is_no_number_is_not_read(text: str) -> None:
    assert read_number(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("First 3, then 4. So the answer is 12.", Fraction(12)),
        ("x = -5", Fraction(-5)),
        ("7-5", Fraction(5)),
        ("between 10 and 20%", Fraction(1, 5)),
        ("1, 2, 3", Fraction(3)),
        ("costs $1,234.50!", Fraction(123450, 100)),
        (r"so \frac{1}{3}", Fraction(1, 3)),
    ],
)
def test_last_number_of_a_text_is_found(text: str, expected: Fraction) -> None:
    assert last_number(text) == expected


def test_percent_is_divided_or_ignored() -> None:
    assert last_number("50%", "divide") == Fraction(1, 2)
    assert last_number("50%", "ignore") == 50


@given(st.fractions(max_denominator=10**6))
def test_every_fraction_reads_back(value: Fraction) -> None:
    assert read_number(str(value)) == value


@given(st.integers(-(10**12), 10**12))
def test_every_integer_reads_back_with_thousands_marked(value: int) -> None:
    assert read_number(f"{value:,}") == value


@given(st.text(max_size=200))
def test_any_text_is_read_without_an_error(text: str) -> None:
    read_number(text)
    last_number(text)


@pytest.mark.parametrize(
    "piece", ["1", "1,111", "1,", "1e", "1/", "1.", "-", "\\frac{1}{", "1e9", "$", "{,}"]
)
def test_hostile_text_is_done_with_at_once(piece: str) -> None:
    started = time.process_time()
    last_number(piece * 200_000)
    read_number(piece * 200_000)
    assert time.process_time() - started < 0.5
