"""Frames that the fast path reads and writes, against the library's own; and messages over plain ASGI."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.types import Message
from websockets.frames import Frame, Opcode

from verl_agent_env.server.http.socket_messages import (
    MessageAnswer,
    answer_messages,
    text_frame,
    whole_text,
    wire_size,
)

SIZES = (0, 1, 125, 126, 127, 65_535)


def sent(data: bytes, opcode: Opcode = Opcode.TEXT, *, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=True)


@pytest.mark.parametrize("size", SIZES)
def test_a_whole_message_is_read_as_it_was_sent(size: int) -> None:
    text = b"abcdefg"[: size % 8] + b"x" * (size - size % 8)
    assert whole_text(sent(text)) == text


@pytest.mark.parametrize(
    "data",
    [
        b"\x81",
        sent(b"hello")[:-1],
        sent(b"hello") + b"\x81",
        sent(b"hello") * 2,
        sent(b"hello", Opcode.BINARY),
        sent(b"hello", Opcode.PING),
        sent(b"hello", fin=False),
        sent(b"hello", Opcode.CONT),
        b"\xc1" + sent(b"hello")[1:],
        sent(b"x" * 65_536),
        Frame(Opcode.TEXT, b"hello").serialize(mask=False),
        Frame(Opcode.TEXT, b"x" * 200).serialize(mask=False),
    ],
    ids=[
        "a beginning", "cut short", "and a byte more", "two", "binary", "a ping", "a first part", "a later part",
        "compressed", "large", "without a mask", "larger without a mask",
    ],
)  # fmt: skip
def test_anything_else_is_the_parsers(data: bytes) -> None:
    assert whole_text(data) is None


@pytest.mark.parametrize("size", [*SIZES, 65_536])
def test_answers_are_framed_as_the_library_does(size: int) -> None:
    assert text_frame(b"x" * size) == Frame(Opcode.TEXT, b"x" * size).serialize(mask=False)


@pytest.mark.parametrize("size", [*SIZES, 65_536])
def test_frames_take_as_many_bytes_as_the_library_writes(size: int) -> None:
    assert wire_size(size) == len(sent(b"x" * size))


async def answered_over_asgi(*messages: Any) -> list[Message]:
    """Have these messages answered through ASGI alone, as under any other server."""
    events = [{"type": "websocket.receive", **message} for message in messages]
    events.append({"type": "websocket.disconnect", "code": 1005})
    taken: list[Message] = []

    async def receive() -> Message:
        return events.pop(0)

    async def send(message: Message) -> None:
        taken.append(message)

    async def later(message: str | bytes) -> MessageAnswer:
        return MessageAnswer(f"later {message!r}".encode())

    def answer(message: str | bytes) -> Any:
        if message == "end":
            return MessageAnswer(b"ended", 1013)
        return later(message) if message == "wait" else MessageAnswer(f"now {message!r}".encode())

    await answer_messages(answer, {"type": "websocket"}, receive, send)
    return taken


async def test_under_another_server_messages_come_and_go_through_asgi() -> None:
    assert await answered_over_asgi({"text": "a"}, {"text": "wait"}, {"bytes": b"b"}, {"text": ""}) == [
        {"type": "websocket.send", "text": "now 'a'"},
        {"type": "websocket.send", "text": "later 'wait'"},
        {"type": "websocket.send", "text": "now b'b'"},
        {"type": "websocket.send", "text": "now ''"},
    ]
    assert await answered_over_asgi({"text": "end"}, {"text": "a"}) == [
        {"type": "websocket.send", "text": "ended"},
        {"type": "websocket.close", "code": 1013},
    ]
