"""Messages of environments, and the text of messages."""

from __future__ import annotations

import base64
from typing import Any

from verl_agent_env.types import Content, Message


def user_message(content: Content) -> Message:
    """Make a message of the environment to the model outside any tool call."""
    return {"role": "user", "content": content}


def tool_message(tool_call_id: str, content: Content) -> Message:
    """Make the tool message that answers the call of this id."""
    return {"role": "tool", "tool_call_id": tool_call_id, "content": content}


def text_part(text: str) -> dict[str, Any]:
    """Make a content part of text."""
    return {"type": "text", "text": text}


def image_part(png: bytes) -> dict[str, Any]:
    """Make a content part of a PNG picture as a ``data:`` URL, in the form of OpenAI's chat API."""
    return {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64," + base64.b64encode(png).decode()},
    }


def shows_picture(message: Message) -> bool:
    """Return true if a message holds a picture."""
    content = message.get("content")
    return isinstance(content, list) and any(part.get("type") == "image_url" for part in content)


def well_formed(text: str) -> str:
    """Replace lone surrogates, which neither UTF-8 nor JSON can hold, by question marks."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="replace").decode()
    return text


def content_text(content: object) -> str:
    """Return all text in a message's content, parts joined by line breaks; empty if there is none."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = [part if isinstance(part, str) else _part_text(part) for part in content]
    return "\n".join(text for text in texts if text)


def _part_text(part: object) -> str:
    if isinstance(part, dict) and part.get("type", "text") in ("text", "input_text", "output_text"):
        text = part.get("text")
        return text if isinstance(text, str) else ""
    return ""
