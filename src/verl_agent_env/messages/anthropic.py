"""Conversion of conversations between OpenAI's chat-completions API and Anthropic's messages API.

Environments use OpenAI's form; both directions keep texts, pictures, thoughts, tool calls and their results. Thoughts are signed,
and the API requires those of a turn with tool calls unchanged: a message in OpenAI's form carries the blocks in
``thinking_blocks``, and their text in ``reasoning_content``. Unsigned text alone is not sent back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import orjson

from verl_agent_env.messages.content import content_text
from verl_agent_env.messages.conversation import RAW_ARGUMENTS
from verl_agent_env.types import Content, Message

THINKING_BLOCKS = "thinking_blocks"
"""Key of a message in OpenAI's form for the thoughts as Anthropic's API gave them."""

_THINKING = frozenset({"thinking", "redacted_thinking"})
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,")


class AnthropicPrompt(NamedTuple):
    """Arguments of Anthropic's messages API."""

    system: str
    """System prompt; empty if there is none."""
    messages: list[dict[str, Any]]
    """Messages of alternating roles ``user`` and ``assistant``."""


def to_anthropic(messages: Iterable[Message]) -> AnthropicPrompt:
    """Convert a conversation to Anthropic's form.

    Consecutive messages of one role are merged; tool results become parts of the user's message.

        >>> to_anthropic([{"role": "system", "content": "Play."}, {"role": "user", "content": "P F G"}])
        AnthropicPrompt(system='Play.', messages=[{'role': 'user', 'content': [{'type': 'text', 'text': 'P F G'}]}])
    """
    system: list[str] = []
    turns: list[dict[str, Any]] = []
    for message in messages:
        role = message.get("role")
        if role in ("system", "developer"):
            system.append(content_text(message.get("content")))
            continue
        speaker = "assistant" if role == "assistant" else "user"
        blocks = _assistant_blocks(message) if role == "assistant" else _user_blocks(message)
        if not blocks:
            continue
        if turns and turns[-1]["role"] == speaker:
            turns[-1]["content"].extend(blocks)
        else:
            turns.append({"role": speaker, "content": blocks})
    for turn in turns:
        # Results of tools must come first in their turn.
        turn["content"].sort(key=lambda block: block["type"] != "tool_result")
    return AnthropicPrompt("\n\n".join(text for text in system if text), turns)


def from_anthropic(messages: Iterable[Message], system: str | Sequence[dict[str, Any]] = "") -> list[Message]:
    """Convert a conversation of Anthropic's form to OpenAI's; a response of the API is a list of one.

    >>> block = {"type": "tool_use", "id": "call_1", "name": "up", "input": {}}
    >>> from_anthropic([{"role": "assistant", "content": [block]}])[0]["tool_calls"][0]["function"]
    {'name': 'up', 'arguments': '{}'}
    """
    text = system if isinstance(system, str) else content_text(list(system))
    converted: list[Message] = [{"role": "system", "content": text}] if text else []
    for message in messages:
        if message.get("role") == "assistant":
            converted.append(_assistant_message(message.get("content")))
        else:
            converted.extend(_user_messages(message.get("content")))
    return converted


# --- to Anthropic's form ------------------------------------------------------------------------------------


def _assistant_blocks(message: Message) -> list[dict[str, Any]]:
    thoughts = message.get(THINKING_BLOCKS) or ()
    blocks = [dict(block) for block in thoughts if _is_thought(block)] + _blocks(message.get("content"))
    for call in message.get("tool_calls") or ():
        function = call["function"]
        blocks.append(
            {
                "type": "tool_use",
                "id": call["id"],
                "name": function["name"],
                "input": _input_of(function.get("arguments")),
            }
        )
    return blocks


def _user_blocks(message: Message) -> list[dict[str, Any]]:
    blocks = _blocks(message.get("content"))
    if message.get("role") == "tool":
        return [{"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": blocks}]
    return blocks


def _blocks(content: object) -> list[dict[str, Any]]:
    """Convert content to blocks, without empty texts, which Anthropic's API refuses."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    if not isinstance(content, list):
        return []
    blocks: list[dict[str, Any]] = []
    for part in content:
        if isinstance(part, dict) and part.get("type") == "image_url":
            blocks.append({"type": "image", "source": _source_of(part["image_url"]["url"])})
        elif text := content_text([part]):
            blocks.append({"type": "text", "text": text})
    return blocks


def _source_of(url: str) -> dict[str, Any]:
    inline = _DATA_URL.match(url)
    if inline is None:
        return {"type": "url", "url": url}
    return {"type": "base64", "media_type": inline[1], "data": url[inline.end() :]}


def _input_of(arguments: object) -> dict[str, Any]:
    if isinstance(arguments, dict):
        return arguments
    try:
        read = orjson.loads(arguments or "{}") if isinstance(arguments, str | None) else None
    except orjson.JSONDecodeError:
        read = None
    return read if isinstance(read, dict) else {RAW_ARGUMENTS: str(arguments)}


# --- to OpenAI's form ---------------------------------------------------------------------------------------


def _assistant_message(content: object) -> Message:
    if not isinstance(content, list):
        return {"role": "assistant", "content": content_text(content)}
    calls = [
        {
            "id": block["id"],
            "type": "function",
            "function": {"name": block["name"], "arguments": _arguments_of(block.get("input"))},
        }
        for block in content
        if isinstance(block, dict) and block.get("type") == "tool_use"
    ]
    thoughts = [block for block in content if _is_thought(block)]
    said = [block for block in content if not _is_thought(block)]
    message: Message = {"role": "assistant", "content": content_text(said)}
    if thoughts:
        message[THINKING_BLOCKS] = thoughts
        if text := "\n".join(block["thinking"] for block in thoughts if block.get("thinking")):
            message["reasoning_content"] = text
    if calls:
        message["tool_calls"] = calls
    return message


def _is_thought(block: object) -> bool:
    return isinstance(block, dict) and block.get("type") in _THINKING


def _arguments_of(given: object) -> str:
    if isinstance(given, dict) and given.keys() == {RAW_ARGUMENTS}:
        return str(given[RAW_ARGUMENTS])
    return orjson.dumps(given or {}).decode()


def _user_messages(content: object) -> list[Message]:
    """Convert tool results to messages of their own, followed by one message with the other content."""
    if not isinstance(content, list):
        return [{"role": "user", "content": content_text(content)}]
    messages: list[Message] = [
        {
            "role": "tool",
            "tool_call_id": block["tool_use_id"],
            "content": _content_of(block.get("content")),
        }
        for block in content
        if isinstance(block, dict) and block.get("type") == "tool_result"
    ]
    said = [b for b in content if not (isinstance(b, dict) and b.get("type") == "tool_result")]
    if said:
        messages.append({"role": "user", "content": _content_of(said)})
    return messages


def _content_of(content: object) -> Content:
    """Return text if there is nothing else, or content parts."""
    if not isinstance(content, list):
        return content_text(content)
    parts = [_part_of(block) for block in content if isinstance(block, dict)]
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def _part_of(block: dict[str, Any]) -> dict[str, Any]:
    if block.get("type") != "image":
        return {"type": "text", "text": content_text([block])}
    source = block["source"]
    given_inline = source["type"] == "base64"
    url = f"data:{source['media_type']};base64,{source['data']}" if given_inline else source["url"]
    return {"type": "image_url", "image_url": {"url": url}}
