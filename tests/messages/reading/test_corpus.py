"""Every dialect, with every built-in tool: good, cut off, nested, doubled, and within a thought."""

from __future__ import annotations

import pytest

from tests.messages.reading.corpus import BARE, DIALECTS, ENVELOPED, MARKED, TYPED, TYPED_CALL, Call, calls
from verl_agent_env.messages import Tool, parse_action

CALLS = calls()
THOUGHTS = ("<think>", "<thinking>", "<reasoning>", "[THINK]", "◁think▷", "<seed:think>")
Tools = dict[str, Tool]

# All calls in one test: as seven thousand tests they took ten times as long to set up as to read.
every_dialect = pytest.mark.parametrize("dialect", DIALECTS)


def read(text: str, tools: Tools) -> list[Call]:
    """The calls of a text, each of them well-formed."""
    parsed = parse_action(text, tools)
    assert [call.fault for call in parsed.calls] == [None] * len(parsed.calls), text
    return [Call(call.name, call.arguments) for call in parsed.calls]


def other_tool(tools: Tools, call: Call) -> Call:
    names = [name for name in tools if name != call.name]
    return Call(names[0], {}) if names else call


def is_xml(dialect: str) -> bool:
    """Whether each argument has a tag of its own."""
    return dialect.startswith(
        ("qwen3-coder", "seed", "minimax m2", "anthropic", "glm 4.", "deepseek v3.2", "deepseek v4")
    )


def may_stand_twice(dialect: str) -> bool:
    """Whether one call may follow another."""
    is_whole_answer = dialect in BARE and dialect not in ("llama json", "json fence", "python")
    return not is_whole_answer and "without tokens" not in dialect


@every_dialect
def test_a_call_is_read(dialect: str) -> None:
    for tools, call in CALLS:
        text = DIALECTS[dialect](*call)
        for end in ("", "<|im_end|>", "</s>", "<|eot_id|>", "\n<|endoftext|>"):
            assert read(f"{text}{end}", tools) == [call]


@every_dialect
def test_a_call_that_is_cut_off_is_read_whole_or_not_at_all(dialect: str) -> None:
    for tools, call in CALLS:
        text = DIALECTS[dialect](*call)
        for length in range(len(text)):
            parsed = parse_action(text[:length], tools)
            # A name that is cut off is no tool's. Between two values of XML a call counts as closed.
            for each in parsed.calls:
                if (
                    each.fault is None
                    and each.name in tools
                    and tools[each.name].fault(each.arguments) is None
                ):
                    assert each.name == call.name
                    assert each.arguments == call.arguments or (
                        is_xml(dialect) and each.arguments.items() <= call.arguments.items()
                    ), text[:length]


@pytest.mark.parametrize("dialect", ENVELOPED)
def test_words_around_a_call_do_not_matter(dialect: str) -> None:
    for tools, call in CALLS:
        text = ENVELOPED[dialect](*call)
        if dialect != "harmony without tokens":
            assert read(f"I will do it now.\n\n{text}", tools) == [call]
        if "harmony" not in dialect and dialect != "granite":
            assert read(f"{text}\nThat was it.", tools) == [call]


@pytest.mark.parametrize("dialect", [dialect for dialect in DIALECTS if "harmony" not in dialect])
def test_nested_calls_are_read_once(dialect: str) -> None:
    for tools, call in CALLS:
        text = DIALECTS[dialect](*call)
        if dialect != "react":
            assert read(f"<answer>{text}</answer>", tools) == [call]
        opening, closing = ("<tool_call>", "</tool_call>")
        if dialect == "hermes":
            assert read(f"{opening}{text}{closing}", tools) == [call]
            assert read(f"{opening} opens it: {text}", tools) == [call]
            fenced = text.replace(opening, f"{opening}\n```json").replace(closing, f"```\n{closing}")
            assert read(fenced, tools) == [call]


@pytest.mark.parametrize("dialect", [dialect for dialect in DIALECTS if may_stand_twice(dialect)])
def test_doubled_calls_are_read_one_by_one(dialect: str) -> None:
    for tools, call in CALLS:
        text = DIALECTS[dialect](*call)
        # Of marked answers the last one counts: models correct themselves.
        expected = [call] if dialect in MARKED else [call, call]
        assert read(f"{text}\n{text}", tools) == expected


@pytest.mark.parametrize("dialect", [dialect for dialect in DIALECTS if "harmony" not in dialect])
def test_a_call_within_a_thought_is_not_read(dialect: str) -> None:
    for tools, call in CALLS:
        draft = DIALECTS[dialect](*other_tool(tools, call))
        text = DIALECTS[dialect](*call)
        for tag in THOUGHTS:
            end = tag.replace("<", "</").replace("[", "[/").replace("◁", "◁/")
            assert read(f"{tag}Maybe {draft}\nor not.{end}\n{text}", tools) == [call]
            assert read(f"Maybe {draft}\nor not.{end}\n{text}", tools) == [call]
            cut_off = parse_action(f"{tag}Maybe {draft}", tools)
            assert (cut_off.calls, cut_off.words) == ([], []), tag
            assert draft in cut_off.thought


@every_dialect
def test_words_and_types_survive(dialect: str) -> None:
    assert read(DIALECTS[dialect](*TYPED_CALL), {TYPED.name: TYPED}) == [TYPED_CALL]
