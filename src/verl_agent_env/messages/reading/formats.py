"""Formats of actions in text, and the order in which they are searched.

A text with several formats is read in the first of them only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Literal, NamedTuple, TypeAlias, get_args

from verl_agent_env.messages.reading.arguments import Tools
from verl_agent_env.messages.reading.envelopes import ENVELOPES, LOOSE_TAGS, Found
from verl_agent_env.messages.reading.unmarked import (
    MARKS,
    read_fence,
    read_json,
    read_marks,
    read_name_above_json,
    read_name_before_json,
    read_python,
    read_react,
    read_words,
)

FormatName: TypeAlias = Literal[
    "hermes",
    "qwen3_coder",
    "glm",
    "qwen2_5_coder",
    "seed",
    "minimax",
    "deepseek",
    "anthropic_xml",
    "kimi",
    "mistral",
    "llama",
    "harmony",
    "gemma",
    "other_tags",
    "tool_code",
    "react",
    "answer",
    "boxed",
    "action",
    "json",
    "pythonic",
    "words",
]
"""Name of a format of actions in text."""

FORMAT_NAMES: tuple[FormatName, ...] = get_args(FormatName)

ActionFormat: TypeAlias = Literal["auto"] | FormatName | tuple[FormatName, ...]
"""One format, several, or ``auto`` for all of them. The order of the search is fixed."""

Read: TypeAlias = Callable[[str, Tools], Found | None]


class Format(NamedTuple):
    """Format of actions in text, with its documentation."""

    name: FormatName
    writers: str
    """Models that write it."""
    examples: tuple[str, ...]
    """Calls of a tool ``go`` whose argument ``to`` is ``up``, or the word ``up``."""


FORMATS: tuple[Format, ...] = (
    Format(
        "hermes",
        "Hermes, Qwen 2.5 and 3, and most others",
        ('<tool_call>{"name": "go", "arguments": {"to": "up"}}</tool_call>',),
    ),
    Format(
        "qwen3_coder",
        "Qwen3-Coder, Qwen 3.5, Nemotron 3",
        ("<tool_call><function=go><parameter=to>up</parameter></function></tool_call>",),
    ),
    Format(
        "glm",
        "GLM-4.5 and later; GLM-4",
        (
            "<tool_call>go<arg_key>to</arg_key><arg_value>up</arg_value></tool_call>",
            'go\n{"to": "up"}',
        ),
    ),
    Format("qwen2_5_coder", "Qwen2.5-Coder", ('<tools>{"name": "go", "arguments": {"to": "up"}}</tools>',)),
    Format(
        "seed",
        "Seed-OSS",
        ("<seed:tool_call><function=go><parameter=to>up</parameter></function></seed:tool_call>",),
    ),
    Format(
        "minimax",
        "MiniMax M2; M1",
        (
            '<minimax:tool_call><invoke name="go"><parameter name="to">up</parameter></invoke></minimax:tool_call>',
            '<tool_calls>{"name": "go", "arguments": {"to": "up"}}</tool_calls>',
        ),
    ),
    Format(
        "deepseek",
        "DeepSeek V3 and R1; V3.1; V3.2 and later",
        (
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>go\n"
            '```json\n{"to": "up"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
            '<｜tool▁call▁begin｜>go<｜tool▁sep｜>{"to": "up"}<｜tool▁call▁end｜>',
            '<｜DSML｜function_calls><｜DSML｜invoke name="go"><｜DSML｜parameter name="to" string="true">up'
            "</｜DSML｜parameter></｜DSML｜invoke></｜DSML｜function_calls>",
        ),
    ),
    Format(
        "anthropic_xml",
        "Claude in text; the tags around it may be missing",
        (
            '<function_calls><invoke name="go"><parameter name="to">up</parameter></invoke></function_calls>',
            "<function_calls><invoke><tool_name>go</tool_name><parameters><to>up</to></parameters></invoke>"
            "</function_calls>",
        ),
    ),
    Format(
        "kimi",
        "Kimi K2",
        (
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.go:0<|tool_call_argument_begin|>"
            '{"to": "up"}<|tool_call_end|><|tool_calls_section_end|>',
        ),
    ),
    Format(
        "mistral",
        "Mistral, before and since its tokenizer 11",
        (
            '[TOOL_CALLS] [{"name": "go", "arguments": {"to": "up"}}]',
            '[TOOL_CALLS]go[ARGS]{"to": "up"}',
        ),
    ),
    Format(
        "llama",
        "Llama 3 and 4",
        (
            '{"name": "go", "parameters": {"to": "up"}}',
            '<|python_tag|>{"name": "go", "parameters": {"to": "up"}}',
            '<function=go>{"to": "up"}</function>',
        ),
    ),
    Format(
        "harmony",
        "gpt-oss",
        ('<|channel|>commentary to=functions.go <|constrain|>json<|message|>{"to": "up"}<|call|>',),
    ),
    Format(
        "gemma",
        "FunctionGemma; Gemma 4",
        (
            "<start_function_call>call:go{to:<escape>up<escape>}<end_function_call>",
            '<|tool_call>call:go{to:<|"|>up<|"|>}<tool_call|>',
        ),
    ),
    Format(
        "other_tags",
        "Nemotron, Granite, Phi, Command, LongCat, InternLM, Apertus, Solar, Hunyuan, Functionary, Qwen-Agent: JSON in tags of "
        "their own",
        ('<TOOLCALL>[{"name": "go", "arguments": {"to": "up"}}]</TOOLCALL>',),
    ),
    Format("tool_code", "Gemma 3 and Gemini", ('```tool_code\ngo(to="up")\n```',)),
    Format("react", "ReAct", ('Thought: I go up.\nAction: go\nAction Input: {"to": "up"}', "Action: up")),
    Format("answer", "RAGEN and others", ("<answer>up</answer>",)),
    Format("boxed", "GEM and others", ("\\boxed{up}",)),
    Format("action", "verl-agent and others", ("<action>up</action>",)),
    Format(
        "json",
        "JSON alone, as the last lines, or in a fence",
        (
            '{"name": "go", "arguments": {"to": "up"}}',
            '```json\n{"name": "go", "arguments": {"to": "up"}}\n```',
        ),
    ),
    Format("pythonic", "Llama 3.2 and 4, LFM2, Olmo 3", ('[go(to="up")]', 'go(to="up")')),
    Format("words", "anybody", ("up",)),
)
"""Formats in the order in which they are searched; ``json`` includes JSON of Llama and a name above JSON of GLM."""


def read_action_text(text: str, tools: Tools, action_format: ActionFormat = "auto") -> Found | None:
    """Read calls or words from a text without thoughts, in the first format that it contains."""
    for mark, read in _readers(action_format):
        if mark in text:
            found = read(text, tools)
            if found is not None:
                return found
    return None


@lru_cache(maxsize=256)
def _readers(action_format: ActionFormat) -> tuple[tuple[str, Read], ...]:
    """Return the readers of the chosen formats, in order, each with the text that it requires."""
    if action_format == "auto":
        chosen: frozenset[str] = frozenset(FORMAT_NAMES)
    else:
        chosen = frozenset((action_format,) if isinstance(action_format, str) else action_format)
    envelopes = [envelope.restricted_to(chosen) for envelope in ENVELOPES]
    readers: list[tuple[str, Read]] = [
        (envelope.mark, envelope.read) for envelope in envelopes if envelope.bodies
    ]
    loose = LOOSE_TAGS.restricted_to(chosen)
    marks = tuple(mark for mark in MARKS if mark in chosen)
    further: tuple[tuple[bool, str, Read], ...] = (
        ("react" in chosen, ":", read_react),
        (bool(marks), "", partial(read_marks, marks=marks)),
        ("react" in chosen, ":", partial(read_react, alone=True)),
        ("json" in chosen, "```", read_fence),
        ("json" in chosen, "~~~", read_fence),
        (not chosen.isdisjoint(("json", "llama")), "{", read_json),
        ("glm" in chosen, "{", read_name_above_json),
        ("mistral" in chosen, "{", read_name_before_json),
        ("pythonic" in chosen, "(", read_python),
        (bool(loose.bodies), loose.mark, loose.read),
        ("words" in chosen, "", read_words),
    )
    return (*readers, *((mark, read) for is_chosen, mark, read in further if is_chosen))
