"""HTTP for uvicorn with limits for slow connections: heads, bodies and answers that take too long, or are too large.

A request that arrives in one piece costs a few comparisons: timers run only for what arrived in part.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable, Iterable
from typing import Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from verl_agent_env.config import ConnectionLimits
from verl_agent_env.errors import (
    BodyTimeoutError,
    HeadersTooLargeError,
    HeaderTimeoutError,
    MalformedHeadError,
    UrlTooLongError,
    VerlAgentEnvError,
)
from verl_agent_env.server.http.dispatcher import DISPATCHER_STATE, Dispatcher
from verl_agent_env.server.http.peer import Peer
from verl_agent_env.server.http.types import Response
from verl_agent_env.server.http.websocket import WebSocketProtocol

logger = logging.getLogger(__name__)

_LINGER_S = 2.0
"""A refused client may go on sending for so long: closed at once, it would seldom get to read why."""
_BODY_GRACE_S = 5.0
"""Bodies that the application reads end earlier, by its own limit; this one is for those that nobody reads."""
_LINE_BREAKS = b"\r\n"
_SMALL_BYTES = 4096
_FEW_HEADERS = 16
"""Nearly all requests have no more, in one piece of no more bytes."""
_MIN_DRAINED_BYTES = 65_536
"""So much of its answer a client has to take in within ``send_timeout_s``, or all of it."""


IDLE, HEAD, BODY, UPGRADED = range(4)
"""Where the parser is: between two requests, in the head of one, behind it, or at the end of all: the connection is a WebSocket's."""


class _RefusedError(Exception):
    """Stops the parser; the protocol knows why."""


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP on httptools; closes connections that make too little progress.

    A subclass says where the parser is, in :attr:`phase`. The limits are those of the application's dispatcher; any other
    application is served as by uvicorn.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.peer = Peer()
        """The other end."""
        self.phase = IDLE
        self.piece_bytes = 0
        """Bytes that came in last."""
        # A stream of requests in one piece must not keep the loop from everybody else.
        self.is_fresh = False
        """Whether nothing was answered yet of what came in last."""
        self.silent_bytes = 0
        """Bytes since the last byte of a body: trailers, and the framing of chunks."""
        self._body_parts: list[bytes] = []
        """Of the body, what the last piece held: a piece may hold a chunk for every six bytes."""
        self._owner: Dispatcher | None = app_state.get(DISPATCHER_STATE)
        self._limits = self._owner.connections.limits if self._owner is not None else ConnectionLimits()
        self._small_bytes = min(_SMALL_BYTES, self._limits.max_url_bytes, self._limits.max_header_bytes)
        self._few_headers = min(_FEW_HEADERS, self._limits.max_headers)
        self.deadline: TimerHandle | None = None
        """Ends the wait for the rest of a request."""
        self._drain_watch: TimerHandle | None = None
        """Looks whether the client takes in what was written."""
        self._head_bytes = 0
        """Bytes that came in while a head was unfinished, but for the piece that it began in."""
        self._is_head_in_parts = False
        """Whether the head that is read now began in an earlier piece."""
        self._refusal: VerlAgentEnvError | None = None
        self._plain_head = b""
        """A head that asked to go on with another protocol, without that, until it is read again."""
        self._end_of_head = 0
        """Where in the last piece a head ended that asked for another protocol."""
        self._is_refused = False
        """Whether nothing is read from the client any more."""

    # --- what the transport says ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", transport))
        self.peer = Peer.of(self.client, self.server)
        if self._owner is None:
            return
        connections = self._owner.connections
        refusal = connections.enter(self.peer.address)
        if refusal is None:
            self._set_deadline(self._limits.header_timeout_s)
        elif connections.is_flooded:
            self._is_refused = True
            self.transport.abort()
        else:
            self._refuse(refusal)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        self.piece_bytes = len(data)
        self.is_fresh = True
        # By the class's name: ``super()`` makes an object.
        HttpToolsProtocol.data_received(self, data)
        rest: bytes | memoryview = data
        while self._plain_head:
            rest = self._read_plainly(rest)
        if self.phase == UPGRADED:
            self._hand_over_connection(bytes(rest[self._end_of_head :]))
        elif self.phase != IDLE:
            self.hand_over_body()
            self.note_partial()
        elif data[0] in _LINE_BREAKS and self.deadline is None and not self.is_watched():
            # Line breaks alone begin no request, and must not keep a connection either.
            self._set_deadline(self._limits.header_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._owner is not None:
            self._owner.connections.leave(self.peer.address)
        self.clear_deadline()
        self._stop_drain_watch()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Serve no further request, because the server stops."""
        if self._owner is not None:
            self._owner.on_stop()
        super().shutdown()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._owner is not None and self._drain_watch is None:
            self._watch_drain()

    def resume_writing(self) -> None:
        self._stop_drain_watch()
        super().resume_writing()

    # --- what the parser says -------------------------------------------------------------------------------

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        # uvicorn would put trailers among the headers, where they could say something else than those did.
        self.headers = _Trailers(self._limits.max_header_bytes, self._refuse_trailers)

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body until the piece that it came in is read."""
        self._body_parts.append(body)

    def on_message_complete(self) -> None:
        """Note that a request is complete."""
        self.hand_over_body()
        super().on_message_complete()

    def hand_over_body(self) -> None:
        """Give what there is of a body to the application, at one stroke: uvicorn copies all of it for each part."""
        if self._body_parts:
            body = b"".join(self._body_parts)
            self._body_parts.clear()
            super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser refuses, or had to refuse."""
        refusal, self._refusal = self._refusal, None
        if self._owner is None:
            super().send_400_response(msg)
        else:
            self._refuse(refusal or MalformedHeadError())

    # --- WebSockets -----------------------------------------------------------------------------------------

    def handle_websocket_upgrade(self) -> None:
        """Leave the connection to the WebSocket's own protocol, which counts it no more when it ends."""
        self.clear_deadline()
        self._stop_drain_watch()
        self.phase, self._end_of_head = UPGRADED, _end_of_head()
        super().handle_websocket_upgrade()
        # These refer to the protocol, which would stay until the collector looks.
        del self.parser, self.headers

    def _hand_over_connection(self, early: bytes) -> None:
        """Give the WebSocket's protocol what came behind the handshake in one piece with it."""
        protocol = self.transport.get_protocol()
        if early and isinstance(protocol, WebSocketProtocol):
            protocol.take_early(early)

    def _get_upgrade(self) -> bytes | None:
        """Give what the request's head asks to go on with; uvicorn would look among the trailers that follow it."""
        headers, self.headers = self.headers, list(self.scope["headers"])
        try:
            return super()._get_upgrade()
        finally:
            self.headers = headers

    def leave_upgrade(self) -> bool:
        """Decline to go on with another protocol than WebSockets, such as HTTP/2; within the parser's callbacks only.

        A server may serve such a request as if it asked for nothing (RFC 9110, 7.8). Behind such a head, the parser reads no body:
        the request is read again without it.

        Returns:
            Whether the head asks for that, so that the request must not be served yet.
        """
        parser = self.parser
        if not parser.should_upgrade() or parser.get_method() == b"CONNECT":
            return False
        headers = [header for header in self.headers if header[0] != b"upgrade"]
        if len(headers) == len(self.headers) or (b"upgrade", b"websocket") in [
            (name, value.lower()) for name, value in self.headers
        ]:
            return False
        first = b"%b %b HTTP/%b\r\n" % (parser.get_method(), self.url, parser.get_http_version().encode())
        self._plain_head = b"%b%b\r\n" % (first, _lines(headers))
        return True

    def _should_upgrade(self) -> bool:
        return not self._plain_head and super()._should_upgrade()

    def _unsupported_upgrade_warning(self) -> None:
        """Note where the declined head ends."""
        if self._plain_head:
            self._end_of_head = _end_of_head()
        else:
            super()._unsupported_upgrade_warning()

    def _read_plainly(self, piece: bytes | memoryview) -> memoryview:
        """Read a request again without what it asked to go on with, then what follows it.

        Args:
            piece: What came in last, with the request.

        Returns:
            What of the piece follows its head.
        """
        head, rest = self._plain_head, memoryview(piece)[self._end_of_head :]
        self._plain_head = b""
        self.parser = httptools.HttpRequestParser(self)
        with contextlib.suppress(AttributeError):
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        HttpToolsProtocol.data_received(self, head)
        if rest and not self._is_refused:
            HttpToolsProtocol.data_received(self, rest)  # type: ignore[arg-type]
        return rest

    # --- heads and bodies -----------------------------------------------------------------------------------

    def end_head(self) -> None:
        """Note that a head is complete; stops the parser if it is too large."""
        # A short piece that holds all of a head, and no more headers than usual, needs no closer look.
        if (
            self.deadline is not None
            or self.piece_bytes > self._small_bytes
            or len(self.headers) > self._few_headers
        ):
            self._check_head()
        self.phase = BODY
        self.silent_bytes = -self.piece_bytes

    def _check_head(self) -> None:
        if self.deadline is not None:
            self.clear_deadline()
        self._is_head_in_parts = False
        self._head_bytes = 0
        limits, headers = self._limits, self.headers
        if len(self.url) > limits.max_url_bytes:
            self._stop_parser(UrlTooLongError(limits.max_url_bytes))
        size = len(self.url) + sum(len(name) + len(value) for name, value in headers)
        if len(headers) > limits.max_headers or size > limits.max_header_bytes:
            self._stop_parser(self._headers_too_large())

    def is_watched(self) -> bool:
        """Tell whether a response is under way, or the connection closes by itself when it stays idle."""
        return self._is_serving() or self.timeout_keep_alive_task is not None or self._owner is None

    def note_partial(self) -> None:
        """Limit what may follow after a piece that did not end the request."""
        owner, limits = self._owner, self._limits
        if owner is None:
            return
        if self.phase == HEAD:
            if self._is_head_in_parts:
                self._head_bytes += self.piece_bytes
            # The piece that it began in may hold other requests, too; the parser says in the end how much was the head's.
            self._is_head_in_parts = True
            is_too_large = self._head_bytes > limits.max_header_bytes
        else:
            self.silent_bytes += self.piece_bytes
            is_too_large = self.silent_bytes > limits.max_header_bytes
        if is_too_large:
            self._refuse(self._headers_too_large())
        elif self.deadline is None:
            seconds = limits.header_timeout_s if self.phase == HEAD else owner.body_timeout_s + _BODY_GRACE_S
            self._set_deadline(seconds)

    def _is_serving(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _set_deadline(self, seconds: float) -> None:
        self.deadline = self.loop.call_later(seconds, self._give_up, seconds)

    def clear_deadline(self) -> None:
        """Wait for the rest of a request no longer, or for as long as it takes."""
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None

    def _give_up(self, seconds: float) -> None:
        """End the connection whose client did not send the rest of a request in time."""
        self.deadline = None
        owner = self._owner
        if self.transport.is_closing() or owner is None:
            return
        if self.flow.read_paused or (self.phase != BODY and self._is_serving()):
            # It is the server that does not read on, or has not answered yet.
            self._set_deadline(seconds)
        elif self.phase == HEAD:
            owner.connections.closed["header_timeout"] += 1
            self._refuse(HeaderTimeoutError(self._limits.header_timeout_s))
        elif self.phase == BODY and self._is_serving():
            owner.connections.closed["body_timeout"] += 1
            self._refuse(BodyTimeoutError(owner.body_timeout_s))
        else:
            # It said nothing, or is answered already.
            owner.connections.closed["silent"] += 1
            self.transport.close()

    # --- answers --------------------------------------------------------------------------------------------

    def _watch_drain(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._drain_watch = self.loop.call_later(self._limits.send_timeout_s, self._require_drained, left)

    def _require_drained(self, before: int) -> None:
        """Hang up on a client that has not taken in its answer."""
        self._drain_watch = None
        left = self.transport.get_write_buffer_size()
        if left <= before - _MIN_DRAINED_BYTES or self._owner is None:
            self._watch_drain()
            return
        self._owner.connections.closed["slow_reader"] += 1
        logger.warning("connection closed: the client does not read its answer", extra={"unread_bytes": left})
        self.transport.abort()

    def _stop_drain_watch(self) -> None:
        if self._drain_watch is not None:
            self._drain_watch.cancel()
            self._drain_watch = None

    def _headers_too_large(self) -> HeadersTooLargeError:
        return HeadersTooLargeError(self._limits.max_header_bytes, self._limits.max_headers)

    def _refuse_trailers(self) -> None:
        self._stop_parser(self._headers_too_large())

    def _stop_parser(self, refusal: VerlAgentEnvError) -> None:
        """Refuse the request that is being parsed; within the parser's callbacks only."""
        self._refusal = refusal
        raise _RefusedError

    def _refuse(self, refusal: VerlAgentEnvError) -> None:
        """Answer with an error, take in nothing any more, and close the connection."""
        if self._is_refused:
            # What made the parser stop may break another limit as well.
            return
        self._is_refused = True
        self.clear_deadline()
        self.loop.call_later(_LINGER_S, self.transport.close)
        if self._is_serving():
            if self.phase != BODY or self.cycle.response_started or self.pipeline:
                # Another request's answer is under way: an answer to this one cannot be told from it.
                self.cycle.keep_alive = False
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        elif self.phase == BODY and self.cycle is not None:
            # It is answered; what followed was too much.
            self.transport.close()
            return
        if self._owner is not None:
            self.transport.write(self.rendered(self._owner.refusal(refusal)))
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def rendered(self, response: Response) -> bytes:
        """An answer as it is written."""
        defaults, headers, body = self.server_state.default_headers, response.headers, response.body
        return b"%b%bcontent-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\n%b\r\n%b" % (
            STATUS_LINE[response.status],
            _lines(defaults) if defaults else b"",
            response.media_type,
            len(body),
            response.request_id,
            _lines(headers) if headers else b"",
            body if type(body) is bytes else bytes(body),
        )


def _end_of_head() -> int:
    """Tell where in the piece a head ended at which the parser has just stopped, to go on with another protocol."""
    ended = sys.exc_info()[1]
    return ended.args[0] if isinstance(ended, httptools.HttpParserUpgrade) else 0


def _lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])


class _Trailers(list[tuple[bytes, bytes]]):
    """Takes the place of the headers once they are complete: what follows is counted and forgotten."""

    def __init__(self, max_bytes: int, refuse: Callable[[], None]) -> None:
        super().__init__()
        self._left = max_bytes
        self._refuse = refuse

    def append(self, header: tuple[bytes, bytes]) -> None:
        """Count a trailer."""
        self._left -= len(header[0]) + len(header[1])
        if self._left < 0:
            self._refuse()
