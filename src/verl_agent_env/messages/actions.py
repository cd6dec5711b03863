"""Reads an action, in whatever form a model or its serving stack wrote it, into tool calls and words.

The one reader of all ways in: HTTP, MCP, the client, the evaluation and verl's agent loop read with it, so that the same
text is the same action everywhere. Nothing here raises: what cannot be read is a fault that the environment tells the
model about.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from itertools import repeat
from types import MappingProxyType
from typing import NamedTuple

import orjson

from verl_agent_env.messages.calls import ToolCall, call_ids, make_call
from verl_agent_env.messages.forms import Heard, hear
from verl_agent_env.messages.reading import (
    MARKS,
    ActionFormat,
    Tools,
    WrittenCall,
    read_action_text,
    read_spoken,
    read_usual,
)

NO_TOOLS: Tools = MappingProxyType({})
MAX_CALLS_PER_TURN = 32
"""Calls that one action holds at most, unless it is said otherwise."""


class ParsedAction(NamedTuple):
    """What one action asks for, and how it was read; at most one of ``calls`` and ``words`` holds something."""

    text: str
    """The model's words outside structured tool calls; thoughts written in the text are kept."""
    calls: list[ToolCall]
    words: list[str]
    """Moves written in plain text, in order, for the environment to interpret."""
    fault: str | None = None
    """Why the action as a whole could not be read."""
    form: str = "text"
    """What it was read as: a format of text (``hermes``, ``answer``, …) or a form of message (``tool_calls``, …)."""
    thought: str = ""
    place: tuple[int, int] | None = None
    """Where the action stands in the text of a single message, from and to; ``None`` for a structured call."""

    @property
    def is_marked(self) -> bool:
        """Whether the text marks its words as the answer, as in ``<answer>up</answer>``."""
        return self.form in MARKS


def parse_action(
    action: object,
    tools: Tools = NO_TOOLS,
    action_format: ActionFormat = "auto",
    turn: int = 0,
    max_calls: int = MAX_CALLS_PER_TURN,
) -> ParsedAction:
    """Read ``action``: a message in any form of :mod:`verl_agent_env.messages.forms`, a list of such, or raw text.

    Args:
        action: What the model said.
        tools: What may be called, by name; with them texts become arguments of the right types.
        action_format: Which formats of text are read.
        turn: Part of the ids that calls get which have none of their own.
        max_calls: Of an action with more calls none is read: each has its id, and the fault that there are too many.
    """
    parts = [_parse_part(heard, tools, action_format) for heard in hear(action)]
    if len(parts) == 1:
        (only,) = parts
        ids: Iterable[str | None] = call_ids(only.calls, turn) if only.is_structured else repeat(None)
        return ParsedAction(
            only.heard.text,
            _made(zip(only.calls, ids, strict=False), tools, len(only.calls), max_calls),
            only.words,
            only.heard.fault,
            only.form,
            only.heard.thought,
            only.place,
        )
    return _joined(parts, tools, turn, max_calls)


def _made(
    written: Iterable[tuple[WrittenCall, str | None]], tools: Tools, count: int, max_calls: int
) -> list[ToolCall]:
    """The calls that are written, ``count`` in the whole action."""
    if count <= max_calls:
        return [make_call(call, call_id, tools) for call, call_id in written]
    fault = f"An action holds at most {max_calls} tool calls; this one holds {count}."
    return [ToolCall("", {}, call_id, fault) for _, call_id in written]


def _joined(parts: list[_Part], tools: Tools, turn: int, max_calls: int) -> ParsedAction:
    """Several messages as one action."""
    structured = [call for part in parts if part.is_structured for call in part.calls]
    ids = iter(call_ids(structured, turn))
    calls: list[ToolCall] = []
    count = sum(len(part.calls) for part in parts)
    for part in parts:
        written = ((call, next(ids) if part.is_structured else None) for call in part.calls)
        calls += _made(written, tools, count, max_calls)
        if part.heard.fault is not None:
            calls.append(ToolCall("", {}, None, part.heard.fault))
    has_calls = any(part.calls for part in parts)
    return ParsedAction(
        "\n".join(part.heard.text for part in parts if part.heard.text),
        calls,
        [] if calls else [word for part in parts for word in part.words],
        None,
        next((part.form for part in parts if bool(part.calls) == has_calls), "none"),
        "\n".join(part.heard.thought for part in parts if part.heard.thought),
    )


def read_single_call(action: object, names: Container[str]) -> ToolCall | None:
    """The one call of an OpenAI message that holds exactly one well-formed call, of a tool in ``names``.

    What nearly every action of a training run is, read in a fraction of the time that :func:`parse_action` takes; ``None``
    for anything else.
    """
    try:
        (call,) = action["tool_calls"]  # type: ignore[index]
        call_id, function = call["id"], call["function"]
        name, text = function["name"], function["arguments"]
        if name not in names:
            return None
        arguments = {} if text == "{}" else orjson.loads(text)
    except (TypeError, KeyError, ValueError):
        return None
    # Anything else than ASCII may hold what JSON cannot; the long way sees to it.
    if not (type(call_id) is str and call_id and call_id.isascii() and type(arguments) is dict):
        return None
    # As ToolCall(name, arguments, call_id), in half the time.
    return tuple.__new__(ToolCall, (name, arguments, call_id, None))


class _Part(NamedTuple):
    """A message and what was read of it."""

    heard: Heard
    form: str
    calls: list[WrittenCall]
    words: list[str]
    is_structured: bool
    place: tuple[int, int] | None = None


def _parse_part(heard: Heard, tools: Tools, action_format: ActionFormat) -> _Part:
    if heard.calls is not None:
        return _Part(heard, heard.form, heard.calls, [], is_structured=True)
    if heard.fault is not None:
        return _Part(heard, heard.form, [], [], is_structured=False)
    usual = read_usual(heard.text, tools) if action_format == "auto" else None
    if usual is not None and not heard.thought:
        read, thought = usual
        heard = Heard(heard.form, heard.text, None, thought)
        return _Part(heard, read.form, read.calls, read.words, False, (read.start, read.end))
    spoken = read_spoken(heard.text)
    thought = (
        f"{heard.thought}\n{spoken.thought}"
        if heard.thought and spoken.thought
        else heard.thought or spoken.thought
    )
    heard = Heard(heard.form, heard.text[slice(*spoken.turn)], None, thought)
    found = read_action_text(spoken.text, tools, action_format) if spoken.text else None
    if found is None:
        return _Part(heard, heard.form, [], [], is_structured=False)
    place = (spoken.place(found.start), spoken.place(found.end - 1) + 1) if found.end > found.start else None
    return _Part(heard, found.form, found.calls, found.words, is_structured=False, place=place)
