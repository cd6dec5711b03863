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


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("The answer is 42? No. It is 41.", None),
        ("The answer is B?", None),
        ("**The answer is B?**", None),
        ("The answer is 42. No, it is 41.", None),
        ("The answer is B... no, C", None),
        ("The answer is 42.\nNo, wait. It is 41", None),
        ("The answer is 42. Sorry, 41.", None),
        ("The answer could be 42.", None),
        ("The answer may be 42", None),
        ("The wrong answer is 42", None),
        ("My previous answer is 42.", None),
        ("Let the answer be 42", None),
        ("The answer is > 42", "> 42"),
        ("Answer => 42", "42"),
        ("Answer:\n> 42", "42"),
        ("The answer is 42 ✅", "42"),
        ("**The answer is 42** 😊", "42"),
        ("The answer is 41. No, the answer is 42.", "42"),
        ("The answer is 42. No other value works.", "42"),
        ("The answer is 42. Wait, let me verify: yes.", "42"),
        ("The answer is **42**!", "42"),
        ("The answer is 4!", "4!"),
        ("The correct option is B.", "B."),
    ],
)
def test_what_is_asked_or_taken_back_is_not_stated(text: str, stated: str | None) -> None:
    assert next(iter(stated_answers(text)), None) == stated
