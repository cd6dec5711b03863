"""An answer equals a reference in a chosen form, and in bounded time."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from pydantic import ValidationError

from tests.cpu import assert_within
from verl_agent_env.envs.scorers import NoScorer, parse_scorer


def score(text: str, /, **spec: Any) -> float:
    return parse_scorer(spec).score(text)


def test_none_is_worth_nothing() -> None:
    assert NoScorer().score("anything") == 0.0


@pytest.mark.parametrize(
    ("answer", "options", "reward"),
    [
        ("Paris", {}, 1),
        ("  Paris\n", {}, 1),
        ("paris", {}, 0),
        ("paris", {"ignore_case": True}, 1),
        ("Paris!", {}, 0),
        ("Paris!", {"ignore_punctuation": True}, 1),
        (" Paris", {"strip": False, "extract": "whole"}, 1),
        ("<answer>Paris</answer>", {}, 1),
        ("<answer>Paris</answer>", {"extract": "whole"}, 0),
        ("Rome", {"reward": 2, "wrong_reward": -1}, -1),
        ("Paris", {"reward": 2, "wrong_reward": -1}, 2),
        ("Rome", {"answer": ["Paris", "Rome"]}, 1),
        ("Pariſ", {"normalize": "NFKC"}, 1),
    ],
)
def test_exact_match_compares_in_the_chosen_form(answer: str, options: dict[str, Any], reward: float) -> None:
    assert score(answer, **{"type": "exact_match", "answer": "Paris", **options}) == reward


def test_exact_match_needs_a_reference() -> None:
    with pytest.raises(ValidationError):
        parse_scorer({"type": "exact_match", "answer": []})


def test_piled_up_combining_marks_match_nothing_at_once() -> None:
    pile = "a" + "\u0315" * 10_000 + "\u0334" * 10_000
    assert score(pile, type="exact_match", answer="a") == 0
    assert_within(0.1, lambda: score(pile, type="exact_match", answer="a"))
    with pytest.raises(ValidationError):
        parse_scorer({"type": "exact_match", "answer": pile})
    assert score("e\u0301", type="exact_match", answer="\u00e9") == 1


def test_answer_of_any_length_is_compared_at_once() -> None:
    text = "é" * 2_000_000
    assert score(text, type="exact_match", answer="é", extract="whole") == 0
    assert_within(0.5, lambda: score(text, type="exact_match", answer="é", extract="whole"))


def test_missing_part_is_wrong() -> None:
    assert score("Paris", type="exact_match", answer="Paris", extract="boxed", wrong_reward=-0.5) == -0.5


# --- what else does not count ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "answers"),
    [
        ("stops", ["B.", "B!", "B。", "B ;", "B..."]),
        ("quotes", ['"B"', "'B'", "“B”", "«B»", "「B」"]),
        (
            "emphasis",
            ["**B**", "*B*", "__B__", "`B`", "$B$", r"\(B\)", r"\text{B}", r"\textbf{B}", "***B***"],
        ),
        ("brackets", ["(B)", "[B]", "B)", "(B.", "{B}", "B."]),
        ("articles", ["the B", "The  B", "a B", "an B"]),
    ],
)
def test_what_is_ignored_does_not_count_and_else_does(option: str, answers: list[str]) -> None:
    for answer in answers:
        tagged = f"<answer>{answer}</answer>"
        assert score(tagged, type="exact_match", answer="B", ignore=[option]) == 1, answer
        assert score(tagged, type="exact_match", answer="B") == 0, answer


ALL = ["stops", "quotes", "emphasis", "brackets", "articles"]


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("B", '**"(B)."**'),
        ("B", "The answer is **(B)**."),
        ("(B)", "B"),
        ("B", "`(B)`"),
        ("Eiffel Tower", "the Eiffel Tower."),
        ("The Eiffel Tower", "<answer>Eiffel Tower</answer>"),
        ("Paris", r"\boxed{\text{Paris.}}"),
        ("cat in hat", "The cat in the hat"),
    ],
)
def test_ignored_things_may_be_wrapped_in_each_other(reference: str, answer: str) -> None:
    assert score(answer, type="exact_match", answer=reference, ignore=ALL) == 1


@pytest.mark.parametrize(
    "answer", ["(B) or (C)", "C", "(C)", "B and C", '"B" "C"', "not B", "AB", "B)C", "theB", "", "..."]
)
def test_another_answer_stays_wrong_whatever_is_ignored(answer: str) -> None:
    assert score(answer, type="exact_match", answer="B", ignore=ALL) == 0


@pytest.mark.parametrize(
    "answer", ["The answer is Paris", "Rome? No.\nFinal answer: Paris", "Paris", "#### Paris"]
)
def test_what_a_text_says_its_answer_is_counts(answer: str) -> None:
    assert score(answer, type="exact_match", answer="Paris") == 1


@pytest.mark.parametrize(
    "answer",
    [
        "I thought of Paris",
        "Paris, or Rome",
        "The answer is not Paris",
        "The answer is Paris or Rome",
        "Paris\nRome",
    ],
)
def test_what_is_only_named_does_not_count(answer: str) -> None:
    assert score(answer, type="exact_match", answer="Paris", ignore=ALL) == 0


def test_whole_text_may_look_like_a_statement() -> None:
    assert score("The answer is Paris", type="exact_match", answer="The answer is Paris") == 1


def test_references_together_are_bounded() -> None:
    with pytest.raises(ValidationError):
        parse_scorer({"type": "exact_match", "answer": ["a" * 20_000] * 3})


def test_text_that_grows_beyond_the_limit_equals_nothing() -> None:
    # NFKC makes 18 characters of this one.
    text = "\ufdfa" * 3_000
    assert score(text, type="exact_match", answer=text) == 1
    assert score(text, type="exact_match", answer=text, normalize="NFKC") == 0


@pytest.mark.parametrize("piece", ["\ufdfa", "é", "a ", "(", "**", "the ", "a\u0301"])
def test_long_answer_and_many_references_take_no_time(piece: str) -> None:
    references = [piece * (390 // len(piece)) + str(nth) for nth in range(100)]
    scorer = parse_scorer(
        {"type": "exact_match", "answer": references, "normalize": "NFKC", "ignore_case": True, "ignore": ALL}
    )
    for length in (40_000, 1_000_000):
        text = piece * (length // len(piece))
        assert scorer.score(text) == 0
        assert_within(0.5, functools.partial(scorer.score, text))


@pytest.mark.parametrize("text", ["B\u200b", "\ufeffB", "```text\nB\n```", "B）", "（B）", "**(B)**."])
def test_more_that_may_stand_around_a_choice_is_ignored(text: str) -> None:
    ignored = ["stops", "quotes", "emphasis", "brackets"]
    assert score(text, type="exact_match", answer="B", ignore=ignored) == 1


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        ("Paris", "The answer is Paris - no, London."),
        ("Paris", "The answer is Paris, no wait, London."),
        ("Paris", "I wonder whether the answer is Paris"),
        ("A) or (B", "(A) or (B)"),
        ("a' or 'b", "'a' or 'b'"),
    ],
)
def test_what_is_taken_back_and_what_only_looks_enclosed_does_not_match(reference: str, text: str) -> None:
    ignored = ["stops", "quotes", "emphasis", "brackets"]
    assert score(text, type="exact_match", answer=reference, ignore=ignored) == 0
