"""HTTP requests over a bounded pool of connections."""

from __future__ import annotations

import base64
import socket
import ssl
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, TypeVar

import aiohttp
import orjson
from yarl import URL

from verl_agent_env.client.errors import ClientClosedError, NoServerError, ServerUnreachableError
from verl_agent_env.errors import VerlAgentEnvError, error_from_body
from verl_agent_env.proxies import proxy_for, shown
from verl_agent_env.spans import trace_headers

T = TypeVar("T")

_CONNECT_S = 5.0
# Shorter than the 75 s of the server: the client must be the side that closes an idle connection.
_IDLE_S = 15.0
_READ_BUFFER_BYTES = 1 << 20
MAX_ANSWER_BYTES = 1 << 28
"""Largest answer that is read, in bytes, where nobody says otherwise."""
_ABANDONED: list[object] = []
"""Sessions of a forked process' parent, and what closes them: closing one here would break the parent's."""
_IS_SENT: ContextVar[bool] = ContextVar("is_sent")
"""Whether this task's request has had a connection: until then nobody can have run it."""
# Statuses with which a proxy says that the server behind it cannot be reached, is restarting, or owns the slot no more.
_PASSING_STATUSES = frozenset({408, 421, 429, 502, 503, 504})


class Transport:
    """An HTTP client of one server and its workers; bound to the event loop of its first use."""

    def __init__(
        self,
        url: str,
        token: str | None,
        timeout_s: float,
        max_connections: int,
        max_answer_bytes: int,
        ca_file: str | None = None,
        client_cert: str | tuple[str, str] | None = None,
    ) -> None:
        """Create a transport without a connection.

        Args:
            url: URL of the server, ``http://host:port``.
            token: Bearer token, if the server asks for one.
            timeout_s: Seconds that the server may be silent during one attempt.
            max_connections: Largest number of open connections; further requests wait.
            max_answer_bytes: Largest answer that is read, in bytes, decompressed.
            ca_file: CA certificates, PEM, that verify the server's; the system's if not given.
            client_cert: Client certificate, PEM: a file with certificate and key, or one file for each.

        Raises:
            ValueError: The URL is malformed, the token cannot be sent, or a file cannot be used.
        """
        parsed = _server_url(url)
        self.url = str(parsed.with_user(None)).rstrip("/")
        """Without a user and a password, which errors must not show."""
        self.scheme = parsed.scheme
        """``http`` or ``https``."""
        self._tls = _tls_context(ca_file, client_cert) if self.scheme == "https" else True
        self.has_answered = False
        """True once the server has answered; before that, a refused connection suggests a wrong URL."""
        self._headers = {"content-type": "application/json"}
        if token:
            if not (isinstance(token, str) and token.isascii() and token.isprintable()):
                raise ValueError("the token cannot be sent: it must be a text of printable ASCII characters")
            self._headers["authorization"] = f"Bearer {token}"
        elif parsed.user is not None:
            credentials = base64.b64encode(f"{parsed.user}:{parsed.password or ''}".encode())
            self._headers["authorization"] = f"Basic {credentials.decode()}"
        self._timeout_s = timeout_s
        self._max_connections = max_connections
        self._max_answer_bytes = max_answer_bytes
        self._session: aiohttp.ClientSession | None = None
        self._closer: AsyncGenerator[None] | None = None
        """Closes the session at the end of its event loop."""
        self._proxies: dict[str, str] = {}
        """Proxy of each origin, empty for none."""
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._closed = False

    def discard(self, *, is_forked: bool) -> None:
        """Let the session of a closed event loop, or of the parent process, go; the next request connects again.

        In a forked process this closes only its copies of the sockets: the parent's connections stay open.
        """
        session, closer = self._session, self._closer
        self._session = self._closer = None
        if session is not None and is_forked:
            _ABANDONED.append((session, closer))
        elif session is not None and not session.closed:
            # Its event loop was closed without the end of its asynchronous generators: there is nothing to wait for.
            with suppress(StopIteration, RuntimeError):
                session.close().send(None)
        for connected in self._sockets:
            connected.close()
        self._sockets.clear()

    async def send(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        base: str | None = None,
        deadline: float | None = None,
    ) -> bytes:
        """Send a request once and return the body of a successful response.

        Args:
            method: ``GET`` or ``POST``.
            path: Path and query, quoted.
            body: JSON.
            headers: Further headers.
            base: URL of a worker to use instead of the server's.
            deadline: Time on the clock of :func:`time.monotonic`.

        Raises:
            ServerUnreachableError: There was no answer, or it was not the server's own.
            VerlAgentEnvError: The server's error.
        """
        origin = base or self.url
        left_s = None if deadline is None else max(0.001, deadline - time.monotonic())
        proxy = self._proxy_for(origin)
        through = f", through the proxy {shown(proxy)}" if proxy else ""
        # Time spent waiting for a free connection counts towards the deadline only.
        timeout = aiohttp.ClientTimeout(total=left_s, sock_connect=_CONNECT_S, sock_read=self._timeout_s)
        _IS_SENT.set(False)
        try:
            async with self._opened().request(
                method,
                URL(origin + path, encoded=True),
                data=body or None,
                headers={**self._headers, **(headers or {}), **trace_headers()},
                timeout=timeout,
                allow_redirects=False,
                proxy=proxy or None,
            ) as answer:
                payload = await self._read(origin, answer, deadline)
        except TimeoutError as late:
            is_sent = _IS_SENT.get()
            reason = f"it did not answer in time{through}" if is_sent else f"no connection in time{through}"
            raise ServerUnreachableError(origin, reason, may_have_run=is_sent) from late
        except aiohttp.ClientConnectorCertificateError as untrusted:
            # No other attempt will find another certificate.
            reason = f"its certificate is not accepted{through}: {untrusted.certificate_error}"
            raise NoServerError(origin, reason) from untrusted
        except aiohttp.ClientHttpProxyError as refusal:
            reason = f"the proxy {shown(proxy)} refuses with status {refusal.status}"
            raise ServerUnreachableError(origin, reason, may_have_run=False) from refusal
        except aiohttp.ClientConnectorError as refused:
            to = f" to the proxy {shown(proxy)}" if proxy else ""
            reason = f"no connection{to} ({refused.os_error.strerror or refused.os_error})"
            raise ServerUnreachableError(origin, reason, may_have_run=False) from refused
        except aiohttp.ClientResponseError as malformed:
            reason = (
                f"what answers there{through} does not speak HTTP as it should ({_first_line(malformed)})"
            )
            raise NoServerError(origin, reason) from malformed
        except (aiohttp.ClientError, OSError) as broken:
            reason = f"the connection broke before the answer came{through}"
            raise ServerUnreachableError(origin, reason) from broken
        error = None if answer.status == 200 else _error_of(origin, answer.status, payload, proxy)
        if base is None and not isinstance(error, ServerUnreachableError):
            self.has_answered = True
        if error is not None:
            raise error
        return payload

    async def _read(self, origin: str, answer: aiohttp.ClientResponse, deadline: float | None) -> bytes:
        """Read the body of a response.

        Raises:
            NoServerError: It is longer than ``max_answer_bytes``.
            TimeoutError: It was not there at the deadline; what comes all the time leaves no turn to the timer.
        """
        pieces: list[bytes] = []
        size = 0
        async for piece in answer.content.iter_any():
            size += len(piece)
            if size > self._max_answer_bytes:
                raise NoServerError(
                    origin, f"its answer has more than {self._max_answer_bytes} bytes (max_answer_bytes)"
                )
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError
            pieces.append(piece)
        return b"".join(pieces)

    async def close(self) -> None:
        """Close all connections; further requests fail."""
        self._closed = True
        closer, self._session, self._closer = self._closer, None, None
        if closer is not None:
            await closer.aclose()

    def _opened(self) -> aiohttp.ClientSession:
        if self._closed:
            raise ClientClosedError
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    ssl=self._tls,
                    limit=self._max_connections,
                    keepalive_timeout=_IDLE_S,
                    ttl_dns_cache=10,
                    socket_factory=self._make_socket,
                ),
                request_class=_Request,
                read_bufsize=_READ_BUFFER_BYTES,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
            self._closer = _close_with_loop(self._session)
            with suppress(StopIteration):
                # Nothing is awaited before the yield; from now on the loop knows the generator.
                self._closer.__anext__().__await__().send(None)
        return self._session

    def _proxy_for(self, origin: str) -> str:
        """Find the proxy for an origin, which is looked up once.

        Raises:
            NoServerError: It is of a kind that is not spoken here.
        """
        known = self._proxies.get(origin)
        if known is not None:
            return known
        proxy = proxy_for(origin)
        if proxy and not _is_url(proxy):
            raise NoServerError(
                origin, "the proxy that the environment names is no URL; write http://host:port"
            )
        if proxy and not proxy.startswith(("http://", "https://")):
            raise NoServerError(
                origin,
                f"the proxy {shown(proxy)} is no HTTP proxy; NO_PROXY={URL(origin).host} goes without it",
            )
        self._proxies[origin] = proxy
        return proxy

    def _make_socket(self, address: Any) -> socket.socket:
        family, kind, protocol, *_ = address
        made = socket.socket(family, kind, protocol)
        self._sockets.add(made)
        return made


async def _close_with_loop(session: aiohttp.ClientSession) -> AsyncGenerator[None]:
    """Close a session when the running event loop ends, as it closes asynchronous generators, or when this is closed."""
    async with session:
        yield


class _Request(aiohttp.ClientRequest):
    """A request that tells when it goes out."""

    async def send(self, conn: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        """Send it over an open connection."""
        _IS_SENT.set(True)
        return await super().send(conn)


def _tls_context(ca_file: str | None, client_cert: str | tuple[str, str] | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
        if client_cert is not None:
            context.load_cert_chain(*((client_cert,) if isinstance(client_cert, str) else client_cert))
    except OSError as fault:
        files = [name for name in (ca_file, client_cert) if name]
        raise ValueError(
            f"a file for TLS cannot be used: {fault.strerror or fault}; look at {files}"
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _is_url(text: str) -> bool:
    try:
        return bool(URL(text).host)
    except ValueError:
        return False


def _server_url(url: object) -> URL:
    """Read the URL of a server.

    Raises:
        ValueError: It is none.
    """
    try:
        parsed = URL(url.strip()) if isinstance(url, str) else URL()
        (parsed.raw_host or "").encode("idna")
    except ValueError:
        parsed = URL()
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query_string or parsed.fragment:
        raise ValueError(f"{url!r} is no URL of a server: write http://host:port")
    return parsed


def _first_line(fault: aiohttp.ClientResponseError) -> str:
    return fault.message.strip().partition("\n")[0].rstrip(":")


def read_object(origin: str, payload: bytes, read: Callable[[dict[str, Any]], T]) -> T:
    """Decode a JSON object in a response, and read it.

    Raises:
        NoServerError: It is none, or ``read`` does not find in it what belongs there.
    """
    document = decode_object(origin, payload)
    try:
        return read(document)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise NoServerError(origin, "its answer has another form") from None


def decode_object(origin: str, payload: bytes) -> dict[str, Any]:
    """Decode a JSON object in a response.

    Raises:
        NoServerError: It is not one: something else answers at this URL.
    """
    try:
        document = orjson.loads(payload)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        raise NoServerError(origin, "what answers there does not speak JSON")
    return document


def _error_of(origin: str, status: int, payload: bytes, proxy: str) -> VerlAgentEnvError:
    """Return the server's own error, or the meaning of a response of a proxy in between."""
    error = error_from_body(payload)
    if error is not None:
        return error
    if status in _PASSING_STATUSES:
        return ServerUnreachableError(
            origin, f"{_who(proxy, 'a proxy')} answers for it, with status {status}"
        )
    return NoServerError(origin, f"{_who(proxy, 'something else')} answers there, with status {status}")


def _who(proxy: str, otherwise: str) -> str:
    return f"the proxy {shown(proxy)}" if proxy else otherwise
