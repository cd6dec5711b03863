"""Sections of raw text, one search at a time."""

from __future__ import annotations

import pytest

from verl_agent_env.messages.text import find_boxed, find_tagged, read_sections, strip_thoughts


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("plain", "plain"),
        ("<think>a</think> b <think>c</think> d", "b  d"),
        ("a</think>b", "b"),
        ("a</think>b<think>c</think>d", "bd"),
        ("a <think> b", "a"),
        ("<think></think>", ""),
    ],
)
def test_thoughts_are_taken_out(text: str, spoken: str) -> None:
    assert strip_thoughts(text) == spoken


@pytest.mark.parametrize(
    ("text", "open_ended", "found"),
    [
        ("<a>1</a><a> 2 </a>", False, ["1", "2"]),
        ("<a>1</a><a>2", False, ["1"]),
        ("<a>1</a><a>2", True, ["1", "2"]),
        ("</a><a>", False, []),
        ("</a><a>", True, [""]),
        ("<a><a>1</a>", False, ["<a>1"]),
    ],
)
def test_tagged_texts_are_found(text: str, open_ended: bool, found: list[str]) -> None:
    assert find_tagged(text, "<a>", "</a>", open_ended=open_ended) == found


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        ("\\boxed{up}", "up"),
        ("\\boxed{a{b}c} x", "a{b}c"),
        ("\\boxed{a} \\boxed{ b }", "b"),
        ("\\boxed{\\text{ up }}", "up"),
        ("\\boxed{", None),
        ("\\boxed{{}", None),
        ("boxed{up}", None),
        ("\\boxed{}", ""),
    ],
)
def test_last_box_is_read(text: str, boxed: str | None) -> None:
    assert find_boxed(text) == boxed


def test_order_of_forms_is_tool_call_answer_box_action_word() -> None:
    forms = [
        '<tool_call>{"name": "a"}</tool_call>',
        "<answer>b</answer>",
        "\\boxed{c}",
        "<action>d</action>",
    ]
    assert read_sections("".join(forms)).tool_calls == ['{"name": "a"}']
    assert read_sections("".join(reversed(forms[1:]))).words == ["b"]
    assert read_sections("".join(reversed(forms[2:]))).words == ["c"]
    assert read_sections("so " + forms[3]).words == ["d"]
    assert read_sections("e").words == ["e"]
