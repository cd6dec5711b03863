"""The model's answers as a conversation holds them: with an id for each call, so that each can be answered by it."""

from __future__ import annotations

import re
from typing import Any

import orjson

from verl_agent_env.messages.calls import arguments_text, call_ids
from verl_agent_env.messages.content import well_formed
from verl_agent_env.messages.forms import hear
from verl_agent_env.messages.reading import (
    ActionFormat,
    Tools,
    WrittenCall,
    clean_name,
    read_action_text,
    read_arguments,
    read_spoken,
)
from verl_agent_env.types import Action, Message

RAW_ARGUMENTS = "raw_arguments"
"""Holds what a model wrote as arguments where it is no JSON object: APIs take nothing else."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")
_MAX_NAME_CHARS = 64


def assistant_message(answer: Action | Any, turn: int = 0) -> Message:
    """The model's answer, in whatever form, as one message of OpenAI's with an id for each call.

    A message that is one already is given back as it is. Names and arguments stay as they are written, for the environment
    to read; see :func:`sendable`.

    Args:
        answer: As :func:`verl_agent_env.messages.parse_action` takes it.
        turn: Number of the turn, part of the ids of ours, so that they are unique within a conversation.
    """
    if isinstance(answer, dict) and _is_complete(answer):
        return answer
    heard = hear(answer)
    message: Message = {
        "role": "assistant",
        "content": "\n".join(each.text for each in heard if each.text),
    }
    # What cannot be read is answered too.
    written = [
        call
        for each in heard
        for call in [*(each.calls or ()), *([WrittenCall(None, each.fault)] if each.fault else ())]
    ]
    if written:
        message["tool_calls"] = message_calls(written, turn)
    return message


def message_of_text(
    text: str, tools: Tools, action_format: ActionFormat = "auto", turn: int = 0
) -> Message | None:
    """The message with tool calls that stands for a text in which calls are written; ``None`` where there are none.

    It asks for what :func:`verl_agent_env.messages.parse_action` reads in the text itself. Its content is the text around
    the calls, thoughts included.
    """
    spoken = read_spoken(text)
    found = read_action_text(spoken.text, tools, action_format) if spoken.text else None
    if found is None or not found.calls:
        return None
    begin, end = spoken.turn
    around = (text[begin : spoken.place(found.start)], text[spoken.place(found.end - 1) + 1 : end])
    written = [_cleaned(call, tools) for call in found.calls]
    content = well_formed("".join(around).strip())
    return {"role": "assistant", "content": content, "tool_calls": message_calls(written, turn)}


def message_calls(written: list[WrittenCall], turn: int) -> list[dict[str, Any]]:
    """Calls as a message of OpenAI's holds them, each with an id."""
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
    """A message of :func:`assistant_message` as OpenAI's API and vLLM take it back: names and arguments are well-formed.

    Arguments that are no JSON object stand in one, as ``raw_arguments``.
    """
    calls = message.get("tool_calls")
    if not calls or all(_is_sendable(call["function"]) for call in calls):
        return message
    return {**message, "tool_calls": [_sendable_call(call) for call in calls]}


def _cleaned(call: WrittenCall, tools: Tools) -> WrittenCall:
    """A call that is well-formed in its plain form, without an id of its own; another one as it is written."""
    name, arguments = clean_name(call.name, tools), read_arguments(call.arguments)
    if not name or arguments is None:
        return call._replace(id=None)
    return WrittenCall(name, arguments)


def _is_complete(message: dict[str, Any]) -> bool:
    """Whether a message is one of OpenAI's whose calls all have ids of their own."""
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
