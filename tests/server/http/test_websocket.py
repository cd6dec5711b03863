"""The fast path of WebSockets: whose turn it is, when nothing is read, and what the parser has to see."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import pytest
from starlette.types import Receive, Scope, Send
from uvicorn import Config
from uvicorn.server import ServerState
from websockets.client import ClientProtocol
from websockets.frames import Close, Frame, Opcode
from websockets.uri import parse_uri

from verl_agent_env.server.http.dispatcher import DISPATCHER_STATE
from verl_agent_env.server.http.request_memory import RequestMemory
from verl_agent_env.server.http.socket_messages import MessageAnswer, answer_messages
from verl_agent_env.server.http.websocket import WebSocketProtocol
from verl_agent_env.server.process.pool import UVICORN_OPTIONS

whose: ContextVar[str] = ContextVar("whose", default="nobody's")


class Wire(asyncio.Transport):
    """A transport that keeps what is written, and a client that reads it."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.client = ClientProtocol(parse_uri("ws://localhost/"))
        self.is_read = True
        self.is_closed = False
        self.is_aborted = False
        self.unread_bytes = 0

    def get_write_buffer_size(self) -> int:
        return self.unread_bytes

    def abort(self) -> None:
        self.is_closed = self.is_aborted = True

    def write(self, data: Any) -> None:
        self.client.receive_data(bytes(data))

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None:
        assert self.is_read
        self.is_read = False

    def resume_reading(self) -> None:
        assert not self.is_read
        self.is_read = True

    def texts(self) -> list[str]:
        """What came since the last time."""
        frames = [event for event in self.client.events_received() if isinstance(event, Frame)]
        return [
            bytes(frame.data).decode(errors="replace") if frame.opcode is Opcode.TEXT else frame.opcode.name
            for frame in frames
        ]


class Connection:
    """One connection, whose answers are the messages, and which notes what it was asked."""

    def __init__(self, app_state: dict[str, Any] | None = None) -> None:
        self.asked: list[str | bytes] = []
        self.gate = asyncio.Event()
        self.ready = asyncio.Event()
        self.ready.set()
        self.wire = Wire()
        self.state = ServerState()
        config = Config(self.app, interface="asgi3", **{**UVICORN_OPTIONS, "loop": "asyncio"})
        self.protocol = WebSocketProtocol(config, self.state, app_state or {})

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        whose.set("ann's")
        await self.ready.wait()
        await answer_messages(self.answer, scope, receive, send)

    def answer(self, message: str | bytes) -> MessageAnswer | Coroutine[Any, Any, MessageAnswer]:
        self.asked.append(message)
        if message == "wait":
            return self.later()
        if message == "whose":
            return MessageAnswer(whose.get().encode())
        if message == "end":
            return MessageAnswer(b"ended", 1013)
        return MessageAnswer(message.encode() if isinstance(message, str) else message)

    async def later(self) -> MessageAnswer:
        await self.gate.wait()
        return MessageAnswer(f"waited, {whose.get()}".encode())

    def connect(self) -> None:
        self.protocol.connection_made(self.wire)
        self.wire.client.send_request(self.wire.client.connect())
        self.protocol.data_received(b"".join(self.wire.client.data_to_send()))

    async def begin(self) -> None:
        self.connect()
        await turns()
        assert self.wire.client.state.name == "OPEN"
        self.wire.texts()

    def send(self, *frames: bytes) -> list[str]:
        """Have frames come in one piece, and give what was answered at once."""
        self.protocol.data_received(b"".join(frames))
        return self.wire.texts()


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def text(message: str, *, fin: bool = True) -> bytes:
    return Frame(Opcode.TEXT, message.encode(), fin).serialize(mask=True)


def frame(opcode: Opcode, data: bytes = b"") -> bytes:
    return Frame(opcode, data).serialize(mask=True)


@pytest.fixture
async def connection() -> Connection:
    begun = Connection()
    await begun.begin()
    return begun


async def test_a_message_is_answered_before_the_loop_turns(connection: Connection) -> None:
    assert connection.send(text("a")) == ["a"]
    assert connection.send(frame(Opcode.BINARY, b"b")) == ["b"]
    assert connection.send(text("")) == []
    assert connection.wire.is_read
    assert not connection.state.tasks


async def test_of_a_piece_one_message_is_answered_in_each_turn_and_nothing_is_read_until_all_are(
    connection: Connection,
) -> None:
    assert connection.send(*(text(str(number)) for number in range(5))) == ["0"]
    assert not connection.wire.is_read
    seen = []
    while not connection.wire.is_read:
        await asyncio.sleep(0)
        seen.append(connection.wire.texts())
    assert [one for one in seen if one] == [["1"], ["2"], ["3"], ["4"]]


async def test_messages_behind_one_that_waits_keep_their_order(connection: Connection) -> None:
    assert connection.send(text("wait")) == []
    assert connection.wire.is_read
    assert connection.send(text("a")) == []
    assert not connection.wire.is_read
    await turns()
    assert connection.asked == ["wait"]
    connection.gate.set()
    await turns()
    assert connection.wire.texts() == ["waited, ann's", "a"]
    assert connection.wire.is_read


async def test_a_client_that_does_not_take_in_its_answers_is_asked_nothing_more(
    connection: Connection,
) -> None:
    connection.protocol.pause_writing()
    assert connection.send(text("a"), text("b")) == []
    await turns()
    assert connection.asked == []
    assert not connection.wire.is_read
    connection.protocol.resume_writing()
    await turns()
    assert connection.wire.texts() == ["a", "b"]
    assert connection.wire.is_read


async def test_a_piece_that_looks_like_a_message_within_another_is_a_part_of_it(
    connection: Connection,
) -> None:
    inner = text("inner")
    # Its mask is nothing, so that the inner bytes come as they are.
    head = bytes([0x82, 0x80 + len(inner) + 1, 0, 0, 0, 0])
    assert connection.send(head) == []
    assert connection.send(inner) == []
    assert connection.asked == []
    connection.send(b"!")
    assert connection.asked == [inner + b"!"]


async def test_each_way_to_cut_a_message_is_one_message(connection: Connection) -> None:
    whole = text("a" * 130)
    for cut in range(1, len(whole)):
        assert connection.send(whole[:cut]) == []
        assert connection.send(whole[cut:]) == ["a" * 130]
        assert connection.send(text("b")) == ["b"]


async def test_parts_of_a_message_are_put_together_and_a_ping_between_them_is_answered(
    connection: Connection,
) -> None:
    assert connection.send(text("a", fin=False)) == []
    assert connection.send(frame(Opcode.PING, b"here?")) == ["PONG"]
    assert connection.send(frame(Opcode.CONT, b"b")) == ["ab"]
    assert connection.send(text("c")) == ["c"]


async def test_many_parts_take_no_more_memory_than_what_they_hold(connection: Connection) -> None:
    connection.send(text("a", fin=False))
    empty = Frame(Opcode.CONT, b"", fin=False).serialize(mask=True) * 1000
    connection.send(empty)
    tracemalloc.start()
    try:
        for _ in range(20):
            connection.send(empty)
        assert tracemalloc.get_traced_memory()[0] < 50_000
    finally:
        tracemalloc.stop()
    parts = Frame(Opcode.CONT, b"b", fin=False).serialize(mask=True) * 1000
    assert connection.send(parts, frame(Opcode.CONT, b"c")) == ["a" + "b" * 1000 + "c"]
    assert connection.send(Frame(Opcode.BINARY, b"d", False).serialize(mask=True), frame(Opcode.CONT, b"e"))
    assert connection.asked[-1] == b"de"


class _Dispatcher(NamedTuple):
    """What the protocol asks of the dispatcher."""

    memory: RequestMemory
    connections: Any


async def test_messages_that_are_not_whole_take_of_the_memory_of_requests() -> None:
    memory = RequestMemory(600_000, 200_000)
    state = {DISPATCHER_STATE: _Dispatcher(memory, MagicMock())}
    first, second = Connection(state), Connection(state)
    await first.begin()
    await second.begin()
    whole = text("a" * 150_000)
    for at in range(0, 120_000, 10_000):
        first.send(whole[at : at + 10_000])
    assert memory.used == 120_000
    assert second.send(text("b" * 70_000, fin=False)) == []
    assert second.send(whole[:20_000]) == ["CLOSE"]
    assert second.wire.client.close_rcvd == Close(1013, "")
    assert second.wire.is_closed
    assert second.asked == []
    assert memory.used == 120_000
    assert first.send(whole[120_000:]) == ["a" * 150_000]
    assert memory.used == 0
    first.send(whole[:100_000])
    first.protocol.connection_lost(None)
    assert memory.used == 0


@pytest.mark.parametrize("is_ready", [True, False])
@pytest.mark.parametrize("is_one_piece", [True, False])
async def test_what_comes_with_the_handshake_is_answered_after_it(is_ready: bool, is_one_piece: bool) -> None:
    connection = Connection()
    if not is_ready:
        connection.ready.clear()
    connection.connect()
    early = frame(Opcode.PING) + text("a")
    if is_one_piece:
        connection.protocol.take_early(early)
    else:
        connection.protocol.data_received(early)
    connection.send(text("b"))
    assert not connection.wire.is_read
    await turns()
    assert connection.wire.client.state.name == "OPEN"
    if not is_ready:
        connection.send(text("c"))
        connection.ready.set()
        await turns()
    assert connection.asked == (["a", "b"] if is_ready else ["a", "b", "c"])
    assert connection.wire.texts() == ["PONG", *connection.asked]
    assert connection.wire.is_read
    assert connection.send(text("d")) == ["d"]


async def test_a_whole_message_among_the_parts_of_another_breaks_the_protocol(connection: Connection) -> None:
    connection.send(text("a", fin=False))
    assert connection.send(text("b")) == ["CLOSE"]
    assert connection.asked == []
    assert connection.wire.is_closed


@pytest.mark.parametrize("more", [b"", text("a")], ids=["alone", "before another"])
async def test_text_that_is_none_ends_the_connection(connection: Connection, more: bytes) -> None:
    assert connection.send(frame(Opcode.TEXT, b"\xff"), more) == ["CLOSE"]
    assert connection.wire.client.close_rcvd == Close(1007, "")
    await turns()
    assert connection.asked == []


async def test_after_the_last_answer_nothing_is_answered(connection: Connection) -> None:
    assert connection.send(text("end"), text("a")) == ["ended"]
    await turns()
    assert connection.wire.texts() == ["CLOSE"]
    assert connection.wire.client.close_rcvd == Close(1013, "")
    assert connection.send(text("b")) == []
    assert connection.asked == ["end"]
    connection.send(frame(Opcode.CLOSE, Close(1013, "").serialize()))
    assert connection.wire.is_closed


async def test_what_came_before_the_application_was_ready_is_answered_first() -> None:
    connection = Connection()
    connection.ready.clear()
    await connection.begin()
    connection.send(text("a"), frame(Opcode.BINARY, b"b"))
    await turns()
    assert not connection.wire.is_read
    connection.ready.set()
    await turns()
    assert connection.wire.texts() == ["a", "b"]
    assert connection.wire.is_read
    assert connection.send(text("c")) == ["c"]


async def test_messages_are_of_whom_the_application_admitted(connection: Connection) -> None:
    connection.gate.set()
    assert connection.send(text("whose"), text("wait"), text("whose")) == ["ann's"]
    await turns()
    assert connection.wire.texts() == ["waited, ann's", "ann's"]
    assert whose.get() == "nobody's"


@pytest.mark.parametrize("lose", [None, ConnectionResetError()], ids=["in order", "broken"])
async def test_what_came_before_the_end_is_carried_out(
    connection: Connection, lose: Exception | None
) -> None:
    bye = frame(Opcode.CLOSE, Close(1000, "").serialize())
    assert connection.send(text("wait"), text("a"), text("b"), bye) == ["CLOSE"]
    assert connection.send(text("too late")) == []
    connection.wire.close()
    connection.protocol.connection_lost(lose)
    connection.gate.set()
    await turns()
    assert connection.asked == ["wait", "a", "b"]
    assert connection.wire.texts() == []
    assert connection.protocol not in connection.state.connections


async def test_what_a_client_sent_that_left_without_reading_is_carried_out(connection: Connection) -> None:
    connection.protocol.pause_writing()
    connection.send(text("a"), text("b"))
    await turns()
    connection.wire.close()
    connection.protocol.connection_lost(ConnectionResetError())
    await turns()
    assert connection.asked == ["a", "b"]


@pytest.mark.parametrize("unread_bytes", [0, 70_000])
async def test_a_client_without_a_sign_of_life_is_hung_up_on(
    connection: Connection, unread_bytes: int
) -> None:
    connection.protocol.send_keepalive_ping()
    assert connection.wire.texts() == ["PING"]
    connection.wire.unread_bytes = unread_bytes
    connection.protocol.keepalive_timeout()
    assert connection.wire.client.close_rcvd is not None
    assert connection.wire.client.close_rcvd.code == 1011
    assert connection.wire.is_closed
    assert connection.wire.is_aborted == bool(unread_bytes)


async def test_a_server_that_stops_says_so(connection: Connection) -> None:
    connection.protocol.shutdown()
    assert connection.wire.texts() == ["CLOSE"]
    assert connection.wire.client.close_rcvd == Close(1012, "")
    assert connection.wire.is_closed


async def test_tasks_of_a_server_that_stops_are_its_own(connection: Connection) -> None:
    connection.send(text("wait"))
    await turns()
    [task] = connection.state.tasks
    task.cancel()
    await turns()
    assert not connection.state.tasks
