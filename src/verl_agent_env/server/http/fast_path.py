"""HTTP for uvicorn with a fast path: plain requests are handled by the parser's callbacks.

uvicorn gives each request a task, an object with an event, and three messages, which cost more than the step of a small
environment. On the fast path the response is written before ``data_received`` returns, or, if the handler has to wait, by
whoever it waits for. Everything else falls back to uvicorn's normal path.
"""

from __future__ import annotations

import asyncio
import math
import re
from asyncio import AbstractEventLoop, TimerHandle
from functools import partial
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from verl_agent_env.server.http.admission import has_ambiguous_headers
from verl_agent_env.server.http.dispatcher import DISPATCHER_STATE, Dispatcher
from verl_agent_env.server.http.exchange import Exchange, Head
from verl_agent_env.server.http.limited_protocol import HEAD, IDLE, LimitedProtocol
from verl_agent_env.server.http.problems import CLOSE
from verl_agent_env.server.http.types import Response

_BODY_PATIENCE_S = 0.05
"""A body that is not there by then is waited for on the slow path, where the dispatcher limits how long that may take."""
_PERCENT, _QUESTION_MARK, _NUMBER_SIGN = b"%?#"
"""Found in bytes much faster than a piece of bytes is."""
_SLOW_PATH_HEADERS = frozenset({b"content-encoding", b"expect", b"transfer-encoding", b"upgrade"})


class FastPathProtocol(LimitedProtocol):
    """uvicorn's HTTP on httptools, with limits and a fast path.

    The dispatcher comes from the application's lifespan, as
    :data:`~verl_agent_env.server.http.dispatcher.DISPATCHER_STATE`. Under any other application this is uvicorn's own protocol.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        # These settings of uvicorn concern every request; the fast path does without them.
        is_plain = not config.access_log and self.limit_concurrency is None and not self.root_path
        self._dispatcher: Dispatcher | None = app_state.get(DISPATCHER_STATE) if is_plain else None
        self._head: Head | None = None
        """Of the request whose body is read; None on the slow path."""
        self._body = b""
        self._body_timer: TimerHandle | None = None
        self._idle_since = math.inf
        """When the last response was written on the fast path; infinite as soon as another request begins."""
        self._idle_timer: TimerHandle | None = None

    # --- called by the transport and the server -------------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        self._head = None
        self._stop_body_timer()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        super().connection_lost(exc)

    def shutdown(self) -> None:
        if self._head is not None:
            # uvicorn ends a connection without a request that it knows of.
            self._fall_back()
        super().shutdown()

    def note_partial(self) -> None:
        super().note_partial()
        if self._head is not None and self._body_timer is None:
            self._body_timer = self.loop.call_later(_BODY_PATIENCE_S, self._fall_back)

    def is_watched(self) -> bool:
        return self._idle_timer is not None or super().is_watched()

    # --- called by the parser -------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        # uvicorn makes the request's scope here; the slow path does so later.
        self.url = b""
        self.headers = []
        self.phase = HEAD
        self._idle_since = math.inf

    def on_header(self, name: bytes, value: bytes) -> None:
        # uvicorn looks at each whether it is ``Expect``, which the slow path alone has to know.
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.end_head()
        self._head = self._find_fast_path()
        if self._head is None and not self.leave_upgrade():
            self._fall_back()

    def on_body(self, body: bytes) -> None:
        self.silent_bytes = -self.piece_bytes
        if self._head is None:
            super().on_body(body)
        else:
            self._body += body

    def on_message_complete(self) -> None:
        self.phase = IDLE
        if self.deadline is not None:
            self.clear_deadline()
        head, body, dispatcher = self._head, self._body, self._dispatcher
        if head is None or dispatcher is None:
            if not self._plain_head:
                super().on_message_complete()
            return
        self._head, self._body = None, b""
        if self._body_timer is not None:
            self._stop_body_timer()
        self.is_fresh = False
        answer = dispatcher.respond(head, self.peer, body)
        if isinstance(answer, Exchange):
            cycle = self.cycle = _FastCycle()
            answer.start(partial(self._deliver, cycle), self.tasks)
        else:
            self.transport.write(self.rendered(answer))
            self._note_idle()

    # --- the fast path --------------------------------------------------------------------------------------

    def _find_fast_path(self) -> Head | None:
        """Return the head that was read, if the fast path serves such requests."""
        dispatcher, url, parser = self._dispatcher, self.url, self.parser
        if dispatcher is None or not self.is_fresh or self.flow.write_paused:
            return None
        if self.cycle is not None and not self.cycle.response_complete:
            return None
        if _PERCENT in url or _QUESTION_MARK in url or _NUMBER_SIGN in url or not url.isascii():
            return None
        headers = dict(self.headers)
        if not _SLOW_PATH_HEADERS.isdisjoint(headers) or not parser.should_keep_alive():
            return None
        # What is wrong with such a head is said on the slow path.
        if b"host" not in headers or (
            len(headers) != len(self.headers) and has_ambiguous_headers(self.headers)
        ):
            return None
        # uvicorn ends the connection after a request of HTTP/1.0, whatever its client wants.
        if b"connection" in headers and parser.get_http_version() != "1.1":
            return None
        return dispatcher.find(parser.get_method().decode(), url.decode(), headers)

    def _deliver(self, cycle: _FastCycle, response: Response) -> None:
        """Write a response that came later."""
        cycle.response_complete = True
        if self.transport.is_closing():
            # The client left.
            self.server_state.total_requests += 1
            return
        if not cycle.keep_alive and CLOSE not in response.headers:
            response.headers += (CLOSE,)
        self.transport.write(self.rendered(response))
        if not cycle.keep_alive:
            self.transport.close()
        if self.pipeline:
            self.on_response_complete()
        elif self.phase == IDLE:
            self._note_idle()
        else:
            # The next request has begun, and has a limit of its own.
            self.server_state.total_requests += 1

    def _note_idle(self) -> None:
        self.server_state.total_requests += 1
        # uvicorn starts and cancels a timer for each request; this one runs on and then looks what happened meanwhile.
        self._idle_since = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._close_if_idle)

    def _close_if_idle(self) -> None:
        self._idle_timer = None
        if self._idle_since == math.inf:
            # A request came after the last response of the fast path; once it is answered, a timer runs again.
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._idle_timer = self.loop.call_later(left, self._close_if_idle)
        else:
            self.timeout_keep_alive_handler()

    # --- the slow path --------------------------------------------------------------------------------------

    def _fall_back(self) -> None:
        """Give uvicorn the request as if it came only now, with as much of its body as there is."""
        body, self._body = self._body, b""
        self._head = None
        self._stop_body_timer()
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        self.expect_100_continue = any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in headers
        )
        self.headers.extend(headers if url[:1] == b"/" else _with_host_of(url, headers))
        super().on_headers_complete()
        if body:
            super().on_body(body)
            self.hand_over_body()

    def _stop_body_timer(self) -> None:
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None


class _FastCycle(RequestResponseCycle):
    """Stands for a request of the fast path until its response is written: uvicorn keeps those behind it waiting."""

    _read = asyncio.Event()

    def __init__(self) -> None:
        self.disconnected = False
        self.keep_alive = True
        self.more_body = False
        self.response_started = False
        self.response_complete = False
        self.message_event = self._read


def _with_host_of(target: bytes, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Put the host of an absolute request target in place of ``Host``, as RFC 9112 (3.2.2) has it."""
    _, is_absolute, rest = target.partition(b"://")
    if not is_absolute:
        return headers
    host = re.split(rb"[/?#]", rest, maxsplit=1)[0].rpartition(b"@")[2]
    return [(b"host", host), *(header for header in headers if header[0] != b"host")]
