"""Calls in spellings that models and their servers make of the dialects, after public bug reports."""

from __future__ import annotations

from typing import Any

import pytest

from verl_agent_env.messages import Tool, parse_action

TOOLS = {
    tool.name: tool
    for tool in (
        Tool("up", ""),
        Tool("down", ""),
        Tool(
            "search",
            "",
            {
                "type": "object",
                "properties": {"query": {"type": "string"}, "top_k": {"type": "integer"}},
                "required": ["query"],
            },
        ),
    )
}
Called = tuple[str, dict[str, Any]]
UP: Called = ("up", {})
DOWN: Called = ("down", {})
CATS: Called = ("search", {"query": "cats", "top_k": 3})
INPUT = '{"query": "cats", "top_k": 3}'
INVOKED = (
    '<{0}invoke name="search"><{0}parameter name="query">cats</{0}parameter>'
    '<{0}parameter name="top_k">3</{0}parameter></{0}invoke>'
)


def calls_of(text: object) -> list[Called]:
    calls = parse_action(text, TOOLS).calls
    assert [call.fault for call in calls] == [None] * len(calls), text
    return [(call.name, call.arguments) for call in calls]


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        # Tags.
        ('<tool_call>{"name": "up", "arguments": {}}<tool_call>', [UP]),
        ('<tool_call>{"name": "up", "arguments": {}}</tool_call></tool_call>', [UP]),
        ('<tool_call id="1">{"name": "up", "arguments": {}}</tool_call>', [UP]),
        ('<TOOL_CALL>{"name": "up", "arguments": {}}</TOOL_CALL>', [UP]),
        ('<tool_call >{"name": "up", "arguments": {}}</tool_call >', [UP]),
        ('<tool-call>{"name": "up", "arguments": {}}</tool-call>', [UP]),
        ('<toolcall>{"name": "up", "arguments": {}}</toolcall>', [UP]),
        ('<tool>{"name": "up", "arguments": {}}</tool>', [UP]),
        ('<tool_use>{"name": "up", "input": {}}</tool_use>', [UP]),
        ('<function>{"name": "up", "parameters": {}}</function>', [UP]),
        ('<functioncall> {"name": "search", "arguments": \'' + INPUT + "'} <|endoftext|>", [CATS]),
        ('<|tool_calls|>[{"name": "up", "arguments": {}}]</|tool_calls|>', [UP]),
        ("<tool_call>up()</tool_call>", [UP]),
        ('<tool_call>search(query="cats", top_k=3)</tool_call>', [CATS]),
        # Keys.
        ('<tool_call>{"tool_name": "up", "tool_args": {}}</tool_call>', [UP]),
        ('<tool_call>{"name": "search", "query": "cats", "top_k": 3}</tool_call>', [CATS]),
        ('{"name": "search", "query": "cats", "top_k": 3}', [CATS]),
        ('<tool_call>{"name": "up", "reason": "It is free."}</tool_call>', [UP]),
        # Llama.
        ('<|python_tag|>search.call(query="cats", top_k=3)', [CATS]),
        (f"<function=search>{INPUT}<function>", [CATS]),
        (f"<function=search{INPUT}></function>", [CATS]),
        # Python.
        ("```python\n[up()]\n```", [UP]),
        ("```py\nup()\ndown()\n```", [UP, DOWN]),
        ('result = search(query="cats", top_k=3)', [CATS]),
        ("```tool_code\nresult = up()\nprint(result)\n```", [UP]),
        # DeepSeek, MiniMax, Step.
        (f"<｜tool▁calls▁begin｜>search<｜tool▁sep｜>{INPUT}<｜tool▁calls▁end｜>", [CATS]),
        (f"<|DSML|function_calls>{INVOKED.format('|DSML|')}</|DSML|function_calls>", [CATS]),
        (INVOKED.format("steptml:"), [CATS]),
        # Mistral, without its tokens.
        (f"search[ARGS]{INPUT}", [CATS]),
        (f"search{INPUT}", [CATS]),
        # Harmony, whose header the prompt began.
        (f" to=functions.search<|channel|>commentary<|constrain|>json<|message|>{INPUT}<|call|>", [CATS]),
        # Qwen-Agent.
        (f"✿FUNCTION✿: search\n✿ARGS✿: {INPUT}\n✿RESULT✿: nothing", [CATS]),
        # Fences.
        ('~~~json\n{"name": "up", "arguments": {}}\n~~~', [UP]),
        ('```json {"name": "up", "arguments": {}} ```', [UP]),
        ('Here: ```json\n{"name": "up", "arguments": {}}\n```', [UP]),
        # ReAct.
        ("Thought: Hm.\nAction: search[cats]", [("search", {"query": "cats"})]),
        ("Thought 1: Hm.\nAction 1: up\nAction Input 1: {}", [UP]),
        ("Action: [up]\nAction Input: {}", [UP]),
        ("Action: up, Action Input: {}", [UP]),
        ("<answer>Action: up\nAction Input: {}</answer>", [UP]),
    ],
)
def test_a_call_in_another_spelling_is_read(text: str, calls: list[Called]) -> None:
    assert calls_of(text) == calls


@pytest.mark.parametrize(
    "result",
    [
        *(
            "<tool_response>",
            "<function_results>",
            "[TOOL_RESULTS]",
            "<｜tool▁outputs▁begin｜>",
            "<tool_result>",
        ),
        *("<function_response>", "<tool_outputs>", "<|tool_response|>", "<|START_TOOL_RESULT|>"),
        *("<start_function_response>", "<tool_call_result>", "```tool_output\n"),
    ],
)
def test_what_follows_a_result_that_the_model_made_up_is_not_its_action(result: str) -> None:
    up, down = (f'<tool_call>{{"name": "{name}", "arguments": {{}}}}</tool_call>' for name in ("up", "down"))
    assert calls_of(f"{up}\n{result}You won.\n{down}") == [UP]
    assert calls_of(f"{result}You won.\n{down}") == [DOWN]
    assert calls_of(f"<think>Hm.</think>{result}You won.\n{down}") == [DOWN]
    assert calls_of(f"After {result} I go. {down}") == [DOWN]


@pytest.mark.parametrize(
    ("call", "rest"),
    [
        (
            "[TOOL_CALLS]up[ARGS]{}",
            '[TOOL_RESULTS]{"content": "You won."}[/TOOL_RESULTS][TOOL_CALLS]down[ARGS]{}',
        ),
        ("```tool_code\nup()\n```\n", "```tool_output\nYou won.\n```\n```tool_code\ndown()\n```"),
        (
            "<|start|>assistant<|channel|>commentary to=functions.up<|message|>{}<|call|>",
            "<|start|>functions.up to=assistant<|channel|>commentary<|message|>{}<|end|>"
            "<|start|>assistant<|channel|>commentary to=functions.down<|message|>{}<|call|>",
        ),
        (
            "<|channel|>commentary to=functions.up<|message|>{}<|call|>",
            "<|start|>user<|message|>Go on.<|end|><|start|>assistant to=functions.down<|message|>{}<|call|>",
        ),
        (
            "<tool_call>up()</tool_call>\n",
            "<observation>You won.</observation>\n<tool_call>down()</tool_call>",
        ),
        (
            "<tool_call>up()</tool_call>",
            "<|header_start|>user<|header_end|>Go on.<tool_call>down()</tool_call>",
        ),
        (
            "<tool_call>up()</tool_call>",
            "<|im_system|>tool<|im_middle|>You won.<tool_call>down()</tool_call>",
        ),
        ("<tool_call>up()</tool_call>", "<|turn>user\nGo on.<tool_call>down()</tool_call>"),
        ("<tool_call>up()</tool_call>", "[|tool|]You won.<tool_call>down()</tool_call>"),
    ],
)
def test_what_others_say_in_the_models_text_is_not_its_action(call: str, rest: str) -> None:
    assert calls_of(call + rest) == [UP]


@pytest.mark.parametrize(
    "text",
    [
        "<plan>Look.</plan>\n<observation>It is free.</observation>\n<tool_call>up()</tool_call>",
        "<|header_start|>assistant<|header_end|>\n\n<tool_call>up()</tool_call>",
        "<|im_assistant|>assistant<|im_middle|><tool_call>up()</tool_call>",
        "<|turn>model\n<tool_call>up()</tool_call>",
        "<|start|>assistant<|channel|>commentary to=functions.up<|message|>{}<|call|>",
    ],
)
def test_what_the_model_says_before_its_action_does_not_end_its_turn(text: str) -> None:
    assert calls_of(text) == [UP]


@pytest.mark.parametrize(
    "text",
    [
        "<answer>up</answer> and not the <tool>hammer</tool>",
        "I use the <tool> tag in: <answer>up</answer>",
        'The <function> tag, <tool_use>{"name": "down"}</tool_use>: <answer>up</answer>',
    ],
)
def test_a_marked_answer_comes_before_tags_in_another_spelling(text: str) -> None:
    assert parse_action(text, TOOLS).words == ["up"]


MARKS_IN_VALUES = [
    "what <think> means",
    "</think>",
    "<think>a</think> tags",
    "the <|im_end|> token",
    "[TOOL_RESULTS] and </s> <s>",
    "<|channel|>analysis<|message|>",
]


@pytest.mark.parametrize("query", MARKS_IN_VALUES)
@pytest.mark.parametrize(
    "form",
    [
        '<tool_call>{"name": "search", "arguments": {"query": "QUERY"}}</tool_call>',
        '<think>Hm.</think>{"name": "search", "arguments": {"query": "QUERY"}}',
        '```json\n{"name": "search", "arguments": {"query": "QUERY"}}\n```',
        "<tool_call><function=search><parameter=query>QUERY</parameter></function></tool_call>",
        "<tool_call>search<arg_key>query</arg_key><arg_value>QUERY</arg_value></tool_call>",
        '<function_calls><invoke name="search"><parameter name="query">QUERY</parameter></invoke></function_calls>',
        '[search(query="QUERY")]',
        '[TOOL_CALLS]search[ARGS]{"query": "QUERY"}',
        '<|channel|>commentary to=functions.search<|message|>{"query": "QUERY"}<|call|>',
    ],
)
def test_a_mark_in_a_value_belongs_to_the_value(form: str, query: str) -> None:
    assert calls_of(form.replace("QUERY", query)) == [("search", {"query": query})]


@pytest.mark.parametrize(
    "draft",
    [
        '<tool_call>{"name": "search", "arguments": {"query": "cats',
        "<tool_call><function=search><parameter=query>cats",
        'search(query="cats',
        '{"name": "up"}, or {"name": "down"}',
        "{'a'} {'b'} {'c'}",
    ],
)
def test_a_draft_that_is_cut_off_by_the_end_of_a_thought_is_thought(draft: str) -> None:
    for call in (
        '<tool_call>{"name": "up", "arguments": {}}</tool_call>',
        "<tool_call><function=up></function></tool_call>",
        "<tool_call><function=search><parameter=query>up</parameter></function></tool_call>",
    ):
        expected = calls_of(call)
        assert calls_of(f"Maybe {draft}</think>{call}") == expected
        assert calls_of(f"<think>Maybe {draft}</think>{call}") == expected
