"""Calls in spellings that models and their servers make of the dialects, after public bug reports."""

from __future__ import annotations

from typing import Any

import pytest

from tests.messages.reading.timing import assert_linear
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
        # Kimi and Mistral, without tokens, or without those between.
        (f"functions.up:0{{}}functions.search:1{INPUT}", [UP, CATS]),
        (f"functions.search:0 {INPUT}", [CATS]),
        (f"[TOOL_CALLS]up{{}}search{INPUT}", [UP, CATS]),
        # Functionary.
        (f">>>search\n{INPUT}", [CATS]),
        (">>>all\nI go up.\n>>>up\n{}", [UP]),
        ("all\nI go up.\n>>>up\n{}", [UP]),
        (f"up\n{{}}\n>>>search\n{INPUT}", [UP, CATS]),
        (f"<|from|>assistant\n<|recipient|>search\n<|content|>{INPUT}<|stop|>", [CATS]),
        (" all\n<|content|>Up.\n<|from|>assistant\n<|recipient|>up\n<|content|>{}<|stop|>", [UP]),
        # Hunyuan, LongCat, Solar, Apertus.
        (f"<tool_call>search<tool_sep>\n```json\n{INPUT}\n```\n</tool_call>", [CATS]),
        (
            "<tool_calls><tool_call>search<tool_sep>\n<arg_key>query</arg_key><arg_value>cats</arg_value>"
            "<arg_key>top_k</arg_key><arg_value>3</arg_value></tool_call></tool_calls>",
            [CATS],
        ),
        (
            "<longcat_tool_call>search\n<longcat_arg_key>query</longcat_arg_key><longcat_arg_value>cats</longcat_arg_value>"
            "<longcat_arg_key>top_k</longcat_arg_key><longcat_arg_value>3</longcat_arg_value></longcat_tool_call>",
            [CATS],
        ),
        (
            f"<|tool_call:begin|>1<|tool_call:name|>search<|tool_call:args|>{INPUT}<|tool_call:end|>"
            "<|tool_call:begin|>2<|tool_call:name|>up<|tool_call:args|>{}<|tool_call:end|>",
            [CATS, UP],
        ),
        (f'<|tools_prefix|>[{{"search": {INPUT}}}, {{"up": {{}}}}]<|tools_suffix|>', [CATS, UP]),
        # Elements.
        (f"<tool_call>\n<name>search</name>\n<arguments>{INPUT}</arguments>\n</tool_call>", [CATS]),
        (
            "<tool_use><name>search</name><arguments><query>cats</query><top_k>3</top_k></arguments></tool_use>",
            [CATS],
        ),
        ("<tool_call><tool_name>up</tool_name></tool_call>", [UP]),
        # A tag within a value.
        (
            "<tool_call><function=search><parameter=query>the <parameter=x> tag</parameter></function></tool_call>",
            [("search", {"query": "the <parameter=x> tag"})],
        ),
        # Fences.
        ("Thought: Hm.\nCode:\n```py\nup()\n```<end_code>", [UP]),
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


NESTED = Tool(
    "set",
    "",
    {
        "type": "object",
        "properties": {"options": {"type": "object"}, "tags": {"type": "array"}, "flag": {"type": "boolean"}},
    },
)


@pytest.mark.parametrize("quote", ["<escape>", '<|"|>'])
def test_values_within_values_of_gemma_are_read(quote: str) -> None:
    written = 'call:set{options:{a:1,b:Qit\'s "x"Q},tags:[Qp, qQ,2],flag:true}'.replace("Q", quote)
    text = (
        f"<start_function_call>{written}<end_function_call>"
        if quote == "<escape>"
        else f"<|tool_call>{written}<tool_call|>"
    )
    [call] = parse_action(text, {"set": NESTED}).calls
    assert call.arguments == {"options": {"a": 1, "b": 'it\'s "x"'}, "tags": ["p, q", 2], "flag": True}
    [cut] = parse_action(text[: text.index(",flag")], {"set": NESTED}).calls
    assert cut.fault is not None


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call><name>search</name><arguments>{"query": "ca',
        "<tool_call><name>search</name><arguments><query>cats</query>",
        "<|tool_call:begin|>1<|tool_call:name|>search<|tool_call:args|>{",
        '<|tools_prefix|>[{"search": {"query": "cats"}',
        'functions.search:0{"query": "ca',
        "functions.up:0{} and then",
        '>>>search\n{"query": "ca',
        '[TOOL_CALLS]search{"query": "ca',
    ],
)
def test_a_call_that_is_cut_off_is_told(text: str) -> None:
    assert parse_action(text, TOOLS).calls[-1].fault is not None


@pytest.mark.parametrize(
    "piece",
    [
        *(
            ">>>up\n{",
            ">>>all\n",
            "<|recipient|>up\n{",
            "<|tool_call:begin|>1<|tool_call:name|>up<|tool_call:args|>{",
        ),
        *(
            "<|tools_prefix|>[{",
            "<tool_call><name>up</name>",
            "<arguments>",
            "up{}",
            "up:0{",
            "[TOOL_CALLS]up{}up{",
        ),
        *(
            "<longcat_arg_key>",
            "<tool_sep>",
            "\n<tool_result>",
            "</action><observation>",
            "<start_function_call>call:up{a:{<escape>",
        ),
    ],
)
def test_time_is_linear(piece: str) -> None:
    assert_linear(lambda text: parse_action(text, TOOLS), piece)
    assert_linear(lambda text: parse_action(f"<tool_call>{text}", TOOLS), piece)
