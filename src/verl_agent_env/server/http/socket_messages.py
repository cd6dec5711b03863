"""Messages of WebSockets: each is answered by one function, which the protocol calls itself where it can, or ASGI's messages bring."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from starlette.types import Receive, Scope, Send

from verl_agent_env.engine import AwaitableOrValue, await_maybe

try:
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover - where it was installed without its compiled part
    from websockets.utils import apply_mask

ANSWER_WITH = "verl_agent_env.answer_with"
"""Extension of ASGI: under this name the scope of a WebSocket has a function that takes the :data:`AnswerMessage` of a
connection that was accepted. The protocol calls it from then on, and the application returns."""

_FINAL_TEXT = 0x81
_MASKED = 0x80
_SHORT = 126
"""Lengths from here on are written in a field of their own."""
_TWO_BYTES = 0x10000
_MASK_BYTES = 4


class MessageAnswer(NamedTuple):
    """Answer to a message."""

    text: bytes = b""
    """Text to send, in UTF-8; none if empty."""
    close_code: int = 0
    """Code with which the connection ends after it; 0 if it goes on."""


AnswerMessage = Callable[[str | bytes], AwaitableOrValue[MessageAnswer]]
"""Answers a message; never raises. The next one is given to it when this one is answered."""


async def answer_messages(answer: AnswerMessage, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer the messages of an accepted connection until it ends, or have the protocol do so."""
    answer_with: Callable[[AnswerMessage], None] | None = scope.get("extensions", {}).get(ANSWER_WITH)
    if answer_with is not None:
        answer_with(answer)
        return
    while (message := await receive())["type"] == "websocket.receive":
        reply = await await_maybe(answer(message_of(message.get("text"), message.get("bytes"))))
        if reply.text:
            await send({"type": "websocket.send", "text": reply.text.decode()})
        if reply.close_code:
            await send({"type": "websocket.close", "code": reply.close_code})
            return


def message_of(text: str | None, binary: bytes | None) -> str | bytes:
    """Give the message of an ASGI event, which has one of the two."""
    return text if text is not None else binary or b""


def whole_text(data: bytes) -> bytes | bytearray | None:
    """Read one text message that came in one frame and is all of ``data``; None of anything else, for the parser to read."""
    if len(data) < 2 + _MASK_BYTES or data[0] != _FINAL_TEXT:
        return None
    length, start = data[1] - _MASKED, 2
    if length == _SHORT:
        length, start = int.from_bytes(data[2:4]), 4
    elif not 0 <= length < _SHORT:
        return None
    body = start + _MASK_BYTES
    return apply_mask(data[body:], data[start:body]) if len(data) == body + length else None


def text_frame(text: bytes) -> bytes:
    """Write a text message as one frame of a server."""
    size = len(text)
    if size < _SHORT:
        head = struct.pack("!BB", _FINAL_TEXT, size)
    elif size < _TWO_BYTES:
        head = struct.pack("!BBH", _FINAL_TEXT, _SHORT, size)
    else:
        head = struct.pack("!BBQ", _FINAL_TEXT, _SHORT + 1, size)
    return head + text


def wire_size(payload_bytes: int) -> int:
    """Return the bytes of a client's frame."""
    length = 0 if payload_bytes < _SHORT else 2 if payload_bytes < _TWO_BYTES else 8
    return 2 + length + _MASK_BYTES + payload_bytes
