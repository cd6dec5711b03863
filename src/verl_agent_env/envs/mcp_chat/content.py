"""Conversion of a tool's result into the content of a chat message."""

from __future__ import annotations

import contextlib
import re
from base64 import b64decode
from binascii import a2b_base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json, to_json

from verl_agent_env.envs.mcp_chat.redaction import Redactor
from verl_agent_env.messages import text_part
from verl_agent_env.messages.content import well_formed
from verl_agent_env.types import Content

if TYPE_CHECKING:
    from mcp.types import CallToolResult

MAX_MEDIA_CHARS = 16 * 1024 * 1024
"""Limit of a picture or a sound in base64; a larger one is only named."""

_AUDIO_FORMATS = {
    **dict.fromkeys(("audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave"), "wav"),
    **dict.fromkeys(("audio/mpeg", "audio/mp3"), "mp3"),
}
_PICTURE = re.compile(r"image/[a-z0-9][a-z0-9.+-]*")
_TEXT = re.compile(r"text/.*|application/(?:[a-z0-9.-]+\+)?(?:json|xml)")


def content_of(result: CallToolResult, redactor: Redactor, max_chars: int) -> Content:
    """Convert all content of ``result``: to text if there is nothing else, or to content parts in the order of the result.

    Pictures become ``image_url``, WAV and MP3 ``input_audio``. Of resources, text is shown under its URI and pictures
    as pictures; other content is named only. Structured content is added as JSON unless a text repeats it.

    Args:
        result: Result from the SDK.
        redactor: Removes the server's secrets from all texts.
        max_chars: Limit of all text together; a note replaces the rest.
    """
    parts = [_part_of(block) for block in result.content]
    structured = result.structured_content
    if structured is not None and not _is_shown(structured, result.content):
        parts.append(text_part(_as_json(_without_media(structured, result.content))))
    shown: list[dict[str, Any]] = []
    left = max_chars
    for part in parts:
        if part["type"] == "text":
            text = cut(redactor.hide(well_formed(part["text"])), left)
            left = max(0, left - len(text))
            part = text_part(text)
        shown.append(part)
    text = "\n".join(part["text"] for part in shown if part["type"] == "text")
    if result.is_error and not text:
        shown.append(text_part("Error: the tool failed and does not say why."))
        text = shown[-1]["text"]
    return text if all(part["type"] == "text" for part in shown) else shown


def cut(text: str, max_chars: int) -> str:
    """Cut a text to its first characters; a note says how many follow."""
    if len(text) <= max_chars:
        return text
    return f"{text[:max_chars]}\n[{len(text) - max_chars} more characters are not shown.]"


def _part_of(block: Any) -> dict[str, Any]:
    if block.type == "text":
        return text_part(block.text)
    if block.type == "image":
        return _media(block.data, block.mime_type, "picture")
    if block.type == "audio":
        return _media(block.data, block.mime_type, "sound")
    if block.type == "resource":
        return _resource(block.resource)
    if block.type == "resource_link":
        about = f": {block.description}" if block.description else ""
        kind = f" ({block.mime_type})" if block.mime_type else ""
        return text_part(f"[Resource {block.uri}{kind}, '{block.name}'{about}]")
    return text_part(f"[Content of the type '{str(block.type)[:64]}', which cannot be shown]")


def _resource(resource: Any) -> dict[str, Any]:
    text = getattr(resource, "text", None)
    if text is not None:
        return text_part(f"[Resource {resource.uri}]\n{text}")
    mime_type = resource.mime_type or "application/octet-stream"
    kind = _kind(mime_type)
    if _PICTURE.fullmatch(kind) or kind in _AUDIO_FORMATS:
        return _media(resource.blob, mime_type, f"resource {resource.uri}")
    if _TEXT.fullmatch(kind) and len(resource.blob) <= MAX_MEDIA_CHARS:
        with contextlib.suppress(ValueError):
            return text_part(f"[Resource {resource.uri}]\n{b64decode(resource.blob).decode()}")
    return text_part(
        f"[Resource {resource.uri} ({mime_type}), {_num_bytes(resource.blob)} bytes that are no text]"
    )


def _media(data: str, mime_type: str, name: str) -> dict[str, Any]:
    if len(data) > MAX_MEDIA_CHARS:
        return text_part(f"[A {name} ({mime_type}) of {_num_bytes(data)} bytes, too large to be shown]")
    kind, encoded = _kind(mime_type), _base64(data)
    if not encoded:
        return text_part(f"[A {name} ({mime_type}), which is empty or no base64]")
    if _PICTURE.fullmatch(kind):
        return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{encoded}"}}
    if kind in _AUDIO_FORMATS:
        return {"type": "input_audio", "input_audio": {"data": encoded, "format": _AUDIO_FORMATS[kind]}}
    return text_part(f"[A {name} ({mime_type}) of {_num_bytes(encoded)} bytes, which cannot be shown]")


def _kind(mime_type: str) -> str:
    """Return a MIME type without its parameters, in small letters."""
    return mime_type.partition(";")[0].strip().lower()


def _base64(data: str) -> str:
    """Return base64 as decoders take it, without the head of a data URL and blanks, and padded; empty if it is none."""
    if data.startswith("data:"):
        data = data.partition(",")[2]
    data = "".join(data.split())
    data += "=" * (-len(data) % 4)
    try:
        a2b_base64(data, strict_mode=True)
    except ValueError:
        return ""
    return data


def _num_bytes(encoded: str) -> int:
    return len(encoded) * 3 // 4 - encoded[-2:].count("=")


def _is_shown(structured: Any, blocks: Sequence[Any]) -> bool:
    """Return true if the content already shows the structured content, as the protocol advises."""
    # Servers that wrap a plain value as {"result": value} repeat the value in the text.
    values = [structured]
    if isinstance(structured, dict) and len(structured) == 1:
        values += structured.values()
    for value in values:
        if any(_shows(block, value) for block in blocks):
            return True
        # A list may be shown as a block for each of its items.
        if isinstance(value, list) and 0 < len(value) == len(blocks) and all(map(_shows, blocks, value)):
            return True
    return False


def _shows(block: Any, value: Any) -> bool:
    """Return true if a block of content equals a value: as text, as JSON, in base64, or as the block itself."""
    if block.type == "text" and (value == block.text or _parsed(block.text) == value):
        return True
    if isinstance(value, str):
        return value in _media_of(block)
    return isinstance(value, dict) and value == block.model_dump(
        mode="json", by_alias=True, exclude_none=True
    )


def _media_of(block: Any) -> tuple[str, ...]:
    """Return the picture, sound or file of a block in base64, bare and as a data URL; empty for others."""
    resource = getattr(block, "resource", block)
    data = getattr(resource, "data", None) or getattr(resource, "blob", None)
    return () if not data else (data, f"data:{resource.mime_type};base64,{data}")


def _without_media(value: Any, blocks: Sequence[Any]) -> Any:
    """Replace what blocks show as pictures, sounds or files: as base64 nobody can read it."""
    shown = frozenset(text for block in blocks for text in _media_of(block))
    if not shown:
        return value

    def replaced(inner: Any) -> Any:
        if isinstance(inner, str):
            return "[shown above]" if inner in shown else inner
        if isinstance(inner, list):
            return [replaced(each) for each in inner]
        if isinstance(inner, dict):
            return {key: replaced(each) for key, each in inner.items()}
        return inner

    return replaced(value)


def _parsed(text: str) -> Any:
    try:
        return from_json(text)
    except ValueError:
        # No JSON: equal to nothing.
        return _parsed


def _as_json(value: Any) -> str:
    # Not orjson's: its integers have 64 bits, and servers give longer ones.
    try:
        return to_json(value, indent=2, inf_nan_mode="null").decode()
    except ValueError:
        return "[Structured content that cannot be shown]"
