"""Conversion of messages for chat templates."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image

from verl_agent_env.messages import content_text
from verl_agent_env.messages.content import shows_picture
from verl_agent_env.messages.reading import read_arguments
from verl_agent_env.types import Message


def for_template(message: Message) -> Message:
    """Convert a message: its content becomes text, or parts with opened pictures.

    Templates need the arguments of tool calls as objects; text that is not an object becomes an empty one.
    """
    content = message.get("content")
    shown = {**message, "content": _parts(message) if shows_picture(message) else content_text(content)}
    if message.get("tool_calls"):
        shown["tool_calls"] = [
            {**call, "function": {**function, "arguments": read_arguments(function.get("arguments")) or {}}}
            for call in message["tool_calls"]
            for function in [call["function"]]
        ]
    return shown


def pictures_in(message: Message) -> list[Image.Image]:
    """Return the pictures of a message that :func:`for_template` converted."""
    content = message["content"]
    return [part["image"] for part in content if part["type"] == "image"] if isinstance(content, list) else []


def with_names(messages: list[Message], said: Message) -> list[Message]:
    """Add the names of the tools to the answers to the calls in ``said``, for templates that need them."""
    names = {call["id"]: call["function"]["name"] for call in said.get("tool_calls", ())}
    return [
        (
            {**message, "name": names[message["tool_call_id"]]}
            if message.get("tool_call_id") in names
            else message
        )
        for message in messages
    ]


def _parts(message: Message) -> list[dict[str, Any]]:
    return [
        (
            {"type": "image", "image": _opened(part["image_url"]["url"])}
            if part.get("type") == "image_url"
            else {"type": "text", "text": str(part.get("text", ""))}
        )
        for part in message["content"]
    ]


def _opened(data_url: str) -> Image.Image:
    encoded = data_url.partition("base64,")[2]
    return Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
