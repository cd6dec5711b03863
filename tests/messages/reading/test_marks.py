"""The answers that a text marks as its own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.messages.reading.timing import assert_linear
from verl_agent_env.messages.reading import Marked, find_boxed, find_tagged, unwrap


def text_of(found: Marked | None) -> str | None:
    return None if found is None else found.text


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>up</answer>", "up"),
        ("<answer> left </answer> no: <answer> up </answer>", "up"),
        ("no tags", None),
        ("</answer>", None),
        ("<answers>up</answers>", None),
        ("<ANSWER>up</answer>", "up"),
        ("<answer >up</answer >", "up"),
        ("< answer>up< / Answer>", "up"),
        ('<answer type="move">up</answer>', "up"),
        ("<answer>up<\\/answer>", "up"),
    ],
)
def test_the_last_tagged_answer_is_found(text: str, answer: str | None) -> None:
    assert text_of(find_tagged(text, "answer")) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>up", "up"),
        ("I say <answer>up\n", "up"),
        ("<answer>up<answer>", "up"),
        *(
            (f"<answer>up{cut}", "up")
            for cut in ("<", "</", "< /", "</a", "</ANSW", "</answer", "<\\/answer")
        ),
        ("<answer>1 < 2", "1 < 2"),
        ("<answer>a</b", "a</b"),
        ("tags such as <answer> hold it: <answer>up", "up"),
        ("<answer>", ""),
    ],
)
def test_the_end_of_the_text_closes_a_tag(text: str, answer: str) -> None:
    found = find_tagged(text, "answer")
    assert found is not None
    assert (found.text, found.closed) == (answer, False)


@pytest.mark.parametrize(
    "text",
    [
        "I put it into <answer> tags: <answer>up</answer>",
        "<answer>up</answer> is what I put into <answer> tags",
        "It goes between `<answer>` and `</answer>`: <answer>up</answer>",
        "<answer>up</answer> (in `<answer>` and `</answer>`)",
        "<answer>up</answer><answer></answer>",
        "<answer>up</answer><answer>  ",
        "<answer></answer><answer>up",
    ],
)
def test_a_tag_that_is_mentioned_or_empty_does_not_spoil_the_real_one(text: str) -> None:
    assert text_of(find_tagged(text, "answer")) == "up"


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        ("\\boxed{up}", "up"),
        ("\\boxed{a{b}c} x", "a{b}c"),
        ("\\boxed{a} \\boxed{ b }", "b"),
        ("\\boxed {up}", "up"),
        ("\\fbox{up}", "up"),
        ("\\fbox{\\boxed{up}}", "up"),
        ("\\boxed{up} \\boxed{}", "up"),
        ("\\boxed{up} \\boxed{ } \\boxed{", "up"),
        ("\\boxed{\\{1\\}}", "\\{1\\}"),
        ("} \\boxed{up}", "up"),
        ("\\boxed{}", ""),
        ("\\boxed{", ""),
        ("boxed{up}", None),
        ("\\unboxed{up}", None),
        ("\\framebox{up}", "up"),
        ("<|begin_of_box|>left<|end_of_box|> <|begin_of_box|>up<|end_of_box|>", "up"),
        ("<|begin_of_box|>up", "up"),
    ],
)
def test_the_last_box_that_holds_something_is_read(text: str, boxed: str | None) -> None:
    assert text_of(find_boxed(text)) == boxed


def test_the_end_of_the_text_closes_a_box_where_there_is_no_other() -> None:
    assert find_boxed("\\boxed{up") == Marked("up", 7, 9, closed=False)
    assert text_of(find_boxed("\\boxed{left} \\boxed{up")) == "left"


@pytest.mark.parametrize(
    "text",
    [
        *(
            "up",
            " up\n",
            "**up**",
            "*up*",
            "__up__",
            "`up`",
            "```\nup\n```",
            "```text\nup\n```",
            '"up"',
            "'up'",
            "“up”",
            "$up$",
        ),
        *(
            "\\(up\\)",
            "\\[ up \\]",
            "\\boxed{up}",
            "\\fbox{up}",
            "\\text{up}",
            "\\textbf{up}",
            "\\mathrm{up}",
        ),
        *("\\boxed{\\text{ up }}", "**\\boxed {`up`}**", "$$\\boxed{\\mathrm{up}}$$"),
    ],
)
def test_wrappers_are_taken_away(text: str) -> None:
    assert unwrap(text) == "up"


@pytest.mark.parametrize(
    "text",
    ["'a' or 'b'", "\\text{a} and \\text{b}", "**", '"', "''", "\\boxed{a", "(1 + 2) * 3", "*a* b", "2 * 3*"],
)
def test_what_does_not_enclose_all_of_it_stays(text: str) -> None:
    assert unwrap(text) == text


PIECES = [
    *("<answer>", "</answer>", "<answer", "<", ">", "\\boxed{", "\\fbox {", "\\boxed{}", "\\text{", "{", "}"),
    *("\\", "`", "*", '"', "$", " ", "up", "<answer>a</answer>", "`<answer>`"),
]


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_whatever_is_written_is_found_at_its_place(text: str) -> None:
    unwrap(text)
    for found in (find_tagged(text, "answer"), find_boxed(text)):
        assert found is None or text[found.start : found.end].strip() == found.text


@pytest.mark.parametrize("piece", PIECES)
def test_time_is_linear(piece: str) -> None:
    assert_linear(lambda text: find_tagged(text, "answer"), piece)
    assert_linear(find_boxed, piece)
    assert_linear(lambda text: find_boxed(f"\\boxed{{{text}"), piece)
    assert_linear(unwrap, piece)
