"""Tool calls enclosed in marks, such as ``<tool_call>`` and ``</tool_call>``.

Several formats share marks; the text between them decides. The end of the text closes an open mark. Time is linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from verl_agent_env.messages.reading.arguments import (
    MAX_CALLS,
    Tools,
    WrittenCall,
    clean_name,
    read_arguments,
)
from verl_agent_env.messages.reading.bodies import (
    Body,
    BodyReader,
    element_body,
    flower_body,
    function_body,
    gemma_body,
    harmony_body,
    invoke_body,
    json_body,
    json_function_body,
    key_body,
    keyed_json_body,
    kimi_body,
    mistral_body,
    python_body,
    recipient_body,
    separated_body,
    solar_body,
)
from verl_agent_env.messages.reading.tagged_calls import PREFIX
from verl_agent_env.messages.reading.thoughts import is_mention


class Found(NamedTuple):
    """Calls or words of a text, and their place in it."""

    form: str
    """Name of the format."""
    calls: list[WrittenCall]
    words: list[str]
    """Moves in words; empty if there are calls."""
    start: int
    end: int


class Envelope(NamedTuple):
    """Marks of a tool call, and the formats that use them."""

    mark: str
    """Text that every message with such a call contains."""
    opening: re.Pattern[str]
    closing: re.Pattern[str] | None
    """Closing mark; ``None`` if only the next opening or the end of the text ends the call."""
    bodies: tuple[tuple[str, BodyReader], ...]
    """Formats by name, in the order in which they are tried."""

    def restricted_to(self, formats: frozenset[str]) -> Envelope:
        """Return an envelope of these formats only."""
        return self._replace(bodies=tuple(body for body in self.bodies if body[0] in formats))

    def read(self, text: str, tools: Tools) -> Found | None:
        """Return all calls between such marks; ``None`` if there are none."""
        form = ""
        calls: list[WrittenCall] = []
        start, end = -1, 0
        tried_to_last_closing = False
        for section in self._sections(text):
            if section.start < end:
                continue
            if len(calls) >= MAX_CALLS:
                break
            found = self._read_section(text[section.body : section.body_end], section.closed, tools)
            if found is not None and section.closed and not tried_to_last_closing:
                has_more = self.closing is not None and self.closing.search(text, section.end) is not None
                if has_more and not _are_whole(found.calls, tools):
                    # Once, to stay linear: a text within the call may hold the closing mark.
                    tried_to_last_closing = True
                    *_, closing = (self.closing or self.opening).finditer(text, section.end)
                    longer = self._read_section(text[section.body : closing.start()], True, tools)
                    if longer is not None and _are_whole(longer.calls, tools):
                        found, section = longer, section._replace(end=closing.end())
            if found is not None:
                form = form or found.form
                calls += found.calls
                start, end = section.start if start < 0 else start, section.end
        return Found(form, calls, [], start, end) if start >= 0 else None

    def _sections(self, text: str) -> Iterator[_Section]:
        position = 0
        while (opening := self.opening.search(text, position)) is not None:
            position = max(opening.end(), position + 1)
            if is_mention(text, opening.start(), opening.end()):
                continue
            closing = None if self.closing is None else self.closing.search(text, opening.end())
            if closing is None:
                # To the end of the text; further openings part it.
                yield _Section(opening.start(), opening.end(), len(text), len(text), False)
                return
            yield _Section(opening.start(), opening.end(), closing.start(), closing.end(), True)
            position = max(position, closing.end())

    def _read_section(self, body: str, closed: bool, tools: Tools) -> _Read | None:
        """Return the calls of a section, including those after nested openings; ``None`` if its opening is only a mention."""
        spans = (opening.span() for opening in self.opening.finditer(body) if opening.end() > 0)
        ends = list(islice(spans, MAX_CALLS))
        begins = [0, *(end for _, end in ends)]
        stops = [*(start for start, _ in ends), len(body)]
        pieces = [
            self._read_piece(body[begin:stop], closed and stop == len(body), stop == len(body), tools)
            for begin, stop in zip(begins, stops, strict=True)
        ]
        if ends and pieces[0] is not None and not _are_whole(pieces[0].calls, tools):
            # A text within the first call may hold the opening mark.
            all_of_it = self._read_piece(body, closed, True, tools)
            if all_of_it is not None and _are_whole(all_of_it.calls, tools):
                return all_of_it
        if ends and not closed and pieces[0] is not None and not body[begins[-1] :].strip():
            # The last opening stands for a closing mark.
            del pieces[-1]
        found = [piece for piece in pieces if piece is not None]
        return _Read(found[0].form, [call for piece in found for call in piece.calls]) if found else None

    def _read_piece(self, body: str, closed: bool, is_last: bool, tools: Tools) -> _Read | None:
        for form, read in self.bodies:
            calls = read(Body(body, closed), tools)
            if calls is not None:
                return _Read(form, calls)
        begun = body.strip()[:1]
        # Words behind an opening that nothing closes only mention it.
        if closed or (is_last and not begun) or (begun and begun in "{[<\"'`"):
            return _Read(self.bodies[0][0], [WrittenCall(None, body.strip())])
        return None


class _Section(NamedTuple):
    start: int
    body: int
    body_end: int
    end: int
    closed: bool


class _Read(NamedTuple):
    form: str
    calls: list[WrittenCall]


def _are_whole(calls: list[WrittenCall], tools: Tools) -> bool:
    """Return true if every call is well-formed."""
    return all(clean_name(call.name, tools) and read_arguments(call.arguments) is not None for call in calls)


def _between(opening: str, closing: str | None, *bodies: tuple[str, BodyReader]) -> Envelope:
    closes = None if closing is None else re.compile(re.escape(closing))
    return Envelope(opening, re.compile(re.escape(opening)), closes, bodies)


# Tags of several models in another spelling: <tool_call id="1">, <TOOL_CALL>, <tool-call>, <functioncall>, <|tool_calls|>.
_LOOSE_NAME = r"[|｜]?(?:tool[_-]?calls?|function[_-]?calls?|tool[_-]?use|tool|function)"
_LOOSE_REST = r"(?:\s[^<>]*)?[|｜]?>"

ENVELOPES: tuple[Envelope, ...] = (
    _between(
        *("<tool_call>", "</tool_call>"),
        *(("hermes", json_body), ("qwen3_coder", function_body), ("minimax", invoke_body), ("glm", key_body)),
        *(("pythonic", python_body), ("other_tags", separated_body), ("other_tags", element_body)),
    ),
    _between("<tools>", "</tools>", ("qwen2_5_coder", json_body)),
    _between("<seed:tool_call>", "</seed:tool_call>", ("seed", function_body)),
    _between("<minimax:tool_call>", "</minimax:tool_call>", ("minimax", invoke_body), ("minimax", json_body)),
    _between("<tool_calls>", "</tool_calls>", ("minimax", json_body)),
    Envelope(
        "DSML",
        re.compile(r"<[｜|]DSML[｜|](?:function|tool)_calls>"),
        re.compile(r"</[｜|]DSML[｜|](?:function|tool)_calls>"),
        (("deepseek", invoke_body),),
    ),
    Envelope(
        "call",
        # Of the first call the opening is sometimes missing.
        re.compile(
            r"<[｜|]tool▁call▁begin[｜|]>|<｜tool_call_begin｜>"
            r"|<[｜|]tool▁calls▁begin[｜|]>(?!\s*+<[｜|]tool▁call▁begin)"
        ),
        re.compile(r"<[｜|]tool▁calls?▁end[｜|]>|<｜tool_calls?_end｜>"),
        (("deepseek", separated_body), ("deepseek", json_body)),
    ),
    _between(
        *("<function_calls>", "</function_calls>"),
        *(("anthropic_xml", json_body), ("pythonic", python_body), ("anthropic_xml", invoke_body)),
    ),
    Envelope(
        "invoke",
        re.compile(rf"(?=<{PREFIX}invoke[\s>])"),
        re.compile(rf"</{PREFIX}invoke>"),
        (("anthropic_xml", invoke_body),),
    ),
    Envelope(
        "<|tool_call_begin|>",
        re.compile(r"<\|tool_call_begin\|>"),
        re.compile(r"<\|tool_calls?_(?:section_)?end\|>"),
        (("kimi", kimi_body), ("kimi", json_body)),
    ),
    _between("[TOOL_CALLS]", None, ("mistral", json_body), ("mistral", mistral_body)),
    _between("<|python_tag|>", None, ("llama", json_body), ("llama", python_body)),
    Envelope(
        "<function=",
        re.compile(r"(?=<function=)"),
        # Llama 3.2 writes the opening tag twice.
        re.compile(r"</function>|(?<=\})\s*+<function>"),
        (("llama", json_function_body), ("qwen3_coder", function_body)),
    ),
    Envelope(
        "to=",
        re.compile(
            r"(?=\bto=[^\s<{]++[^{]{0,80}?<\|message\|>)|(?<=commentary )(?=to=[^\s<{]++\s*+(?:json|code)?\s*+\{)"
        ),
        None,
        (("harmony", harmony_body),),
    ),
    _between("<|tool_call>", "<tool_call|>", ("gemma", gemma_body)),
    _between("<start_function_call>", "<end_function_call>", ("gemma", gemma_body)),
    _between("<|python_start|>", "<|python_end|>", ("pythonic", python_body)),
    _between(
        "<|tool_call_start|>", "<|tool_call_end|>", ("pythonic", python_body), ("other_tags", json_body)
    ),
    _between("<TOOLCALL>", "</TOOLCALL>", ("other_tags", json_body)),
    _between("<|tool_call|>", "<|/tool_call|>", ("other_tags", json_body)),
    _between(
        "<longcat_tool_call>", "</longcat_tool_call>", ("other_tags", json_body), ("other_tags", key_body)
    ),
    _between("<|tools_prefix|>", "<|tools_suffix|>", ("other_tags", keyed_json_body)),
    _between("<|tool_call:begin|>", "<|tool_call:end|>", ("other_tags", solar_body)),
    Envelope(
        "<|recipient|>",
        re.compile(r"<\|recipient\|>"),
        re.compile(r"<\|from\|>|<\|stop\|>"),
        (("other_tags", recipient_body),),
    ),
    Envelope(
        ">>>",
        # Of the first one the prompt writes the mark.
        re.compile(r"(?:^>>>|\A)(?=all\n|[^\W\d][\w.\-]*+[ \t]*+\n\s*+\{)", re.MULTILINE),
        None,
        (("other_tags", recipient_body),),
    ),
    _between("<|START_ACTION|>", "<|END_ACTION|>", ("other_tags", json_body)),
    _between("<|action_start|><|plugin|>", "<|action_end|>", ("other_tags", json_body)),
    _between("<function_call>", "</function_call>", ("other_tags", json_body)),
    Envelope(
        "✿FUNCTION✿",
        re.compile(r"✿FUNCTION✿:"),
        re.compile(r"✿(?:RESULT|RETURN)✿"),
        (("other_tags", flower_body),),
    ),
    Envelope("functools", re.compile(r"functools(?=\[)"), None, (("other_tags", json_body),)),
    Envelope(
        "tool_code",
        re.compile(r"```tool_code[ \t]*+\n|<tool_code>"),
        re.compile(r"```|</tool_code>"),
        (("tool_code", python_body), ("tool_code", json_body)),
    ),
)
"""Envelopes in the order in which they are searched."""

LOOSE_TAGS = Envelope(
    "<",
    re.compile(rf"<{_LOOSE_NAME}(?:[_-](?:start|begin))?{_LOOSE_REST}", re.IGNORECASE),
    re.compile(rf"<[|｜]?/{_LOOSE_NAME}{_LOOSE_REST}|<{_LOOSE_NAME}[_-]end{_LOOSE_REST}", re.IGNORECASE),
    (
        *(("hermes", json_body), ("qwen3_coder", function_body), ("anthropic_xml", invoke_body)),
        *(("glm", key_body), ("pythonic", python_body), ("other_tags", element_body)),
    ),
)
"""Envelope of the tags of several models in another spelling, searched behind all others."""
