"""How an action was read: told before a step by ``reading_of`` and with it by ``include_reading``, alike for every environment."""

from __future__ import annotations

from typing import Any

import pytest

from verl_agent_env.envs.registry import BUILT_IN, default_registry
from verl_agent_env.wire.codec import encode

CHAT: dict[str, Any] = {
    "chat_history": [{"role": "user", "content": "2 + 2?"}],
    "scorer": {"type": "exact_match", "answer": "4"},
}
UNKNOWN = {"id": "c1", "type": "function", "function": {"name": "fly", "arguments": "{}"}}
ACTIONS: list[Any] = [
    "<think>Up?</think><answer>up</answer>",
    "4",
    "I jump",
    "",
    None,
    [],
    {"role": "assistant", "content": "hello"},
    {"role": "assistant", "content": "", "tool_calls": [UNKNOWN]},
    '<tool_call>{"name": "fly", "arguments": {"far": 1e999, "high": 123456789012345678901234567890}}</tool_call>',
    "fly(" + "9" * 40 + ")",
    "\ud800 up",
]


def made(name: str, **kwargs: Any) -> Any:
    kind = default_registry().kind(name)
    needs_chat = "scorer" in kind.arguments_schema()["properties"]
    env = kind.build(kind.validate({**(CHAT if needs_chat else {}), **kwargs}))
    env.reset(seed=1)
    return env


@pytest.mark.parametrize("spec", BUILT_IN, ids=lambda spec: spec.name)
def test_each_step_tells_how_its_action_was_read_as_the_reader_alone_does(spec: Any) -> None:
    env = made(spec.name, include_reading=True)
    for action in ACTIONS:
        if env.ended:
            env.reset(seed=1)
        before = env.reading_of(action)
        info = env.step(action)[4]
        assert encode(info["reading"]) == encode(before), action
        # Rules of the environment may refuse a move; what cannot be read is refused by all.
        assert before["valid"] or not info["action_is_valid"], action
        assert before["valid"] is (before["problem"] is None)


def test_without_the_argument_nothing_is_told() -> None:
    assert "reading" not in made("frozen_lake").step("up")[4]


@pytest.mark.parametrize("name", ["single_turn_chat", "mcp_chat", "python_tool"])
@pytest.mark.parametrize(
    "answer", ["4", "<think>Two and two.</think>4", {"role": "assistant", "content": "up"}]
)
def test_a_text_that_is_the_answer_is_valid_without_a_call(name: str, answer: Any) -> None:
    env = made(name, include_reading=True)
    info = env.step(answer)[4]
    reading = info["reading"]
    assert (reading["calls"], reading["valid"], reading["problem"]) == ([], True, None)
    assert info["action_is_valid"]


@pytest.mark.parametrize("name", ["single_turn_chat", "mcp_chat", "python_tool"])
def test_an_empty_answer_is_a_problem(name: str) -> None:
    env = made(name, include_reading=True)
    info = env.step("")[4]
    assert info["reading"]["problem"] == "The answer has no text."
    assert not info["action_is_valid"]


def test_a_call_a_thought_and_a_place_are_told() -> None:
    text = "<think>To the right.</think><answer>right</answer>"
    reading = made("frozen_lake", desc=["SFG"], include_reading=True).step(text)[4]["reading"]
    assert reading == {
        "form": "answer",
        "thought": "To the right.",
        "calls": [{"name": "move_right", "arguments": {}, "fault": None}],
        "valid": True,
        "problem": None,
        "place": (36, 41),
    }
    assert text[36:41] == "right"


@pytest.mark.parametrize(
    "word",
    [
        *(
            "Right.",
            "(right)",
            "[right]",
            "{right}",
            "[move_right]",
            "- right",
            "# right",
            "> right",
            "right;",
            "<right>",
        ),
        *("\u200bright\ufeff", "ｒｉｇｈｔ", "&quot;right&quot;", "right&nbsp;", "move-right", "MOVE RIGHT"),
        *(
            "<answer>[right]</answer>",
            "\\boxed{{right}}",
            "The answer is right.",
            "<think>left</think> **right**",
        ),
    ],
)
def test_a_move_is_read_whatever_stands_around_it(word: str) -> None:
    reading = made("frozen_lake", desc=["SFG"]).reading_of(word)
    assert [call["name"] for call in reading["calls"]] == ["move_right"]
    assert reading["valid"]


@pytest.mark.parametrize(
    "word", ["not right", "right or left", "right left", "<plan>right</plan>", "right(left)", "rights"]
)
def test_what_is_more_than_a_move_is_none(word: str) -> None:
    assert not made("frozen_lake", desc=["SFG"]).reading_of(word)["valid"]


def test_a_recorded_action_keeps_its_text_where_the_info_depends_on_it() -> None:
    kind = default_registry().kind("frozen_lake")
    assert kind.fitting(kind.validate({})).reads_calls
    assert not kind.fitting(kind.validate({"include_reading": True})).reads_calls
    assert not kind.fitting(kind.validate({"reward_parts": {}})).reads_calls
