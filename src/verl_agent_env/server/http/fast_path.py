"""HTTP for uvicorn with a short way: what can be answered without waiting is answered by the parser's callbacks.

uvicorn gives each request a task, an object with an event, and three messages, which cost more than the step of a small
environment. On the short way the answer is written before ``data_received`` returns. Whatever is not a plain, whole
request for a route that answers at once goes the long way, which is uvicorn's own, as if nobody had looked at it.
"""

from __future__ import annotations

import math
import re
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from functools import partial
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from verl_agent_env.server.http.admission import has_ambiguous_headers
from verl_agent_env.server.http.dispatcher import DISPATCHER_STATE, Dispatcher
from verl_agent_env.server.http.limited_protocol import HEAD, IDLE, LimitedProtocol
from verl_agent_env.server.http.types import Response

_BODY_PATIENCE_S = 0.05
"""A body that is not there by then is waited for on the long way, where the dispatcher limits how long that may take."""
_LONG_WAY_HEADERS = frozenset({b"expect", b"transfer-encoding", b"upgrade"})


class FastPathProtocol(LimitedProtocol):
    """uvicorn's HTTP on httptools, with limits; answers at once what the application's dispatcher can answer at once.

    The dispatcher comes from the application's lifespan, as :data:`~verl_agent_env.server.http.dispatcher.DISPATCHER_STATE`. Under any other
    application this is uvicorn's own protocol.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        # These settings of uvicorn concern every request; the short way does without them.
        is_plain = not config.access_log and self.limit_concurrency is None and not self.root_path
        self._dispatcher: Dispatcher | None = app_state.get(DISPATCHER_STATE) if is_plain else None
        self._answer_now: Callable[[bytes], Response | None] | None = None
        """Answers the request whose head was read, given its body; ``None`` on the long way."""
        self._body = b""
        self._body_timer: TimerHandle | None = None
        self._idle_since = math.inf
        """When the last short answer was given; infinite as soon as another request begins."""
        self._idle_timer: TimerHandle | None = None

    # --- what the transport and the server say --------------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        self._answer_now = None
        self._stop_body_timer()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        super().connection_lost(exc)

    def shutdown(self) -> None:
        if self._answer_now is not None:
            # uvicorn ends a connection without a request that it knows of.
            self._take_long_way()
        super().shutdown()

    def note_partial(self) -> None:
        super().note_partial()
        if self._answer_now is not None and self._body_timer is None:
            self._body_timer = self.loop.call_later(_BODY_PATIENCE_S, self._take_long_way)

    def is_watched(self) -> bool:
        return self._idle_timer is not None or super().is_watched()

    # --- what the parser says -------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        # uvicorn makes the request's scope here; the long way does so later.
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self.phase = HEAD
        self._idle_since = math.inf

    def on_headers_complete(self) -> None:
        self.end_head()
        self._answer_now = self._find_short_way()
        if self._answer_now is None:
            self._take_long_way()

    def on_body(self, body: bytes) -> None:
        self.silent_bytes = -self.piece_bytes
        if self._answer_now is None:
            super().on_body(body)
        else:
            self._body += body

    def on_message_complete(self) -> None:
        self.phase = IDLE
        if self.deadline is not None:
            self.clear_deadline()
        if self._answer_now is not None:
            answer = self._answer_now(self._body)
            if answer is not None:
                self._write(answer)
                return
            self._take_long_way()
        super().on_message_complete()

    # --- the short way --------------------------------------------------------------------------------------

    def _find_short_way(self) -> Callable[[bytes], Response | None] | None:
        """What answers the request whose head was read, if that can be done at once."""
        dispatcher, url, parser = self._dispatcher, self.url, self.parser
        if dispatcher is None or not self.is_fresh or self.flow.write_paused:
            return None
        if self.cycle is not None and not self.cycle.response_complete:
            return None
        if b"%" in url or b"?" in url or b"#" in url or not url.isascii():
            return None
        headers = dict(self.headers)
        if not _LONG_WAY_HEADERS.isdisjoint(headers) or not parser.should_keep_alive():
            return None
        # What is wrong with such a head is said on the long way.
        if b"host" not in headers or (
            len(headers) != len(self.headers) and has_ambiguous_headers(self.headers)
        ):
            return None
        # uvicorn ends the connection after a request of HTTP/1.0, whatever its client wants.
        if b"connection" in headers and parser.get_http_version() != "1.1":
            return None
        method, path = parser.get_method().decode(), url.decode()
        found = dispatcher.find_now(method, path, headers)
        return (
            None if found is None else partial(dispatcher.serve_now, *found, method, path, headers, self.peer)
        )

    def _write(self, response: Response) -> None:
        self.transport.write(self.rendered(response))
        self._answer_now = None
        self._body = b""
        self._stop_body_timer()
        self.is_fresh = False
        self.server_state.total_requests += 1
        # uvicorn starts and cancels a timer for each request; this one runs on and then looks what happened meanwhile.
        self._idle_since = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._close_if_idle)

    def _close_if_idle(self) -> None:
        self._idle_timer = None
        if self._idle_since == math.inf:
            # A request came after the last short answer; once it is answered, uvicorn's own timer runs.
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._idle_timer = self.loop.call_later(left, self._close_if_idle)
        else:
            self.timeout_keep_alive_handler()

    # --- the long way ---------------------------------------------------------------------------------------

    def _take_long_way(self) -> None:
        """Give uvicorn the request as if it came only now, with as much of its body as there is."""
        body, self._body = self._body, b""
        self._answer_now = None
        self._stop_body_timer()
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers if url[:1] == b"/" else _with_host_of(url, headers))
        super().on_headers_complete()
        if body:
            super().on_body(body)
            self.hand_over_body()

    def _stop_body_timer(self) -> None:
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None


def _with_host_of(target: bytes, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers with the host of an absolute request target in place of ``Host``, as RFC 9112 (3.2.2) has it."""
    _, is_absolute, rest = target.partition(b"://")
    if not is_absolute:
        return headers
    host = re.split(rb"[/?#]", rest, maxsplit=1)[0].rpartition(b"@")[2]
    return [(b"host", host), *(header for header in headers if header[0] != b"host")]
