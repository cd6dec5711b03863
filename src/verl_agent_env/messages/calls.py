"""Tool calls of a model, and their faults."""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from verl_agent_env.messages.content import well_formed
from verl_agent_env.messages.reading import Tools, WrittenCall, arguments_of, clean_name

_SHOWN_CHARS = 64


class ToolCall(NamedTuple):
    """One call of a tool."""

    name: str
    arguments: dict[str, Any]
    id: str | None = None
    """Id of the call, repeated by its tool message; ``None`` for a call written in plain text."""
    fault: str | None = None
    """Reason why the call cannot be carried out, for the model to read."""


def make_call(written: WrittenCall, call_id: str | None, tools: Tools) -> ToolCall:
    """Make a call from its written parts, with a fault if they are invalid."""
    name = well_formed(clean_name(written.name, tools))
    arguments = arguments_of(written, name, tools)
    if not name and arguments is None:
        fault = f"The tool call cannot be read: {_shown(arguments_text(written.arguments))}"
        return ToolCall("", {}, call_id, fault)
    if not name or arguments is None:
        fault = (
            f"The arguments of '{_shown(name)}' are not a JSON object."
            if name
            else "The tool call has no name."
        )
        return ToolCall(name, {}, call_id, fault)
    return ToolCall(name, arguments, call_id)


def arguments_text(arguments: object) -> str:
    """Return arguments in the form of OpenAI's messages: as JSON text, or unchanged if they are text."""
    if isinstance(arguments, str):
        return well_formed(arguments)
    if arguments is None:
        return "{}"
    try:
        return orjson.dumps(arguments).decode()
    except TypeError:
        return "not JSON"


def call_ids(written: list[WrittenCall], turn: int) -> list[str]:
    """Return an id for each call: its own, or a generated one if it has none, is no text, or repeats another.

    Generated ids are ``call_<turn>_<number of the call>``.
    """
    if len(written) == 1 and type(written[0].id) is str and written[0].id:
        return [well_formed(written[0].id)]
    own = [well_formed(call.id) if isinstance(call.id, str) else "" for call in written]
    known = set(own)
    seen: set[str] = set()
    ids = []
    for number, call_id in enumerate(own):
        if not call_id or call_id in seen:
            call_id = f"call_{turn}_{number}"
            while call_id in known:
                call_id += "_"
            known.add(call_id)
        seen.add(call_id)
        ids.append(call_id)
    return ids


def _shown(text: str) -> str:
    text = well_formed(text)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"
