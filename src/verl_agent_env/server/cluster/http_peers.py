"""Calls from one worker to another over HTTP, over connections that are kept."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Mapping

import aiohttp
from yarl import URL

from verl_agent_env import waits
from verl_agent_env.errors import (
    UnauthorizedError,
    VerlAgentEnvError,
    WorkerUnreachableError,
    error_from_body,
)
from verl_agent_env.server.cluster.peer_watch import ANSWER_S, PeerWatch
from verl_agent_env.server.cluster.peers import WORKER_PATH, PeerAnswer
from verl_agent_env.server.http.auth import peer_secret_of
from verl_agent_env.server.http.commands import is_from_elsewhere
from verl_agent_env.server.http.headers import (
    ANSWER_SHARE_HEADER,
    HOP_HEADER,
    KEY_HEADER,
    OPERATION_HEADER,
    PEER_HEADER,
    PRINCIPAL_HEADER,
)
from verl_agent_env.server.http.logs import current_request_id
from verl_agent_env.spans import trace_headers

logger = logging.getLogger(__name__)

_PEER_HEADER = PEER_HEADER.decode()
_CONNECT_S = 2.0
# Shorter than the time that a worker keeps an idle connection, so that it is not closed under a call.
_IDLE_S = 15.0
_READ_BUFFER_BYTES = 1 << 20
# Each call takes one until it is answered: slow environments must not hold up the others' calls, nor parts of batches.
_CONNECTIONS_PER_PEER = 1024


class HttpPeers:
    """Implements :class:`Peers` over HTTP. Belongs to the event loop that it was opened in."""

    def __init__(
        self,
        timeout_s: float,
        token: str = "",
        supervisor_at: Callable[[str], str] = lambda _: "",
        tls: ssl.SSLContext | None = None,
        *,
        connections_per_peer: int = _CONNECTIONS_PER_PEER,
    ) -> None:
        """Nothing is connected yet.

        Args:
            timeout_s: Seconds that a call may take altogether.
            token: What this worker shows others of an earlier version, if they ask for a bearer token.
            supervisor_at: Id of the supervisor of the worker at an address, which makes what the worker is shown; empty if
                that is not known.
            tls: How to call them over TLS; None for plain HTTP.
            connections_per_peer: How many calls of one worker may be under way; further ones wait.
        """
        self._scheme = "http" if tls is None else "https"
        self._tls = tls
        self._supervisor_at = supervisor_at
        self._timeout_s = timeout_s
        self._own_headers = {HOP_HEADER.decode(): "1", "content-type": "application/json"}
        if token:
            self._own_headers["authorization"] = f"Bearer {token}"
        self._connections_per_peer = connections_per_peer
        self._session: aiohttp.ClientSession | None = None
        self._looks: aiohttp.ClientSession | None = None
        """For signs of life: calls may have all the connections of the other one."""
        self._watches: dict[str, PeerWatch] = {}
        self._watching: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        self._session = self._new_session(self._connections_per_peer)
        self._looks = self._new_session(0)

    async def close(self) -> None:
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        for session in filter(None, (self._session, self._looks)):
            await session.close()

    def _new_session(self, connections_per_peer: int) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=self._tls or True,
                limit=0,
                limit_per_host=connections_per_peer,
                keepalive_timeout=_IDLE_S,
                ttl_dns_cache=10,
            ),
            timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=_CONNECT_S),
            auto_decompress=False,
            read_bufsize=_READ_BUFFER_BYTES,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    def heard_at(self, address: str) -> float | None:
        watch = self._watches.get(address)
        return None if watch is None else watch.heard_at

    async def call(
        self,
        address: str,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[bytes, bytes] | None = None,
        *,
        timeout_s: float | None = None,
    ) -> PeerAnswer:
        if self._session is None:
            raise RuntimeError("peers are called before they were opened")
        timeout = aiohttp.ClientTimeout(total=timeout_s or self._timeout_s, sock_connect=_CONNECT_S)
        watch = self._watch_of(address)
        try:
            async with asyncio.timeout(None) as silence:
                with watch.during(silence):
                    async with self._session.request(
                        method,
                        URL(f"{self._scheme}://{address}{path}", encoded=True),
                        data=body,
                        headers=self._own_headers
                        | {_PEER_HEADER: self._secret_of(address)}
                        | _passed_on(headers or {})
                        | trace_headers(),
                        timeout=timeout,
                        allow_redirects=False,
                    ) as answer:
                        payload = await answer.read()
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as refused:
            raise WorkerUnreachableError(address, "no connection came about", may_have_run=False) from refused
        except TimeoutError as late:
            reason = (
                f"it gave no sign of life for {waits.PEER_SILENCE_S:g} s"
                if silence.expired()
                else "it did not answer in time"
            )
            raise WorkerUnreachableError(address, reason) from late
        except aiohttp.ClientError as broken:
            raise WorkerUnreachableError(address, "the connection broke before the answer came") from broken
        if answer.status != 200:
            raise _error_of(address, answer.status, payload)
        return PeerAnswer(payload, answer.headers.get("content-type", "application/json").encode())

    def _secret_of(self, address: str) -> str:
        """Make what the worker at an address wants to be shown; empty if its supervisor is not known."""
        supervisor = self._supervisor_at(address)
        return peer_secret_of(supervisor) if supervisor else ""

    def _watch_of(self, address: str) -> PeerWatch:
        watch = self._watches.get(address)
        if watch is None:
            watch = self._watches[address] = PeerWatch(lambda: self._is_there(address))
            task = asyncio.get_running_loop().create_task(watch.run(), name=f"watch {address}")
            self._watching.add(task)
            task.add_done_callback(lambda done: self._forget(address, done))
        return watch

    def _forget(self, address: str, task: asyncio.Task[None]) -> None:
        self._watching.discard(task)
        self._watches.pop(address, None)
        if not task.cancelled() and (failure := task.exception()) is not None:
            # The next call begins another one.
            logger.error(
                "watching another worker failed; the next call watches it again",
                exc_info=failure,
                extra={"address": address},
            )

    async def _is_there(self, address: str) -> bool:
        """Tell whether the worker gives any sign of life. One that refuses connections may still be serving its last calls."""
        if self._looks is None:
            return False
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        url = URL(f"{self._scheme}://{address}{WORKER_PATH}", encoded=True)
        try:
            async with self._looks.get(url, headers=self._own_headers, timeout=timeout) as answer:
                await answer.read()
        except TimeoutError:
            return False
        except (aiohttp.ClientError, OSError):
            return True
        return True


def _passed_on(given: Mapping[bytes, bytes]) -> dict[str, str]:
    """Select the client's headers that are forwarded; the client itself was checked here."""
    headers = {
        name.decode(): given[name].decode("latin-1")
        for name in (KEY_HEADER, OPERATION_HEADER, PRINCIPAL_HEADER, ANSWER_SHARE_HEADER)
        if name in given
    }
    request_id = current_request_id.get()
    if request_id:
        headers["x-request-id"] = request_id.decode("latin-1")
    if is_from_elsewhere():
        # The other worker sees this one, which is of its own machine.
        headers["x-forwarded-for"] = "elsewhere"
    return headers


def _error_of(address: str, status: int, payload: bytes) -> VerlAgentEnvError:
    error = error_from_body(payload)
    if isinstance(error, UnauthorizedError):
        # Restarted since the map was read, or not one of this cluster: nothing was done.
        return WorkerUnreachableError(address, "it does not know this worker", may_have_run=False)
    return error or WorkerUnreachableError(address, f"something else answers there, with status {status}")
