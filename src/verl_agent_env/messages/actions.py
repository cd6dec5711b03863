"""Reads an action, in whatever form a model or its serving stack wrote it, into tool calls and words.

Nothing here raises: what cannot be read is a fault that the environment tells the model about.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from verl_agent_env.messages.content import content_text, well_formed
from verl_agent_env.messages.text import Sections, read_sections

_SHOWN_NAME_CHARS = 64


class ToolCall(NamedTuple):
    """One call that the model asks for."""

    name: str
    arguments: dict[str, Any]
    id: str | None = None
    """The call's id, which the answering tool message carries; ``None`` for a call written in plain text."""
    fault: str | None = None
    """Why the call cannot be carried out, for the model to read."""


class ParsedAction(NamedTuple):
    """What one action asks for; at most one of ``calls`` and ``words`` holds something."""

    text: str
    """The model's words outside structured tool calls."""
    calls: list[ToolCall]
    words: list[str]
    """Moves written in plain text, in order, for the environment to interpret."""
    fault: str | None = None
    """Why the action as a whole could not be read."""


def parse_action(action: object) -> ParsedAction:
    """Read ``action``: an OpenAI or Anthropic assistant message, a list that holds some, or raw text."""
    if isinstance(action, dict):
        tool_calls = action.get("tool_calls")
        if tool_calls:
            text = well_formed(content_text(action.get("content")))
            if not isinstance(tool_calls, list):
                return ParsedAction(text, [], [], "'tool_calls' is not a list.")
            return ParsedAction(text, [_openai_call(call) for call in tool_calls], [])
        return _parse_content(action)
    if isinstance(action, str):
        return _parse_text(action)
    if isinstance(action, list):
        return _parse_messages(action)
    return ParsedAction("", [], [], "The action is neither a message nor text.")


def read_single_call(action: object) -> ToolCall | None:
    """The one call of an OpenAI message that holds exactly one well-formed call; ``None`` for anything else.

    What nearly every action of a training run is, read in a third of the time that :func:`parse_action` takes.
    """
    try:
        (call,) = action["tool_calls"]  # type: ignore[index]
        call_id, function = call["id"], call["function"]
        name, arguments = function["name"], function["arguments"]
    except (TypeError, KeyError, ValueError):
        return None
    if not (arguments == "{}" and type(name) is str and name and type(call_id) is str):
        return None
    # Anything else than ASCII may hold what JSON cannot; the long way sees to it.
    if not (name.isascii() and call_id.isascii()):
        return None
    # As ToolCall(name, {}, call_id), in half the time.
    return tuple.__new__(ToolCall, (name, {}, call_id, None))


def parse_arguments(arguments: object) -> dict[str, Any] | None:
    """A call's arguments as an object: JSON text or an object already; ``None`` when they are neither.

    An object must be what JSON can hold: no lone surrogates, no endless nesting, no integers beyond 64 bits.
    """
    if arguments is None:
        return {}
    if isinstance(arguments, str | bytes):
        if arguments in ("{}", ""):
            return {}
        try:
            arguments = orjson.loads(arguments)
        except orjson.JSONDecodeError:
            return None
        if arguments is None:
            return {}
        return arguments if isinstance(arguments, dict) else None
    if not isinstance(arguments, dict):
        return None
    try:
        orjson.dumps(arguments)
    except TypeError:
        return None
    return arguments


def make_call(name: object, arguments: object, call_id: object) -> ToolCall:
    """A call from its untrusted parts, with a fault when they are not what they must be."""
    known_id = well_formed(call_id) if isinstance(call_id, str) else None
    if not isinstance(name, str) or not name:
        return ToolCall("", {}, known_id, "The tool call has no name.")
    name = well_formed(name)
    parsed = parse_arguments(arguments)
    if parsed is None:
        return ToolCall(
            name, {}, known_id, f"The arguments of '{name[:_SHOWN_NAME_CHARS]}' are not a JSON object."
        )
    return ToolCall(name, parsed, known_id)


def _openai_call(call: object) -> ToolCall:
    if isinstance(call, dict):
        function = call.get("function")
        if isinstance(function, dict):
            return make_call(function.get("name"), function.get("arguments"), call.get("id"))
        # The flat form of some parsers: {"name", "arguments", "id"?}.
        return make_call(call.get("name"), call.get("arguments"), call.get("id"))
    return ToolCall("", {}, None, "The tool call is not an object.")


def _parse_content(message: dict[str, Any]) -> ParsedAction:
    content = message.get("content")
    if isinstance(content, list):
        calls = [
            make_call(part.get("name"), part.get("input"), part.get("id"))
            for part in content
            if isinstance(part, dict) and part.get("type") == "tool_use"
        ]
        if calls:
            return ParsedAction(well_formed(content_text(content)), calls, [])
    return _parse_text(content_text(content))


def _parse_messages(messages: list[Any]) -> ParsedAction:
    """All assistant messages of the list as one action; other roles are passed over."""
    parsed = [
        parse_action(message)
        for message in messages
        if not isinstance(message, list)
        and not (isinstance(message, dict) and message.get("role", "assistant") != "assistant")
    ]
    if len(parsed) == 1:
        return parsed[0]
    calls = [call for part in parsed for call in part.calls]
    return ParsedAction(
        "\n".join(part.text for part in parsed if part.text),
        calls,
        [] if calls else [word for part in parsed for word in part.words],
        # Calls with an id must all be answered, so what stands beside them cannot undo them.
        None if calls else next((part.fault for part in parsed if part.fault), None),
    )


def _parse_text(text: str) -> ParsedAction:
    text = well_formed(text)
    sections: Sections = read_sections(text)
    if sections.tool_calls:
        return ParsedAction(text, [_written_call(body) for body in sections.tool_calls], [])
    return ParsedAction(text, [], sections.words)


def _written_call(body: str) -> ToolCall:
    try:
        call = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ToolCall("", {}, None, "The text in <tool_call> is not valid JSON.")
    if not isinstance(call, dict):
        return ToolCall("", {}, None, "The JSON in <tool_call> is not an object.")
    arguments = call["arguments"] if "arguments" in call else call.get("parameters")
    return make_call(call.get("name"), arguments, None)
