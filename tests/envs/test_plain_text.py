"""Typographic characters and LaTeX that only sets type give way to what they show."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cpu import assert_within
from verl_agent_env.envs.plain_text import plain_characters, plain_text


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("４２ − ٣", "42 - 3"),
        ("a\u00a0\u2009 \t\nb", "a b"),
        ("1\u200b2\u00ad3\ufe0f", "123"),
        ("𝟒𝑥 ㎝ ℃ ①", "4x cm °C ①"),
        ("10² ½ CO₂ 101₂", "10² ½ CO2 101₂"),
        (r"5\text{ cm}^2", "5 cm ^2"),
        (r"\left(\frac{1}{2}\right)\,x", r"(\frac{1}{2}) x"),
        (r"1{,}234 \% \{1\}", "1,234 % {1}"),
        (r"\mathrm{~m}/\mathrm{s}^{2}", "m / s ^{2}"),
        (r"\text{a {b} c} {d}", "a {b} c {d}"),
        (r"\textbackslash \leftarrow", r"\textbackslash \leftarrow"),
        (r"CO_2 x_{12} 1_2", "CO2 x12 1_2"),
    ],
)
def test_text_is_written_plainly(text: str, plain: str) -> None:
    assert plain_text(text) == plain


def test_characters_alone_leave_latex_as_it_is() -> None:
    assert plain_characters(r"\text{４}  −") == r"\text{4}  -"


@given(
    st.one_of(
        st.text(max_size=200),
        st.lists(st.sampled_from([*"{}\\_~ a1", "\\text{", "\\left", "{,}"]), max_size=40).map("".join),
    )
)
def test_any_text_is_rewritten_and_stays_so(text: str) -> None:
    plain = plain_text(text)
    assert plain == plain.strip()
    assert "  " not in plain


@pytest.mark.parametrize("piece", ["{", "}", "\\text{", "_1", "a_", "~", "\\", "ﷺ", "\\left("])
def test_long_text_takes_linear_time(piece: str) -> None:
    # In quadratic time it would be minutes.
    assert_within(1.0, lambda: plain_text(piece * (200_000 // len(piece))))
