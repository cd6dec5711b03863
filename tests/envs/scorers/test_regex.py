"""Patterns of users match what they should, within bounds."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tests.cpu import assert_within
from verl_agent_env.envs.scorers import parse_scorer


def score(text: str, /, **spec: Any) -> float:
    return parse_scorer(spec).score(text)


@pytest.mark.parametrize(
    ("pattern", "answer", "options", "reward"),
    [
        (r"\d+", "it is 42", {}, 1),
        (r"\d+", "it is 42", {"mode": "fullmatch"}, 0),
        (r"\d+", "42", {"mode": "fullmatch"}, 1),
        ("paris", "PARIS", {}, 0),
        ("paris", "PARIS", {"ignore_case": True}, 1),
        ("a.b", "a\nb", {}, 0),
        ("a.b", "a\nb", {"dot_matches_newline": True}, 1),
        ("é", "caf\u00e9", {}, 1),
        ("a", "\ud800a", {}, 1),
    ],
)
def test_regex_matches(pattern: str, answer: str, options: dict[str, Any], reward: float) -> None:
    assert score(answer, type="regex", pattern=pattern, **options) == reward


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        "(?=a)b",
        r"(a)\1",
        "",
        "a" * 1001,
        "(?:(?:a{1000}){1000}){1000}",
        r"\pL{1000}",
        "a{999}{2}",
        "\ud800",
    ],
)
def test_unusable_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValidationError):
        parse_scorer({"type": "regex", "pattern": pattern})


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(a|aa)+$",
        "(.*)*x$",
        "(?:a|b)*a(?:a|b){900}c",
        "(?:(?:a?){15}){15}(?:a{15}){15}c",
        "(?:" + "|".join(f"[a-z]*{chr(97 + i % 26)}" for i in range(90)) + "){3}!",
    ],
)
def test_catastrophic_patterns_end_soon(pattern: str) -> None:
    scorer = parse_scorer({"type": "regex", "pattern": pattern})
    assert_within(1.0, lambda: scorer.score("ab" * 500_000 + "é!"))


def test_only_the_end_of_a_long_answer_is_searched() -> None:
    assert score("b" + "a" * 20_000 + "c", type="regex", pattern="c$") == 1
    assert score("b" + "a" * 20_000 + "c", type="regex", pattern="b") == 0
    assert score("a" * 20_000, type="regex", pattern="a+", mode="fullmatch") == 0
