"""Parser of actions: any form of a model or its serving stack, read into tool calls and words.

HTTP, MCP, the client, the evaluation and verl's agent loop share this parser, so that the same text is the same action
everywhere. It never raises: an unreadable action has a fault, which the environment reports to the model.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from itertools import repeat
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson

from verl_agent_env.messages.calls import ToolCall, call_ids, make_call
from verl_agent_env.messages.forms import ModelMessage, read_messages
from verl_agent_env.messages.reading import (
    ARGUMENT_KEYS,
    MARKS,
    ActionFormat,
    Tools,
    WrittenCall,
    read_action_text,
    read_usual,
    separate_thoughts,
)

NO_TOOLS: Tools = MappingProxyType({})
MAX_CALLS_PER_TURN = 32
"""Default limit of the calls of one action."""


class ParsedAction(NamedTuple):
    """Parsed action; at most one of ``calls`` and ``words`` is not empty."""

    text: str
    """Text outside structured tool calls, with the thoughts in it."""
    calls: list[ToolCall]
    words: list[str]
    """Moves written in plain text, in order, for the environment to interpret."""
    fault: str | None = None
    """Reason why the whole action could not be read."""
    form: str = "text"
    """Form that was recognized: a format of text (``hermes``, ``answer``, …) or a form of message (``tool_calls``, …)."""
    thought: str = ""
    place: tuple[int, int] | None = None
    """Start and end of the action in the text of a single message; ``None`` for a structured call."""

    @property
    def is_marked(self) -> bool:
        """True if the text marks its words as the answer, as in ``<answer>up</answer>``."""
        return self.form in MARKS


def parse_action(
    action: object,
    tools: Tools = NO_TOOLS,
    action_format: ActionFormat = "auto",
    turn: int = 0,
    max_calls: int = MAX_CALLS_PER_TURN,
) -> ParsedAction:
    """Parse ``action``: a message in any form of :mod:`verl_agent_env.messages.forms`, a list of such, or raw text.

    Args:
        action: Action of the model.
        tools: Available tools by name; their schemas give the types of arguments written as text.
        action_format: Accepted formats of text.
        turn: Part of the generated ids of calls without an id.
        max_calls: Limit of the calls; beyond it every call is faulty.
    """
    parts = [_parse_part(message, tools, action_format) for message in read_messages(action)]
    if len(parts) == 1:
        (only,) = parts
        calls: list[ToolCall] = []
        if only.calls:
            ids: Iterable[str | None] = call_ids(only.calls, turn) if only.is_structured else repeat(None)
            calls = _made(zip(only.calls, ids, strict=False), tools, len(only.calls), max_calls)
        return ParsedAction(
            only.message.text,
            calls,
            only.words,
            only.message.fault,
            only.form,
            only.message.thought,
            only.place,
        )
    return _joined(parts, tools, turn, max_calls)


def _made(
    written: Iterable[tuple[WrittenCall, str | None]], tools: Tools, count: int, max_calls: int
) -> list[ToolCall]:
    """Make the written calls into tool calls; ``count`` is their number in the whole action."""
    if count <= max_calls:
        return [make_call(call, call_id, tools) for call, call_id in written]
    fault = f"An action holds at most {max_calls} tool calls; this one holds {count}."
    return [ToolCall("", {}, call_id, fault) for _, call_id in written]


def _joined(parts: list[_Part], tools: Tools, turn: int, max_calls: int) -> ParsedAction:
    """Join several messages into one action."""
    structured = [call for part in parts if part.is_structured for call in part.calls]
    ids = iter(call_ids(structured, turn))
    calls: list[ToolCall] = []
    count = sum(len(part.calls) for part in parts)
    for part in parts:
        written = ((call, next(ids) if part.is_structured else None) for call in part.calls)
        calls += _made(written, tools, count, max_calls)
        if part.message.fault is not None:
            calls.append(ToolCall("", {}, None, part.message.fault))
    has_calls = any(part.calls for part in parts)
    return ParsedAction(
        "\n".join(part.message.text for part in parts if part.message.text),
        calls,
        [] if calls else [word for part in parts for word in part.words],
        None,
        next((part.form for part in parts if bool(part.calls) == has_calls), "none"),
        "\n".join(part.message.thought for part in parts if part.message.thought),
    )


def reading_of(parsed: ParsedAction, calls: Sequence[ToolCall]) -> dict[str, Any]:
    """Tell how an action was read, as JSON values: what ``read-action`` answers, and the info of a step where it is asked for.

    Args:
        parsed: The action.
        calls: Calls that a step carries out, each with its fault.
    """
    problem = parsed.fault or next((call.fault for call in calls if call.fault is not None), None)
    return {
        "form": parsed.form,
        "thought": parsed.thought,
        "calls": [{"name": call.name, "arguments": call.arguments, "fault": call.fault} for call in calls],
        "valid": problem is None,
        "problem": problem,
        "place": parsed.place,
    }


def read_single_call(action: object, names: Container[str]) -> ToolCall | None:
    """Return the call of an OpenAI message with exactly one well-formed call, of a tool in ``names``; ``None`` for anything else.

    Fast path of :func:`parse_action` for nearly every action of a training run.
    """
    try:
        (call,) = action["tool_calls"]  # type: ignore[index]
        call_id, function = call["id"], call["function"]
        name, text = function["name"], function["arguments"]
        if name not in names:
            return None
        if text == "{}":
            arguments = {}
        else:
            arguments = orjson.loads(text)
            # Arguments within arguments may be meant.
            if type(arguments) is not dict or not ARGUMENT_KEYS.isdisjoint(arguments):
                return None
    except Exception:  # noqa: BLE001 - whatever somebody's object raises, the slow path reads it
        return None
    # Non-ASCII text may hold lone surrogates, which JSON cannot; the slow path replaces them.
    if not (type(call_id) is str and call_id and call_id.isascii()):
        return None
    # As ToolCall(name, arguments, call_id), in half the time.
    return tuple.__new__(ToolCall, (name, arguments, call_id, None))


class _Part(NamedTuple):
    """One message and its parsed content."""

    message: ModelMessage
    form: str
    calls: list[WrittenCall]
    words: list[str]
    is_structured: bool
    place: tuple[int, int] | None = None


def _parse_part(message: ModelMessage, tools: Tools, action_format: ActionFormat) -> _Part:
    if message.calls is not None:
        return _Part(message, message.form, message.calls, [], is_structured=True)
    if message.fault is not None:
        return _Part(message, message.form, [], [], is_structured=False)
    usual = read_usual(message.text, tools) if action_format == "auto" else None
    if usual is not None and not message.thought:
        read, thought = usual
        if thought:
            message = ModelMessage(message.form, message.text, None, thought)
        return _Part(message, read.form, read.calls, read.words, False, (read.start, read.end))
    visible = separate_thoughts(message.text)
    thought = (
        f"{message.thought}\n{visible.thought}"
        if message.thought and visible.thought
        else message.thought or visible.thought
    )
    message = ModelMessage(message.form, message.text[slice(*visible.turn)], None, thought)
    found = read_action_text(visible.text, tools, action_format) if visible.text else None
    if found is None:
        return _Part(message, message.form, [], [], is_structured=False)
    place = (
        (visible.place(found.start), visible.place(found.end - 1) + 1) if found.end > found.start else None
    )
    return _Part(message, found.form, found.calls, found.words, is_structured=False, place=place)
