"""Answers that a text states in a sentence, where a word may be said about an answer, or be one."""

from __future__ import annotations

import pytest

from verl_agent_env.messages.reading import stated_answers

MOVES = ("up", "right")


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("The answer is right.", "right"),
        ("The correct answer is right", "right"),
        ("Answer: right", "right"),
        ("A puzzle.\n**The answer is right**", "right"),
        ("The answer is up.", "up"),
        # Something is said about an answer.
        ("The answer is up. The answer is right.", "up"),
        ("The answer is up, and that answer is right.", "up, and that answer is right"),
        ("The answer up is right.", None),
        ("My answer is quite right.", None),
        ("The answer is right because there is no hole.", None),
        ("The answer is correct.", None),
    ],
)
def test_right_is_an_answer_where_it_can_be_one_and_no_other_is_stated(text: str, stated: str | None) -> None:
    assert next(iter(stated_answers(text, MOVES.__contains__)), None) == stated


@pytest.mark.parametrize("text", ["The answer is right.", "Answer: right"])
def test_elsewhere_right_is_said_about_an_answer(text: str) -> None:
    assert stated_answers(text) == ()
