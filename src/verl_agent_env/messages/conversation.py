"""The model's messages as parts of a conversation, with an id for each call that a tool message can answer."""

from __future__ import annotations

import re
from typing import Any

import orjson

from verl_agent_env.messages.calls import arguments_text, call_ids
from verl_agent_env.messages.content import well_formed
from verl_agent_env.messages.forms import read_messages
from verl_agent_env.messages.reading import (
    ActionFormat,
    Tools,
    WrittenCall,
    arguments_of,
    clean_name,
    read_action_text,
    read_arguments,
    separate_thoughts,
)
from verl_agent_env.types import Action, Message

RAW_ARGUMENTS = "raw_arguments"
"""Key of arguments that are no JSON object, since APIs accept only objects."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")
_MAX_NAME_CHARS = 64


def assistant_message(answer: Action | Any, turn: int = 0) -> Message:
    """Convert the model's turn, in any form, to one OpenAI message with an id for each call.

    Such a message is returned unchanged. Names and arguments stay as written, for the environment to read; see
    :func:`sendable`.

    Args:
        answer: Action in any form that :func:`verl_agent_env.messages.parse_action` accepts.
        turn: Number of the turn, part of generated ids, so that they are unique within a conversation.
    """
    if isinstance(answer, dict) and _is_complete(answer):
        return answer
    messages = read_messages(answer)
    message: Message = {
        "role": "assistant",
        "content": "\n".join(each.text for each in messages if each.text),
    }
    # What cannot be read is answered too.
    written = [
        call
        for each in messages
        for call in [*(each.calls or ()), *([WrittenCall(None, each.fault)] if each.fault else ())]
    ]
    if written:
        message["tool_calls"] = message_calls(written, turn)
    return message


def message_of_text(
    text: str, tools: Tools, action_format: ActionFormat = "auto", turn: int = 0
) -> Message | None:
    """Convert a text with written calls to a message with tool calls; ``None`` without calls.

    Its calls are those that :func:`verl_agent_env.messages.parse_action` reads in the text. Its content is the text around
    the calls, thoughts included.
    """
    visible = separate_thoughts(text)
    found = read_action_text(visible.text, tools, action_format) if visible.text else None
    if found is None or not found.calls:
        return None
    begin, end = visible.turn
    around = (text[begin : visible.place(found.start)], text[visible.place(found.end - 1) + 1 : end])
    written = [_cleaned(call, tools) for call in found.calls]
    content = well_formed("".join(around).strip())
    return {"role": "assistant", "content": content, "tool_calls": message_calls(written, turn)}


def written_text(action: Action | Any) -> str:
    """Return all that the model wrote in ``action``: its thoughts, its text, and names and arguments of structured calls."""
    written = []
    for each in read_messages(action):
        calls = (f"{call.name} {arguments_text(call.arguments)}" for call in each.calls or ())
        written += [each.thought, each.text, *calls]
    return "\n".join(text for text in written if text)


def message_calls(written: list[WrittenCall], turn: int) -> list[dict[str, Any]]:
    """Convert calls to the form of OpenAI's messages, each with an id."""
    return [
        {
            "id": call_id,
            "type": "function",
            "function": {
                "name": well_formed(call.name) if isinstance(call.name, str) else "",
                "arguments": arguments_text(call.arguments),
            },
        }
        for call, call_id in zip(written, call_ids(written, turn), strict=True)
    ]


def sendable(message: Message) -> Message:
    """Return a message of :func:`assistant_message` with well-formed names and arguments, as OpenAI's API and vLLM require.

    Arguments that are no JSON object are wrapped in one, as ``raw_arguments``.
    """
    calls = message.get("tool_calls")
    if not calls or all(_is_sendable(call["function"]) for call in calls):
        return message
    return {**message, "tool_calls": [_sendable_call(call) for call in calls]}


def _cleaned(call: WrittenCall, tools: Tools) -> WrittenCall:
    """Return a well-formed call in its plain form, without its own id; another one as written."""
    name = clean_name(call.name, tools)
    arguments = arguments_of(call, name, tools)
    if not name or arguments is None:
        return call._replace(id=None)
    return WrittenCall(name, arguments)


def _is_complete(message: dict[str, Any]) -> bool:
    """Return true if a message is one of OpenAI's whose calls all have unique ids."""
    calls = message.get("tool_calls")
    if message.get("role") != "assistant" or message.get("function_call") or "parts" in message:
        return False
    if not calls:
        return isinstance(message.get("content"), str)
    if not isinstance(calls, list):
        return False
    ids = set()
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(call.get("id"), str) or not call["id"]:
            return False
        if well_formed(call["id"]) != call["id"]:
            return False
        if not isinstance(function.get("name"), str) or not isinstance(function.get("arguments"), str):
            return False
        ids.add(call["id"])
    return len(ids) == len(calls)


def _is_sendable(function: dict[str, Any]) -> bool:
    if _NAME.fullmatch(function["name"]) is None:
        return False
    if function["arguments"] == "{}":
        return True
    try:
        return isinstance(orjson.loads(function["arguments"]), dict)
    except orjson.JSONDecodeError:
        return False


def _sendable_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    if _is_sendable(function):
        return call
    arguments = read_arguments(function["arguments"])
    if arguments is None:
        arguments = {RAW_ARGUMENTS: well_formed(function["arguments"])}
    name = _NOT_IN_NAMES.sub("_", function["name"].strip())[:_MAX_NAME_CHARS] or "unnamed"
    return {
        **call,
        "function": {**function, "name": name, "arguments": orjson.dumps(arguments).decode()},
    }
