"""WebSockets for uvicorn, on the parser of ``websockets``: counted and bounded as all connections are, with a fast path.

uvicorn's ASGI cycle wakes a task for each message, and stops and starts the reading. Here an application that has accepted a
connection may leave its messages to the protocol (:data:`~verl_agent_env.server.http.socket_messages.ANSWER_WITH`): then a message
is answered before ``data_received`` returns, or, if there is something to wait for, by a task of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Coroutine
from contextvars import Context, copy_context
from typing import Any, cast

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame
from websockets.protocol import State

from verl_agent_env.engine import AwaitableOrValue, await_maybe
from verl_agent_env.errors import AtCapacityError
from verl_agent_env.server.http.dispatcher import DISPATCHER_STATE, Dispatcher
from verl_agent_env.server.http.peer import Peer
from verl_agent_env.server.http.request_memory import UNCOUNTED_BYTES, Share
from verl_agent_env.server.http.socket_messages import (
    ANSWER_WITH,
    AnswerMessage,
    MessageAnswer,
    message_of,
    text_frame,
    whole_text,
    wire_size,
)

# uvicorn writes a line for each connection; what is refused is counted, and logged by the dispatcher.
_logger = logging.getLogger("verl_agent_env.server.websocket")
_logger.setLevel(logging.WARNING)
_BAD_HANDSHAKE = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class _NoEvents(asyncio.Queue[Any]):
    """Takes the place of the events that an application would receive."""

    def put_nowait(self, item: Any) -> None:
        """Forget it."""


_NO_EVENTS = _NoEvents()


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's own, which takes over a connection that was counted when it came in as HTTP.

    Messages are answered one at a time and in their order. Of those that came in one piece each but the first waits for a turn
    of the event loop. While one waits, and while the client does not take in its answers, nothing is read.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.logger = self.conn.logger = _logger
        self._owner: Dispatcher | None = self.app_state.get(DISPATCHER_STATE)
        self._share: Share | None = None
        """Counts a long message that is not whole yet."""
        self._counted_bytes = 0
        """Bytes of it that are counted."""
        self._answer: AnswerMessage | None = None
        """Answers the messages, once the application has left them to the protocol."""
        self._context: Context
        """Whose connection it is, as the application noted."""
        self._messages: deque[str | bytes] | None = None
        """Those that wait for those before them; None for none."""
        self._is_answering = False
        """Whether a message waits for its answer."""
        self._is_fresh = False
        """Whether nothing was answered yet of what came in last."""
        self._has_turn = False
        """Whether the next message is answered in the loop's next turn."""
        self._is_ending = False
        """Whether the last answer was given."""
        self._unread_bytes = 0
        """Bytes that the parser was given of a frame that is not whole yet."""
        self._early = b""
        """What came before the application had accepted the handshake."""

    def take_early(self, data: bytes) -> None:
        """Read what a client sent before it was told that there is a WebSocket, as soon as there is one; nothing else until then.

        It should not (RFC 6455, 4.1), but it would wait for an answer.
        """
        self._early += data
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    # --- called by the transport ----------------------------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        if self._owner is not None:
            self._owner.connections.leave(Peer.of(self.client, self.server).address)
        self._stop_counting()
        super().connection_lost(exc)
        # What came before the end is carried out, as far as it can be: a message that closes the environment among it.
        self._go_on_soon()

    def data_received(self, data: bytes) -> None:
        """Read what came; hang up where it is no handshake that the parser could answer."""
        self._is_fresh = True
        # The parser need not see a whole message, as long as it is between two.
        if self._unread_bytes == 0 and self._answer is not None and self.conn.current_size is None:
            text = whole_text(data)
            if text is not None and self.conn.state is State.OPEN:
                self._take(text, is_text=True)
                return
        if self._early or (self.handshake_initiated and not self.handshake_complete):
            self.take_early(data)
            return
        self._unread_bytes += len(data)
        super().data_received(data)
        self._count_unread()
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self.transport.write(_BAD_HANDSHAKE)
            self.transport.close()

    def _count_unread(self) -> None:
        """Count what there is of a long message that is not whole; hang up where requests have taken all memory that is for them."""
        unread = self._unread_bytes + sum(map(len, self.frames))
        if unread <= UNCOUNTED_BYTES:
            self._stop_counting()
            return
        if self._share is None and self._owner is not None:
            self._share = self._owner.memory.share()
        if self._share is not None and unread > self._counted_bytes:
            try:
                self._share.receive(unread - self._counted_bytes)
            except AtCapacityError:
                self._is_ending = True
                self.frames.clear()
                self.conn.fail(CloseCode.TRY_AGAIN_LATER)
                self.handle_parser_exception()
                self._stop_counting()
            else:
                self._counted_bytes = unread

    def _stop_counting(self) -> None:
        if self._share is not None:
            self._share.close()
            self._share, self._counted_bytes = None, 0

    def resume_writing(self) -> None:
        super().resume_writing()
        self._go_on_soon()

    def keepalive_timeout(self) -> None:
        """Hang up on a client that did not answer a ping; at once where it would never take in what was sent before."""
        super().keepalive_timeout()
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    # --- called by uvicorn ----------------------------------------------------------------------------------

    def handle_events(self) -> None:
        for event in self.conn.events:
            if isinstance(event, Frame):
                self._unread_bytes -= wire_size(len(event.data))
            else:
                # The handshake.
                self._unread_bytes = 0
        super().handle_events()

    def handle_cont(self, event: Frame) -> None:
        """Add a part to those before it, in one piece of memory: a client may make frames of a byte, or of none."""
        begun: bytes | bytearray = self.frames[0]
        whole = begun if isinstance(begun, bytearray) else bytearray(begun)
        whole += event.data
        self.frames = cast("list[bytes]", [whole])
        if event.fin:
            self.send_receive_event_to_app()

    def send_receive_event_to_app(self) -> None:
        """Take a message whose last frame was read."""
        if self._answer is None:
            super().send_receive_event_to_app()
            return
        data, self.frames = b"".join(self.frames), []
        self._take(data, is_text=self.curr_msg_data_type == "text")

    async def run_asgi(self) -> None:
        """Run the application until it ends, or leaves the messages to the protocol."""
        extensions: dict[str, Any] = {**self.scope["extensions"], ANSWER_WITH: self._answer_with}
        scope: dict[str, Any] = {**self.scope, "extensions": extensions}
        try:
            await self.app(scope, self.receive, self.send)
        except ClientDisconnected:
            pass
        except Exception:
            self.logger.exception("WebSocket failed")
            self.send_500_response()
        if self._answer is None and self.close_timer is None:
            self.transport.close()

    # --- the fast path --------------------------------------------------------------------------------------

    def _answer_with(self, answer: AnswerMessage) -> None:
        """Have this answer all messages from now on, those that wait for the application first."""
        self._answer, self._context = answer, copy_context()
        while not self.queue.empty():
            event: dict[str, Any] = {**self.queue.get_nowait()}
            if event["type"] == "websocket.receive":
                self._wait_for_turn(message_of(event.get("text"), event.get("bytes")))
        # Nobody looks at these any more, and they would be a third of the memory of a connection.
        self.queue = _NO_EVENTS
        # The parser's own frame keeps the request.
        self.request.headers.clear()
        del self.scope, self.request, self.response
        early, self._early = self._early, b""
        if early:
            self.data_received(early)
        self._go_on_soon()

    def _take(self, data: bytes | bytearray, *, is_text: bool) -> None:
        """Answer a message, now or when it is its turn."""
        if self._is_ending:
            return
        message: str | bytes
        if is_text:
            try:
                message = data.decode()
            except UnicodeDecodeError:
                self._is_ending = True
                self.conn.fail(CloseCode.INVALID_DATA)
                self.handle_parser_exception()
                return
        else:
            message = bytes(data)
        if self._is_fresh and not self._is_answering and self._messages is None and self.writable.is_set():
            self._carry_out(message)
        else:
            self._wait_for_turn(message)
            self._go_on_soon()

    def _wait_for_turn(self, message: str | bytes) -> None:
        if self._messages is None:
            self._messages = deque()
        self._messages.append(message)
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    def _go_on_soon(self) -> None:
        if self._answer is not None and not self._has_turn:
            self._has_turn = True
            self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Answer the next message that waits, if there is one, and no other is being answered."""
        self._has_turn = False
        if self._is_answering or not self.writable.is_set():
            return
        if self._messages:
            self._carry_out(self._messages.popleft())
        if self._messages:
            self._go_on_soon()
            return
        self._messages = None
        if self.read_paused and not self.disconnected:
            self.read_paused = False
            self.transport.resume_reading()

    def _carry_out(self, message: str | bytes) -> None:
        self._is_fresh = False
        answer = self._answer
        if answer is None or self._is_ending:
            return
        reply = self._context.run(answer, message)
        if isinstance(reply, MessageAnswer):
            self._deliver(reply)
        else:
            self._is_answering = True
            self._start(self._answered_later(reply))

    async def _answered_later(self, answer: AwaitableOrValue[MessageAnswer]) -> None:
        reply = await await_maybe(answer)
        self._is_answering = False
        self._deliver(reply)
        self._go_on_soon()

    def _deliver(self, reply: MessageAnswer) -> None:
        """Send an answer, and end the connection if it was the last; a client that left gets none."""
        if reply.text and self.conn.state is State.OPEN and not self.transport.is_closing():
            self.transport.write(text_frame(reply.text))
        if reply.close_code:
            self._is_ending = True
            self._start(self._close(reply.close_code))

    async def _close(self, code: int) -> None:
        with contextlib.suppress(ClientDisconnected):
            await self.send({"type": "websocket.close", "code": code})

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(coroutine, context=self._context)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
