"""Which format a text is read as, where it holds several."""

from __future__ import annotations

import itertools

import pytest

from verl_agent_env.messages import FORMATS, ParsedAction, Tool, parse_action
from verl_agent_env.messages.reading import FORMAT_NAMES, FormatName

GO = Tool("go", "", {"type": "object", "properties": {"to": {"type": "string"}}, "required": ["to"]})
TOOLS = {"go": GO, "up": Tool("up", "")}


def asks_to_go_up(parsed: ParsedAction) -> bool:
    calls = [(call.name, call.arguments, call.fault) for call in parsed.calls]
    return parsed.words == ["up"] or calls == [("go", {"to": "up"}, None)]


def test_every_format_is_described() -> None:
    assert [each.name for each in FORMATS] == list(FORMAT_NAMES)


@pytest.mark.parametrize(
    ("name", "example"), [(each.name, example) for each in FORMATS for example in each.examples]
)
def test_examples_are_read_by_their_format_alone_and_by_all(name: FormatName, example: str) -> None:
    assert asks_to_go_up(parse_action(example, TOOLS, name))
    assert asks_to_go_up(parse_action(example, TOOLS, ("words", name)))
    assert asks_to_go_up(parse_action(example, TOOLS))


# Of harmony the rest of a text is thought; what nothing encloses comes last.
ENCLOSED = [
    each.name
    for each in FORMATS
    if each.name not in ("words", "json", "pythonic", "llama", "harmony", "react")
]


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(ENCLOSED, 2)))
def test_the_first_in_the_order_is_read_wherever_it_stands(first: str, second: str) -> None:
    if {first, second} <= {"hermes", "qwen3_coder", "glm"}:
        # They share their tags, and are told apart call by call.
        return
    one, other = (next(e.examples[0] for e in FORMATS if e.name == name) for name in (first, second))
    other = other.replace('"up"', '"down"').replace(">up<", ">down<").replace("{up}", "{down}")
    for text in (f"{one}\n{other}", f"{other}\n{one}"):
        assert asks_to_go_up(parse_action(text, TOOLS)), text


def test_marks_come_before_what_nothing_encloses() -> None:
    for bare in ('{"name": "go", "arguments": {"to": "down"}}', "Action: down", 'go(to="down")', "down"):
        for mark in ("<answer>up</answer>", "\\boxed{up}", "<action>up</action>"):
            assert parse_action(f"{mark}\n{bare}", TOOLS).words == ["up"]
    assert parse_action("\\boxed{down} <answer>up</answer> <action>left</action>").words == ["up"]
    assert parse_action("\\boxed{up} <action>left</action>").words == ["up"]


def test_only_the_chosen_formats_are_read() -> None:
    text = (
        '<tool_call>{"name": "go", "arguments": {"to": "down"}}</tool_call> \\boxed{left} <answer>up</answer>'
    )
    assert parse_action(text, TOOLS, "answer").words == ["up"]
    assert parse_action(text, TOOLS, ("boxed", "action")).words == ["left"]
    assert parse_action(text, TOOLS, "qwen3_coder").calls[0].fault is not None
    nothing = parse_action("up", TOOLS, "answer")
    assert (nothing.calls, nothing.words) == ([], [])


def test_what_is_read_is_told_with_its_place() -> None:
    text = "<think>left?</think> I say <answer>up</answer> now.<|im_end|>"
    parsed = parse_action(text)
    assert (parsed.form, parsed.thought) == ("answer", "left?")
    assert parsed.place is not None
    assert text[slice(*parsed.place)] == "up"
    call = 'So: <tool_call>{"name": "go"}</tool_call> yes'
    parsed = parse_action(call)
    assert parsed.place is not None
    assert call[slice(*parsed.place)] == '<tool_call>{"name": "go"}</tool_call>'


@pytest.mark.parametrize(
    "text",
    [
        "**up**",
        "`up`",
        "<answer>**up**</answer>",
        "<answer>\\boxed{up}</answer>",
        "<answer>It is \\boxed{\\text{up}}.</answer>",
        "<answer>\n`up`\n</answer>",
        "<ANSWER >“up”</ANSWER>",
        "\\boxed {\\textbf{up}}",
        "\\fbox{\\mathrm{up}}",
        "<action>'up'",
        "I answer in <answer> tags: \\boxed{up}",
        "Action: up",
        "Thought: not <answer>down</answer>.\nAction: up\nObservation: fine\nAction: down",
        "Action: **up**",
        "up<|im_end|>",
        "<answer>Action: up</answer>",
        "<answer><b>up</b></answer>",
        "<think>left</think><response>up</response>",
        "<final_answer>up</final_answer>",
        "<|begin_of_box|>up<|end_of_box|>",
        "```text\nup\n```",
    ],
)
def test_words_are_freed_of_what_wraps_them(text: str) -> None:
    assert parse_action(text).words == ["up"]


@pytest.mark.parametrize(
    "text",
    [
        "<answer>up || left</answer>",
        "\\boxed{up || left}",
        "<answer>**up** || \\boxed{left}</answer>",
        "`up || left`",
    ],
)
def test_several_moves_are_parted(text: str) -> None:
    assert parse_action(text).words == ["up", "left"]


@pytest.mark.parametrize(
    "text",
    [
        'Call go with {"to": "up"}.',
        'For example:\n{"name": "go", "arguments": {"to": "up"}}\nbut I will not.',
        "I would go(to='up') if I could.",
        '```python\nprint("up")\n```',
        '{"name": "Bob"}',
        '{"name": "Bob", "age": 5}',
        "[1, 2, 3]",
        "(1 + 2) * 3",
        "go",
        "[(1 + 2) * 3]",
    ],
)
def test_prose_and_values_are_no_calls(text: str) -> None:
    assert parse_action(text, TOOLS).calls == []


def test_a_tool_that_takes_one_argument_takes_the_input_of_react_as_it_is() -> None:
    [call] = parse_action("Action: go\nAction Input: up", TOOLS).calls
    assert (call.arguments, call.fault) == ({"to": "up"}, None)
    assert parse_action('Action: go\nAction Input: {"to": "u', TOOLS).calls[0].fault is not None


def test_arguments_without_names_are_in_the_order_of_the_schema() -> None:
    [call] = parse_action("[go('up')]", TOOLS).calls
    assert call.arguments == {"to": "up"}
    assert parse_action("[go('up', 'down')]", TOOLS).calls[0].fault is not None
