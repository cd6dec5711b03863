"""Parsers of the text between the marks of a tool call: JSON, XML with named parts, key and value tags, Python.

Each parser returns the calls that it finds, or ``None`` if the text is of another format. A call that is cut off or
malformed has no name, or has unreadable text as its arguments.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from verl_agent_env.messages.reading.arguments import (
    MAX_CALLS,
    Tools,
    WrittenCall,
    clean_name,
    first_value,
    read_calls,
    read_texts,
    unfence,
)
from verl_agent_env.messages.reading.literals import (
    ASSIGNED,
    MalformedError,
    PythonCall,
    read_value,
    scan_call,
    scan_value,
    skip_blanks,
)
from verl_agent_env.messages.reading.tagged_calls import element_call, function_calls, invoke_calls


class Body(NamedTuple):
    """Text between the marks of a call."""

    text: str
    closed: bool
    """True if the closing mark exists; else the text ends here."""


BodyReader: TypeAlias = Callable[[Body, Tools], "list[WrittenCall] | None"]

_KEY_TOKEN = re.compile(r"<(/?)(?:longcat_)?arg_(key|value)>")
_IDENTIFIER = re.compile(r"[^\W\d][\w.\-]*+")
# Only shows the result of a call.
_PRINTED = re.compile(r"print\([^\W\d][\w.]*+\)")
_SEPARATOR = re.compile(r"<[｜|]tool[▁_]sep[｜|]>|<tool_sep>")
_HARMONY_CALL = re.compile(r"to=([^\s<{]++)(?:[^{]{0,80}?<\|message\|>|\s*+(?:json|code)?\s*+(?=\{))")
# Solar's <|tool_call:name|> and <|tool_call:args|>, Functionary's recipients.
_SOLAR_CALL = re.compile(r"[^<]{0,80}+<\|tool_call:name\|>([^<]*+)<\|tool_call:args\|>")
_RECIPIENT_CALL = re.compile(r"\s*+([^\W\d][\w.\-]*+)[ \t]*+\n(?:<\|content\|>)?")
# Mistral's calls without marks between them.
_NEXT_CALL = re.compile(r"\s*+([^\W\d][\w.\-]*+)\s*+(?=\{)")
_GEMMA_QUOTED = re.compile(r"<(?P<mark>\|\"\||escape)>(?P<text>.*?)<(?P=mark)>", re.DOTALL)
_GEMMA_CALL = re.compile(r"\s*+call:([\w.\-]++)\s*+\{")
_GEMMA_ITEM = re.compile(
    r"\s*+([\w.\-]++)\s*+:\s*+(?:<(?P<mark>\|\"\||escape)>(?P<text>.*?)<(?P=mark)>|(?P<bare>[^,{}\[\]<]*+))\s*+,?+",
    re.DOTALL,
)


def json_body(body: Body, _: Tools) -> list[WrittenCall] | None:
    """Read ``{"name": "f", "arguments": {…}}``, one, several in a row, or a list of them."""
    text = unfence(body.text)
    return read_calls(text) if text[:1] in ("{", "[", '"') and not begins_python(text) else None


def function_body(body: Body, tools: Tools) -> list[WrittenCall] | None:
    """Read ``<function=f><parameter=x>1</parameter></function>`` with bare texts as values, or with JSON in place of the parts."""
    return function_calls(body.text, tools, closed=body.closed)


def json_function_body(body: Body, tools: Tools) -> list[WrittenCall] | None:
    """Read ``<function=f>{…}</function>``."""
    return None if "<parameter=" in body.text else function_calls(body.text, tools, closed=body.closed)


def invoke_body(body: Body, tools: Tools) -> list[WrittenCall] | None:
    """Read ``<invoke name="f"><parameter name="x">1</parameter></invoke>`` with bare texts as values, or with JSON in place of
    the parts."""
    return invoke_calls(body.text, tools, closed=body.closed)


def key_body(body: Body, tools: Tools) -> list[WrittenCall] | None:
    """Read ``f<arg_key>x</arg_key><arg_value>1</arg_value>`` with bare texts as values; a name alone is a call without
    arguments."""
    text = body.text.strip()
    first = _KEY_TOKEN.search(text)
    end_of_head = len(text) if first is None else first.start()
    head = text[:end_of_head].strip().removesuffix("<tool_sep>").rstrip()
    if _IDENTIFIER.fullmatch(head) is None:
        return None if first is None else [WrittenCall(None, text)]
    name = clean_name(head, tools)
    if head == text and not body.closed and name not in tools:
        # A word behind a mark that is only mentioned.
        return None
    values: dict[str, str] = {}
    key: str | None = None
    opened: re.Match[str] | None = None
    for token in _KEY_TOKEN.finditer(text, end_of_head):
        closes, kind = bool(token[1]), token[2]
        if opened is None:
            if closes or (kind == "key") != (key is None):
                return [WrittenCall(name, text)]
            opened = token
        elif closes and kind == opened[2]:
            inside = text[opened.end() : token.start()]
            if kind == "key":
                key = inside.strip()
            elif key is not None:
                values[key], key = inside, None
            opened = None
    if opened is not None or key is not None:
        return [WrittenCall(name, text)]
    return [WrittenCall(name, read_texts(values, tools.get(name)))]


def python_body(body: Body, tools: Tools) -> list[WrittenCall] | None:
    """Read ``[f(x=1), g()]``, ``f(x=1)`` or several such lines; positional arguments are in the schema's order."""
    text = unfence(body.text)
    if not begins_python(text):
        return None
    calls, rest = python_calls(text, tools)
    return [*calls, WrittenCall(None, rest)] if begins_python(rest) or not calls else calls


def separated_body(body: Body, tools: Tools) -> list[WrittenCall] | None:
    """Read DeepSeek's ``function<｜tool▁sep｜>f`` and JSON in a fence (V3), or ``f<｜tool▁sep｜>`` and JSON (V3.1), and
    Hunyuan's ``f<tool_sep>``."""
    separator = _SEPARATOR.search(body.text)
    if separator is None:
        return None
    head, rest = body.text[: separator.start()].strip(), body.text[separator.end() :]
    if head in ("", "function"):
        steps = invoke_calls(rest, tools, closed=body.closed)
        if steps is not None:
            return steps
        head, _, rest = rest.strip().partition("\n")
    return [WrittenCall(head, rest)]


def kimi_body(body: Body, _: Tools) -> list[WrittenCall] | None:
    """Read Kimi's ``functions.f:0<|tool_call_argument_begin|>{…}``."""
    head, mark, rest = body.text.partition("<|tool_call_argument_begin|>")
    if not mark:
        return None
    name, colon, number = head.strip().rpartition(":")
    return [WrittenCall(name if colon and number.isdigit() else head, rest)]


def mistral_body(body: Body, tools: Tools) -> list[WrittenCall] | None:
    """Read Mistral's ``f[ARGS]{…}``, or ``f{…}g{…}`` of known tools; words may follow."""
    head, mark, rest = body.text.partition("[ARGS]")
    if not mark:
        head, mark, rest = body.text.partition("{")
        rest = mark + rest
    name = head.partition("[CALL_ID]")[0].strip()
    if _IDENTIFIER.fullmatch(name) is None:
        return None
    try:
        value, end = scan_value(rest, 0)
    except MalformedError:
        return [WrittenCall(name, rest)]
    calls = [WrittenCall(name, value)]
    while len(calls) < MAX_CALLS:
        following = _NEXT_CALL.match(rest, end)
        if following is None or clean_name(following[1], tools) not in tools:
            break
        try:
            value, end = scan_value(rest, following.end())
        except MalformedError:
            return [*calls, WrittenCall(following[1], rest[following.end() :])]
        calls.append(WrittenCall(following[1], value))
    return calls


def harmony_body(body: Body, _: Tools) -> list[WrittenCall] | None:
    """Read Harmony's ``to=functions.f <|constrain|>json<|message|>{…}``."""
    message = _HARMONY_CALL.match(body.text)
    return None if message is None else [WrittenCall(message[1], first_value(body.text[message.end() :]))]


def recipient_body(body: Body, _: Tools) -> list[WrittenCall] | None:
    """Read Functionary's name of a tool and, on the next line, JSON; ``None`` for what is said to all."""
    head = _RECIPIENT_CALL.match(body.text)
    return (
        None
        if head is None or head[1] == "all"
        else [WrittenCall(head[1], first_value(body.text[head.end() :]))]
    )


def solar_body(body: Body, _: Tools) -> list[WrittenCall] | None:
    """Read Solar's ``1<|tool_call:name|>f<|tool_call:args|>{…}``."""
    head = _SOLAR_CALL.match(body.text)
    return None if head is None else [WrittenCall(head[1], body.text[head.end() :])]


def keyed_json_body(body: Body, _: Tools) -> list[WrittenCall] | None:
    """Read Apertus' ``[{"f": {…}}, {"g": {…}}]``."""
    calls = first_value(body.text.strip())
    if not isinstance(calls, list) or not all(isinstance(call, dict) and len(call) == 1 for call in calls):
        return None
    return [WrittenCall(*item) for call in calls[:MAX_CALLS] for item in call.items()]


def element_body(body: Body, tools: Tools) -> list[WrittenCall] | None:
    """Read ``<name>f</name><arguments>{…}</arguments>``, or with an element for each argument."""
    call = element_call(body.text, tools)
    return None if call is None else [call]


def flower_body(body: Body, _: Tools) -> list[WrittenCall] | None:
    """Read Qwen-Agent's ``✿FUNCTION✿: f`` and ``✿ARGS✿: {…}``."""
    name, mark, rest = body.text.partition("✿ARGS✿:")
    return [WrittenCall(name.strip(), first_value(rest) if mark else None)]


def gemma_body(body: Body, tools: Tools) -> list[WrittenCall] | None:
    """Read Gemma's ``call:f{x:<|"|>text<|"|>,n:1}``."""
    text = body.text
    call = _GEMMA_CALL.match(text)
    if call is None:
        return None
    name = clean_name(call[1], tools)
    quoted: dict[str, str] = {}
    bare: dict[str, str] = {}
    position = call.end()
    while (item := _GEMMA_ITEM.match(text, position)) is not None:
        if item["text"] is not None:
            quoted[item[1]] = item["text"]
        else:
            bare[item[1]] = item["bare"].strip()
        position = item.end()
    if text[position:].strip() != "}":
        # Values within values.
        quoted_as_json = _GEMMA_QUOTED.sub(lambda value: json.dumps(value["text"]), text[call.end() - 1 :])
        try:
            return [WrittenCall(name, read_value(quoted_as_json))]
        except MalformedError:
            return [WrittenCall(name, text)]
    return [WrittenCall(name, {**read_texts(bare, tools.get(name)), **quoted})]


# --- calls of Python ----------------------------------------------------------------------------------------


def begins_python(text: str) -> bool:
    """Return true if a text begins with a call of Python: ``f(`` or ``[f(``."""
    begin = skip_blanks(text, 1) if text.startswith("[") else 0
    assigned = ASSIGNED.match(text, begin)
    begin = begin if assigned is None else assigned.end()
    name = _IDENTIFIER.match(text, begin)
    if name is None:
        return False
    end = skip_blanks(text, name.end())
    return text[end : end + 1] == "("


def python_calls(text: str, tools: Tools) -> tuple[list[WrittenCall], str]:
    """Return the calls that ``text`` begins with, in a list or not, and the rest of the text."""
    in_list = text.startswith("[")
    position = int(in_list)
    calls: list[WrittenCall] = []
    while len(calls) < MAX_CALLS:
        shown = _PRINTED.match(text, position) if calls else None
        if shown is not None:
            position = skip_blanks(text, shown.end())
            continue
        try:
            call, end = scan_call(text, position)
        except MalformedError:
            break
        calls.append(_python_call(call, tools))
        position = skip_blanks(text, end)
        if text[position : position + 1] in (",", ";"):
            position = skip_blanks(text, position + 1)
        if in_list and text[position : position + 1] == "]":
            return calls, text[position + 1 :].strip()
    rest = text[position:].strip()
    # A list that is cut off is none.
    return calls, rest or ("[" if in_list else "")


def _python_call(call: PythonCall, tools: Tools) -> WrittenCall:
    name = clean_name(call.name, tools)
    if not call.positional:
        return WrittenCall(name, call.keywords)
    tool = tools.get(name)
    parameters = list(tool.parameters.get("properties") or ()) if tool is not None else []
    given = dict(zip(parameters, call.positional, strict=False))
    if len(call.positional) > len(parameters) or given.keys() & call.keywords.keys():
        return WrittenCall(name, call.positional)
    return WrittenCall(name, {**given, **call.keywords})
