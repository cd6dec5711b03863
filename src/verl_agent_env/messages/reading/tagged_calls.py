"""Parser of calls in XML with named parts: of Qwen3-Coder and Seed, and of Anthropic, MiniMax and DeepSeek V3.2.

``<function=f><parameter=x>1</parameter></function>`` and ``<invoke name="f"><parameter name="x">1</parameter></invoke>``. The
values are bare texts, converted to the types of the tool's schema. The next part closes an open one; a part that the end of
the text cuts off is malformed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal, NamedTuple

from verl_agent_env.messages.reading.arguments import (
    MAX_CALLS,
    Tools,
    WrittenCall,
    clean_name,
    first_value,
    read_texts,
)
from verl_agent_env.messages.reading.literals import MalformedError, read_value

PREFIX = r"(?:[｜|]DSML[｜|]|antml:|steptml:|minimax:)?"
"""Pattern of what may precede the name of a tag."""
_FUNCTION_TOKEN = re.compile(r"<(function|parameter)=([^<>\n]*+)>|</(function|parameter)>")
_INVOKE_TOKEN = re.compile(
    rf"<{PREFIX}(invoke|function|parameter|param)\s++name\s*+=\s*+[\"']?([^\"'<>]*+)[\"']?([^<>]*+)>"
    rf"|</{PREFIX}(invoke|function|parameter|param)>"
)
_IS_TEXT = re.compile(r"\bstring\s*+=\s*+[\"']?(true|false)")
# <function=f{"x": 1}></function>
_JSON_IN_TAG = re.compile(r"<function=([\w.\-]++)\s*+(?=\{)")
_OLD_INVOKE = re.compile(r"<invoke>\s*+<tool_name>([^<]*+)</tool_name>")
_OLD_PARAMETER = re.compile(r"<(?P<name>[A-Za-z_][\w.-]*+)>(?P<value>[^<]*+)</(?P=name)>")
_ELEMENT_NAME = re.compile(r"<(?P<tag>(?:tool_|function_)?name)>(?P<name>[^<]*+)</(?P=tag)>")
_ELEMENT_ARGUMENTS = re.compile(r"<(arguments|parameters|params|args|input)>")
_NOT_WHOLE = "…"
"""Placeholder of arguments that are cut off."""


class _Token(NamedTuple):
    kind: Literal["call", "value", "end_of_call", "end_of_value"]
    start: int
    end: int
    name: str = ""
    is_text: bool | None = None
    """Whether the tag says that the value is text, or that it is JSON; ``None`` where it says neither."""


def function_calls(text: str, tools: Tools, *, closed: bool) -> list[WrittenCall] | None:
    """Read calls with ``<function=f>``; ``None`` if there are none."""
    if "<function=" not in text:
        return None
    in_tag = _JSON_IN_TAG.match(text.lstrip())
    if in_tag is not None:
        return [WrittenCall(clean_name(in_tag[1], tools), first_value(text.lstrip()[in_tag.end() :]))]
    return _Calls(text, tools).read(_function_tokens(text), closed=closed) or [WrittenCall(None, text)]


def invoke_calls(text: str, tools: Tools, *, closed: bool) -> list[WrittenCall] | None:
    """Read calls with ``<invoke name="f">``, and those of Anthropic's first form; ``None`` if there are none."""
    calls = _Calls(text, tools).read(_invoke_tokens(text), closed=closed) or _old_calls(text, tools)
    return calls or ([WrittenCall(None, text)] if "invoke" in text and "<" in text else None)


def element_call(text: str, tools: Tools) -> WrittenCall | None:
    """Read ``<name>f</name><arguments>{…}</arguments>``, whose arguments are JSON, or elements; ``None`` if there is no name."""
    named = _ELEMENT_NAME.search(text)
    if named is None:
        return None
    name = clean_name(named["name"], tools)
    opening = _ELEMENT_ARGUMENTS.search(text, named.end())
    if opening is None:
        return WrittenCall(name, None)
    end = text.rfind(f"</{opening[1]}>", opening.end())
    inside = text[opening.end() : end if end != -1 else len(text)].strip()
    if not inside.startswith("<"):
        return WrittenCall(name, inside)
    texts = {part["name"]: part["value"] for part in _OLD_PARAMETER.finditer(inside)}
    return WrittenCall(name, read_texts(texts, tools.get(name)) if end != -1 else _NOT_WHOLE)


class _Calls:
    """Collector of the parts of calls."""

    def __init__(self, text: str, tools: Tools) -> None:
        self._text = text
        self._tools = tools
        self._found: list[WrittenCall] = []
        self._call: _Token | None = None
        self._value: _Token | None = None
        self._texts: dict[str, str] = {}
        self._values: dict[str, Any] = {}

    def read(self, tokens: Iterator[_Token], *, closed: bool) -> list[WrittenCall]:
        """Return the calls of these tags; the end of the text ends the last one, unless a value of it is open."""
        for token in tokens:
            if token.kind == "call":
                self._end_call(token.start)
                if len(self._found) >= MAX_CALLS:
                    return self._found
                self._call = token
            elif token.kind == "end_of_call":
                self._end_call(token.start)
            elif not self._is_text(token):
                self._end_value(token.start)
                self._value = token if token.kind == "value" else None
        if self._value is not None and self._call is not None and not closed:
            name = clean_name(self._call.name, self._tools)
            return [*self._found, WrittenCall(name, _NOT_WHOLE)]
        self._end_call(len(self._text))
        return self._found

    def _is_text(self, token: _Token) -> bool:
        """Return true if a tag of a value that the tool does not have stands in one that it has."""
        if token.kind != "value" or self._value is None or self._call is None:
            return False
        tool = self._tools.get(clean_name(self._call.name, self._tools))
        properties = None if tool is None else tool.parameters.get("properties")
        return (
            isinstance(properties, dict) and self._value.name in properties and token.name not in properties
        )

    def _end_value(self, end: int) -> None:
        value = self._value
        if value is None:
            return
        text = self._text[value.end : end]
        if value.is_text is None:
            self._texts[value.name] = text
        else:
            self._values[value.name] = text if value.is_text else _json_or_text(text)

    def _end_call(self, end: int) -> None:
        self._end_value(end)
        if self._call is not None:
            name = clean_name(self._call.name, self._tools)
            arguments: object = {**read_texts(self._texts, self._tools.get(name)), **self._values}
            # Without any tag of a value the content is JSON, or nothing.
            self._found.append(WrittenCall(name, arguments or self._text[self._call.end : end]))
        self._call = self._value = None
        self._texts, self._values = {}, {}


def _function_tokens(text: str) -> Iterator[_Token]:
    for tag in _FUNCTION_TOKEN.finditer(text):
        if tag[3] is not None:
            yield _Token("end_of_call" if tag[3] == "function" else "end_of_value", tag.start(), tag.end())
        else:
            yield _Token("call" if tag[1] == "function" else "value", tag.start(), tag.end(), _bare(tag[2]))


def _invoke_tokens(text: str) -> Iterator[_Token]:
    for tag in _INVOKE_TOKEN.finditer(text):
        if tag[4] is not None:
            ends_value = tag[4].startswith("param")
            yield _Token("end_of_value" if ends_value else "end_of_call", tag.start(), tag.end())
        else:
            kind: Literal["call", "value"] = "value" if tag[1].startswith("param") else "call"
            says = _IS_TEXT.search(tag[3])
            is_text = None if says is None else says[1] == "true"
            yield _Token(kind, tag.start(), tag.end(), _bare(tag[2]), is_text)


def _bare(name: str) -> str:
    return name.strip().strip("\"'")


def _json_or_text(text: str) -> Any:
    try:
        return read_value(text)
    except MalformedError:
        return text


def _old_calls(text: str, tools: Tools) -> list[WrittenCall]:
    """Read ``<invoke><tool_name>f</tool_name><parameters><x>1</x></parameters></invoke>``."""
    found = list(islice(_OLD_INVOKE.finditer(text), MAX_CALLS))
    calls = []
    for call, end in zip(found, [*(call.start() for call in found[1:]), len(text)], strict=False):
        name = clean_name(call[1], tools)
        texts = {part["name"]: part["value"] for part in _OLD_PARAMETER.finditer(text, call.end(), end)}
        calls.append(WrittenCall(name, read_texts(texts, tools.get(name))))
    return calls
