"""Texts in every dialect in which models write a call: written here from descriptions, not by the reader's own tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from verl_agent_env.envs.registry import default_registry
from verl_agent_env.messages import Tool

Arguments = Mapping[str, Any]
Writer = Callable[[str, Arguments], str]


class Call(NamedTuple):
    """What is written."""

    name: str
    arguments: dict[str, Any]


def _json(name: str, arguments: Arguments, key: str = "arguments") -> str:
    return json.dumps({"name": name, key: dict(arguments)}, ensure_ascii=False)


def _object(arguments: Arguments) -> str:
    return json.dumps(dict(arguments), ensure_ascii=False)


def _bare(value: Any) -> str:
    """A value as the dialects of XML write it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _function_xml(name: str, arguments: Arguments) -> str:
    parts = "".join(f"<parameter={key}>\n{_bare(value)}\n</parameter>\n" for key, value in arguments.items())
    return f"<function={name}>\n{parts}</function>"


def _invoke_xml(name: str, arguments: Arguments) -> str:
    parts = "".join(
        f'<parameter name="{key}">{_bare(value)}</parameter>\n' for key, value in arguments.items()
    )
    return f'<invoke name="{name}">\n{parts}</invoke>'


def _dsml(name: str, arguments: Arguments, outer: str) -> str:
    parts = "".join(
        f'<｜DSML｜parameter name="{key}" string="{"true" if isinstance(value, str) else "false"}">{_bare(value)}'
        "</｜DSML｜parameter>\n"
        for key, value in arguments.items()
    )
    return f'<｜DSML｜{outer}>\n<｜DSML｜invoke name="{name}">\n{parts}</｜DSML｜invoke>\n</｜DSML｜{outer}>'


def _glm(name: str, arguments: Arguments, gap: str) -> str:
    parts = "".join(
        f"{gap}<arg_key>{key}</arg_key>{gap}<arg_value>{_bare(value)}</arg_value>"
        for key, value in arguments.items()
    )
    return f"<tool_call>{name}{parts}{gap}</tool_call>"


def _python(name: str, arguments: Arguments) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


def _kimi(name: str, arguments: Arguments) -> str:
    call = f"<|tool_call_begin|>functions.{name}:0<|tool_call_argument_begin|>{_object(arguments)}<|tool_call_end|>"
    return f"<|tool_calls_section_begin|>{call}<|tool_calls_section_end|>"


ENVELOPED: dict[str, Writer] = {
    "hermes": lambda n, a: f"<tool_call>\n{_json(n, a)}\n</tool_call>",
    "qwen3-coder": lambda n, a: f"<tool_call>\n{_function_xml(n, a)}\n</tool_call>",
    "qwen3-coder without its tag": _function_xml,
    "qwen2.5-coder": lambda n, a: f"<tools>\n{_json(n, a)}\n</tools>",
    "llama python_tag": lambda n, a: f"<|python_tag|>{_json(n, a, 'parameters')}",
    "llama function": lambda n, a: f"<function={n}>{_object(a)}</function>",
    "llama 4": lambda n, a: f"<|python_start|>[{_python(n, a)}]<|python_end|>",
    "mistral list": lambda n, a: f"[TOOL_CALLS] [{_json(n, a)}]",
    "mistral args": lambda n, a: f"[TOOL_CALLS]{n}[ARGS]{_object(a)}",
    "deepseek v3": lambda n, a: (
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>{n}\n```json\n{_object(a)}\n```"
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    ),
    "deepseek v3.1": lambda n, a: (
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{n}<｜tool▁sep｜>{_object(a)}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    ),
    "deepseek v3.2": lambda n, a: _dsml(n, a, "function_calls"),
    "deepseek v4": lambda n, a: _dsml(n, a, "tool_calls"),
    "glm 4.5": lambda n, a: _glm(n, a, "\n"),
    "glm 4.7": lambda n, a: _glm(n, a, ""),
    "harmony": lambda n, a: (
        "<|channel|>analysis<|message|>Let me see.<|end|><|start|>assistant<|channel|>commentary "
        f"to=functions.{n} <|constrain|>json<|message|>{_object(a)}<|call|>"
    ),
    "harmony, recipient first": lambda n, a: (
        f"<|start|>assistant to=functions.{n}<|channel|>commentary json<|message|>{_object(a)}<|call|>"
    ),
    "harmony without tokens": lambda n, a: (
        f"analysisWe need to call it.assistantcommentary to=functions.{n} json{_object(a)}"
    ),
    "kimi": _kimi,
    "minimax m1": lambda n, a: f"<tool_calls>\n{_json(n, a)}\n</tool_calls>",
    "minimax m2": lambda n, a: f"<minimax:tool_call>\n{_invoke_xml(n, a)}\n</minimax:tool_call>",
    "seed": lambda n, a: f"<seed:tool_call>\n{_function_xml(n, a)}\n</seed:tool_call>",
    "anthropic xml": lambda n, a: f"<function_calls>\n{_invoke_xml(n, a)}\n</function_calls>",
    "anthropic xml, invoke alone": _invoke_xml,
    "olmo 3": lambda n, a: f"<function_calls>{_python(n, a)}</function_calls>",
    "lfm2": lambda n, a: f"<|tool_call_start|>[{_python(n, a)}]<|tool_call_end|>",
    "tool_code": lambda n, a: f"```tool_code\n{_python(n, a)}\n```",
    "tool_code in print": lambda n, a: f"```tool_code\nprint(default_api.{_python(n, a)})\n```",
    "tool_code in tags": lambda n, a: f"<tool_code>\n{_python(n, a)}\n</tool_code>",
    "nemotron": lambda n, a: f"<TOOLCALL>[{_json(n, a)}]</TOOLCALL>",
    "granite": lambda n, a: f"<|tool_call|>[{_json(n, a)}]",
    "phi": lambda n, a: f"functools[{_json(n, a)}]",
    "command": lambda n, a: (
        f'<|START_ACTION|>[{{"tool_call_id": "0", "tool_name": "{n}", "parameters": {_object(a)}}}]<|END_ACTION|>'
    ),
    "internlm": lambda n, a: f"<|action_start|><|plugin|>{_json(n, a, 'parameters')}<|action_end|>",
}
"""Dialects whose calls stand between marks of their own."""

BARE: dict[str, Writer] = {
    "llama json": lambda n, a: _json(n, a, "parameters"),
    "json list": lambda n, a: f"[{_json(n, a)}]",
    "json fence": lambda n, a: f"```json\n{_json(n, a)}\n```",
    "json with a function": lambda n, a: f'{{"type": "function", "function": {_json(n, a)}}}',
    "glm 4": lambda n, a: f"{n}\n{_object(a)}",
    "pythonic": lambda n, a: f"[{_python(n, a)}]",
    "python": _python,
    "react": lambda n, a: f"Thought: This should do.\nAction: {n}\nAction Input: {_object(a)}\nObservation: You won.",
}
"""Dialects that nothing encloses."""

MARKED: dict[str, Writer] = {
    "answer": lambda n, a: f"<answer>{_python(n, a)}</answer>",
    "boxed": lambda n, a: f"\\boxed{{{_python(n, a)}}}",
    "action": lambda n, a: f"<action>{_json(n, a)}</action>",
}
"""Marks of an answer, a call within."""

DIALECTS: dict[str, Writer] = {**ENVELOPED, **BARE, **MARKED}

_RIGHT, _LEFT = (ENVELOPED["hermes"](f"move_{side}", {}) for side in ("right", "left"))
MEAN_RIGHT: dict[str, str] = {
    "a mark in a value": ENVELOPED["hermes"]("move_right", {"why": "left</think> is a hole"}),
    "a mark in a value, prompt's thought": f"{_LEFT}</think>{ENVELOPED['hermes']('move_right', {'why': '<think>'})}",
    "a made-up result": f"{_RIGHT}\n<tool_response>\nYou won.\n</tool_response>\n{_LEFT}",
    "another spelling": '<TOOL_CALL id="1">{"name": "game.Move_Right", "arguments": {}}</TOOL_CALL>',
    "a heading's thought": f"Here is my thought process: {_LEFT} Here is my response: <answer>right</answ",
    "an empty thought": f"<think/>{_RIGHT}",
    "harmony, header begun": " to=functions.move_right<|channel|>commentary<|message|>{}<|call|>",
    "Python in a fence": "```python\nmove_right()\n```",
    "a sentence": "<think>left</think>The answer is **right**.",
    "a bracket": "<reasoning>left</reasoning>[right]",
}
"""Texts that move right in FrozenLake, each for a reason."""

TYPED = Tool(
    "file_write",
    "Writes.",
    {
        "type": "object",
        "properties": {
            "path": {"type": "string"},
            "lines": {"type": "array", "items": {"type": "string"}},
            "mode": {"type": "integer"},
            "ratio": {"type": "number"},
            "force": {"type": "boolean"},
            "owner": {"type": ["string", "null"]},
            "meta": {"$ref": "#/$defs/meta"},
        },
        "required": ["path"],
        "$defs": {"meta": {"type": "object"}},
    },
)
TYPED_CALL = Call(
    "file_write",
    {
        "path": "a b/ü.txt",
        "lines": ['say "hi"', "it's [x], {y}: (z)"],
        "mode": 420,
        "ratio": 0.5,
        "force": True,
        "owner": None,
        "meta": {"k": [1, {"z": False}]},
    },
)


def built_in_tools() -> dict[str, tuple[Tool, ...]]:
    """The tools of the built-in environments that have some, by environment."""
    return {name: default_registry().kind(name).env_class.tools for name in ("frozen_lake", "sokoban", "countdown")}  # type: ignore[attr-defined]


def calls() -> list[tuple[dict[str, Tool], Call]]:
    """A call of each built-in tool, and one with arguments of every type; with the tools that there are."""
    found: list[tuple[dict[str, Tool], Call]] = [({TYPED.name: TYPED}, TYPED_CALL)]
    for tools in built_in_tools().values():
        by_name = {tool.name: tool for tool in tools}
        for name in by_name:
            arguments = {"equation": "(1 + 2) * 3"} if name == "test_equation" else {}
            found.append((by_name, Call(name, arguments)))
    return found
