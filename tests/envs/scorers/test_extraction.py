"""The part of a text that is its answer."""

from __future__ import annotations

from typing import Any

import pytest

from verl_agent_env.envs.scorers import Extraction, extract_answer, parse_scorer


def score(text: str, /, **spec: Any) -> float:
    return parse_scorer(spec).score(text)


@pytest.mark.parametrize(
    ("text", "extraction", "expected"),
    [
        (" a\nb ", "whole", "a\nb"),
        ("a\n\n b \n\n", "last_line", "b"),
        ("", "last_line", None),
        ("<answer>1</answer> no, <answer> 2 </answer>", "answer_tag", "2"),
        ("plain", "answer_tag", None),
        (r"so \boxed{\frac{1}{2}}.", "boxed", r"\frac{1}{2}"),
        ("plain", "boxed", None),
        (r"\boxed{1} <answer>2</answer>", "auto", "2"),
        (r"it is \boxed{1}", "auto", "1"),
        (" plain ", "auto", "plain"),
    ],
)
def test_extraction_finds_the_answer(text: str, extraction: Extraction, expected: str | None) -> None:
    assert extract_answer(text, extraction) == expected


def test_thoughts_are_no_answer_unless_asked_for() -> None:
    text = "<think>42</think>43"
    assert score(text, type="numeric", answer=42) == 0
    assert score("<think>x 42", type="regex", pattern="42", ignore_thoughts=False) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"<answer>so \boxed{1}</answer>", "1"),
        (r"<ANSWER kind='x'>1</answer >", "1"),
        ("<answer>1", "1"),
        ("put it into <answer> and </answer>: <answer>1</answer>", "1"),
        (r"\boxed{1} and \boxed{}", "1"),
        (r"\boxed {\text{up}}", "up"),
        (r"\fbox{1}", "1"),
    ],
)
def test_marks_are_read_as_messages_read_them(text: str, expected: str) -> None:
    assert extract_answer(text, "auto") == expected


@pytest.mark.parametrize(
    "end", ["<|im_end|>", "</s>", "<|eot_id|>", "<|endoftext|>", "<|im_end|>\n<|im_start|>user 43"]
)
@pytest.mark.parametrize("ignore_thoughts", [True, False])
@pytest.mark.parametrize(
    "spec",
    [
        {"type": "exact_match", "answer": "42"},
        {"type": "exact_match", "answer": "42", "extract": "whole"},
        {"type": "regex", "pattern": "^42$"},
        {"type": "numeric", "answer": 42},
        {"type": "numeric", "answer": 42, "extract": "last_line"},
    ],
)
def test_tokens_that_end_a_turn_never_count(spec: dict[str, Any], ignore_thoughts: bool, end: str) -> None:
    assert score(f"42{end}", ignore_thoughts=ignore_thoughts, **spec) == 1


@pytest.mark.parametrize(
    "spec",
    [
        {"type": "exact_match", "answer": "42"},
        {"type": "regex", "pattern": "42"},
        {"type": "numeric", "answer": 42},
    ],
)
def test_strict_takes_a_marked_answer_only(spec: dict[str, Any]) -> None:
    for unmarked in ("42", "The answer is 42", "#### 42"):
        assert score(unmarked, **spec) == 1
        assert score(unmarked, **spec, strict=True) == 0
    for marked in ("<answer>42</answer>", r"It is \boxed{42}."):
        assert score(marked, **spec, strict=True) == 1
