"""Dispatches every API request to its handler, from ASGI messages or from the fast path, without layers in between.

A request costs what parsing it and stepping the environment cost; a stack of middlewares would cost as much again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import re
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from verl_agent_env.config import HttpLimits
from verl_agent_env.engine import AwaitableOrValue, await_maybe
from verl_agent_env.engine.execution.budget import UNCOUNTED
from verl_agent_env.errors import (
    EnvironmentNotFoundError,
    InternalError,
    MemoryExhaustedError,
    MethodNotAllowedError,
    MovedError,
    RouteNotFoundError,
    ShuttingDownError,
    VerlAgentEnvError,
)
from verl_agent_env.server.http.admission import Admission, require_well_formed
from verl_agent_env.server.http.auth import current_principal
from verl_agent_env.server.http.body import ClientGoneError, drain_body, has_arrived, read_body
from verl_agent_env.server.http.commands import note_source
from verl_agent_env.server.http.connections import Connections
from verl_agent_env.server.http.exchange import Exchange, Head
from verl_agent_env.server.http.logs import SHORTAGE, current_request_id
from verl_agent_env.server.http.metrics import Metrics
from verl_agent_env.server.http.peer import Peer
from verl_agent_env.server.http.problems import CLOSE, problem_response
from verl_agent_env.server.http.request_memory import UNCOUNTED_BYTES, RequestMemory, Share
from verl_agent_env.server.http.route_table import RouteTable
from verl_agent_env.server.http.tokens import ANYBODY, Principal
from verl_agent_env.server.http.types import Request, Response, Route
from verl_agent_env.wire.pieces import Pieces

logger = logging.getLogger("verl_agent_env.server")

DISPATCHER_STATE = "verl_agent_env.dispatcher"
"""Under this name the application's lifespan hands its dispatcher to the server's protocol."""

_MAX_SHOWN_PATH = 256
_MAX_LENGTH_DIGITS = 5
# Visible ASCII only: it goes into a header and into the logs.
_REQUEST_ID = re.compile(rb"[!-~]{1,128}")
_POLICY_VIOLATION = 1008
_NO_CONTENT = (b"content-length", b"0")
OTHER_ROUTES = "other"
"""Label of requests that reached no route."""


class Dispatcher:
    """Finds the route of a request and serves it."""

    def __init__(
        self,
        routes: list[Route],
        limits: HttpLimits,
        admission: Admission,
        metrics: Metrics,
        connections: Connections,
        *,
        log_all: bool = False,
        on_idle: Callable[[], None] = lambda: None,
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        """Serve these routes.

        Args:
            routes: The calls of the API.
            limits: On a request.
            admission: Says who may ask for what.
            metrics: Counts.
            connections: Of this worker.
            log_all: Whether every request is logged.
            on_idle: Called when large requests were under way and none is any more.
            on_stop: Called when the server begins to wait for its last responses, perhaps several times: ends those that would
                never end.
        """
        self.routes = routes
        self.match = RouteTable(routes).match
        """Gives the routes of a path by method, and the environment's id in it."""
        self.connections = connections
        """Of this worker, as its protocol counts them."""
        self.body_timeout_s = limits.body_timeout_s
        self._limits = limits
        self._max_fast_bytes = min(limits.max_body_bytes, UNCOUNTED_BYTES)
        self._small_digits = len(str(self._max_fast_bytes)) - 1
        """A length of no more digits is not too much; the parser lets nothing but digits through."""
        self.waiting: set[Exchange] = set()
        """Requests whose responses wait for the store."""
        self.memory = RequestMemory(limits.max_request_memory_bytes, limits.max_body_bytes, on_idle)
        self.on_stop = on_stop
        """To be called when the server begins to wait for its last responses."""
        self._admission = admission
        self._metrics = metrics
        self._log_all = log_all
        self._request_prefix = secrets.token_hex(4).encode()
        self._request_numbers = itertools.count(1)

    def find(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> Head | None:
        """Return the head of a request that the fast path serves; None for all others.

        A body of unusual size is left to :meth:`serve`, which counts it, or refuses it.
        """
        length = headers.get(b"content-length", b"0")
        if len(length) > self._small_digits and (
            len(length) > _MAX_LENGTH_DIGITS or not length.isdigit() or int(length) > self._max_fast_bytes
        ):
            return None
        found = self.match(path)
        if found is None:
            return None
        routes, env_id = found
        route = routes.get(method)
        return None if route is None or route.is_long else Head(route, env_id, path, headers)

    async def serve(
        self, routes: dict[str, Route], env_id: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer a request whose path has ``routes``; none at all means that there is no such path."""
        share = self.memory.share()
        try:
            await self._serve(routes, env_id, scope, receive, send, share)
        finally:
            share.close()

    async def _serve(
        self,
        routes: dict[str, Route],
        env_id: str,
        scope: Scope,
        receive: Receive,
        send: Send,
        share: Share,
    ) -> None:
        started = time.perf_counter()
        headers = dict(scope["headers"])
        request_id = self._request_id(headers.get(b"x-request-id"))
        current_request_id.set(request_id)
        method, path, peer = scope["method"], scope["path"], Peer.of_scope(scope)
        route = routes.get(method)
        error: VerlAgentEnvError | None = None
        cancelled: asyncio.CancelledError | None = None
        request: Request | None = None
        try:
            require_well_formed(scope["headers"], headers, scope.get("http_version", ""))
            if route is None:
                # Who may not ask is not told what there is.
                self._admission.admit(method, headers, peer, "")
                route = _stand_in(routes, method, path)
            principal = self._admission.admit(method, headers, peer, route.auth_scope)
            require_seen(principal, env_id)
            note_source(peer, headers)
            share.tag = principal.tag
            declared = headers.get(b"content-length", b"")
            body = read_body(receive, declared, self._limits, share.receive)
            request = Request(env_id, await body, scope["query_string"], headers, principal, share, path)
            response = await self._handle(route, request, share)
        except ClientGoneError:
            return
        except asyncio.CancelledError as raised:
            # The server stops and waits no longer for this call.
            error, cancelled = ShuttingDownError(), raised
        except Exception as raised:  # noqa: BLE001 - sent
            error = error_of(raised)
        if error is not None:
            response = problem_response(error, headers)
        if isinstance(error, MethodNotAllowedError) or (method == "OPTIONS" and error is None):
            response.headers += ((b"allow", _allowed(routes)),)
        label = OTHER_ROUTES if route is None else route.path
        self._complete(label, method, path, headers, request_id, started, response, error)
        is_read = request is not None
        # While the answer is sent, which may take long, nothing else is kept of the request.
        request = None
        share.free_body()
        if len(response.body) > UNCOUNTED_BYTES:
            share.answer(len(response.body))
        await _send(response, method, receive, send, is_read=is_read)
        if cancelled is not None:
            raise cancelled

    async def _handle(self, route: Route, request: Request, share: Share) -> Response:
        """Handle a request as soon as there is room to work on its body."""
        if len(request.body) <= UNCOUNTED_BYTES:
            return await call(route, request)
        async with share.working_on(request.body, waits_for_room=not route.is_part):
            return await call(route, request)

    def respond(self, head: Head, peer: Peer, body: bytes) -> Response | Exchange:
        """Handle a whole request with a well-formed head, which :meth:`find` gave; never raises.

        Returns:
            The response, or the exchange in which it comes later.
        """
        started = time.perf_counter()
        route, env_id, path, headers = head.route, head.env_id, head.path, head.headers
        request_id = self._request_id(headers.get(b"x-request-id"))
        # Put back afterwards: all requests of a connection share one context here; serve() has one for each.
        before = current_request_id.set(request_id)
        try:
            failure: BaseException
            try:
                principal = self._admission.admit(route.method, headers, peer, route.auth_scope)
                if principal is not ANYBODY:
                    require_seen(principal, env_id)
                request = Request(env_id, body, b"", headers, principal, UNCOUNTED, path)
                answer = route.handler(request)
                if not isinstance(answer, Response):
                    return Exchange(self, head, peer, request, request_id, started, answer)
                return self._complete(route.path, route.method, path, headers, request_id, started, answer)
            except MovedError as moved:
                if route.at_owner is not None:
                    answer = route.at_owner(request)
                    return Exchange(self, head, peer, request, request_id, started, answer)
                failure = moved
            except BaseException as raised:  # noqa: BLE001
                # Also what would end the server: nobody above expects it, and it came from an environment's code.
                failure = raised
            return self.finish(head, request_id, started, failure)
        finally:
            current_request_id.reset(before)

    def finish(
        self, head: Head, request_id: bytes, started: float, result: Response | BaseException
    ) -> Response:
        """Finish the response of a request on the fast path: write the error if it is one, add headers, count and log."""
        route, headers, error = head.route, head.headers, None
        if not isinstance(result, Response):
            error = error_of(result)
            result = problem_response(error, headers)
        return self._complete(
            route.path, route.method, head.path, headers, request_id, started, result, error
        )

    def _complete(
        self,
        label: str,
        method: str,
        path: str,
        headers: Mapping[bytes, bytes],
        request_id: bytes,
        started: float,
        response: Response,
        error: VerlAgentEnvError | None = None,
    ) -> Response:
        """Add headers to a response, which tells of ``error`` if there is one; count it under its route's label.

        It is logged if it failed or all are logged.
        """
        response.request_id = request_id
        if b"origin" in headers:
            response.headers += self._admission.policy.grants(method, headers)
        elapsed = time.perf_counter() - started
        self._metrics.latency[label].observe(elapsed)
        if error is not None:
            self._metrics.count_error(error.code)
        if self._log_all or (error is not None and error.status >= 500):
            status, code = (200, None) if error is None else (error.status, error.code)
            _log_request(method, path, status, code, elapsed)
        return response

    def reject_pending(self) -> None:
        """Answer all requests that wait for the store, because the server stops."""
        for exchange in list(self.waiting):
            exchange.reject()

    def refusal(self, error: VerlAgentEnvError) -> Response:
        """Return the response for a connection that is closed with this error, and count the error."""
        self._metrics.count_error(error.code)
        response = problem_response(error, {})
        response.request_id = self._request_id(None)
        response.headers = (*(header for header in response.headers if header != CLOSE), CLOSE)
        return response

    async def serve_page(
        self, page: ASGIApp, scope: Scope, receive: Receive, send: Send, needed_scope: str = ""
    ) -> None:
        """Have ``page``, which is no call of the API, answer a request that is admitted as calls are.

        Args:
            page: The page.
            scope: Of the request, for ASGI.
            receive: As ASGI has it.
            send: As ASGI has it.
            needed_scope: What the request's token must allow; empty where none is needed.
        """
        headers = dict(scope["headers"])
        method, policy, peer = scope["method"], self._admission.policy, Peer.of_scope(scope)
        try:
            require_well_formed(scope["headers"], headers, scope.get("http_version", ""))
            # Browsers ask first whether they may ask, and show no token for that.
            is_preflight = method == "OPTIONS" and b"access-control-request-method" in headers
            principal = self._admission.admit(method, headers, peer, "" if is_preflight else needed_scope)
        except VerlAgentEnvError as error:
            self._metrics.count_error(error.code)
            response = problem_response(error, headers)
            response.request_id = self._request_id(headers.get(b"x-request-id"))
            await _send(response, method, receive, send, is_read=False)
            return
        note_source(peer, headers)
        current_principal.set(principal)
        granted = policy.grants(method, headers) if b"origin" in headers else ()
        if granted and is_preflight:
            await send({"type": "http.response.start", "status": 200, "headers": [*granted, _NO_CONTENT]})
            await send({"type": "http.response.body", "body": b""})
            return

        async def send_granted(message: Message) -> None:
            if message["type"] == "http.response.start":
                # A path that no page has is answered as a call of the API, which has them already.
                given = [header for header in message.get("headers", ()) if header not in granted]
                message = {**message, "headers": [*given, *granted]}
            await send(message)

        await page(scope, receive, send_granted if granted else send)

    def admit_websocket(self, scope: Scope, auth_scope: str = "read") -> Principal:
        """Admit the handshake of a WebSocket as a call that needs a token, and return its principal.

        Browsers let any page open a WebSocket to anywhere: its ``Origin`` is all that tells pages apart.

        Args:
            scope: Of the handshake, for ASGI.
            auth_scope: What its token must allow.

        Raises:
            VerlAgentEnvError: As :meth:`~verl_agent_env.server.http.admission.Admission.admit`.
        """
        headers = dict(scope["headers"])
        require_well_formed(scope["headers"], headers, scope.get("http_version", ""))
        principal = self._admission.admit("GET", headers, Peer.of_scope(scope), auth_scope)
        note_source(Peer.of_scope(scope), headers)
        return principal

    async def refuse_websocket(
        self, scope: Scope, receive: Receive, send: Send, error: VerlAgentEnvError | None = None
    ) -> None:
        """Answer the handshake of a WebSocket with an error: that there is no route for one, if none is given."""
        try:
            if error is None:
                self.admit_websocket(scope)
                error = RouteNotFoundError(scope["path"][:_MAX_SHOWN_PATH])
        except VerlAgentEnvError as raised:
            error = raised
        self._metrics.count_error(error.code)
        headers = dict(scope["headers"])
        response = problem_response(error, headers)
        response.request_id = self._request_id(headers.get(b"x-request-id"))
        await receive()
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
            return
        await send(
            {
                "type": "websocket.http.response.start",
                "status": response.status,
                "headers": response.all_headers(),
            }
        )
        await send({"type": "websocket.http.response.body", "body": response.body})

    def _request_id(self, given: bytes | None) -> bytes:
        """The client's id of the request if it can be sent back as it is, else a new one."""
        if given is None or _REQUEST_ID.fullmatch(given) is None:
            given = b"%b-%x" % (self._request_prefix, next(self._request_numbers))
        return given


async def call(route: Route, request: Request) -> Response:
    """Wait for a route's response: its handler's, or the owner's if the slot has moved.

    Raises:
        VerlAgentEnvError: As the handler, or the owner, raises it.
    """
    return await await_maybe(start(route, request))


def start(route: Route, request: Request) -> AwaitableOrValue[Response]:
    """Handle a request as :func:`call` does; gives the response itself where there is nothing to wait for."""
    try:
        answer = route.handler(request)
    except MovedError:
        if route.at_owner is None:
            raise
        return route.at_owner(request)
    return answer if isinstance(answer, Response) else _followed(route, request, answer)


async def _followed(route: Route, request: Request, answer: AwaitableOrValue[Response]) -> Response:
    try:
        return await await_maybe(answer)
    except MovedError:
        if route.at_owner is None:
            raise
        return await route.at_owner(request)


def error_of(raised: BaseException) -> VerlAgentEnvError:
    """Make an error for the client of whatever was raised; without the frames that it came from, which keep the body alive."""
    if isinstance(raised, VerlAgentEnvError):
        raised.__traceback__ = raised.__context__ = raised.__cause__ = None
        return raised
    if isinstance(raised, MemoryError):
        # The traceback does not help: the next request fails as well.
        logger.error("request failed: out of memory", extra=SHORTAGE)
        return MemoryExhaustedError()
    logger.error("request failed", exc_info=raised)
    return InternalError()


async def _send(response: Response, method: str, receive: Receive, send: Send, *, is_read: bool) -> None:
    """Send an answer. If the request's body is not whole, the rest is not waited for, and the connection ends."""
    # Asked for it, a client that expects to be would send the body: then the answer says already that this is the end.
    is_whole = is_read or (CLOSE not in response.headers and has_arrived(receive))
    if not is_whole and CLOSE not in response.headers:
        response.headers += (CLOSE,)
    payload = b"" if method == "HEAD" else response.body
    await send({"type": "http.response.start", "status": response.status, "headers": response.all_headers()})
    if isinstance(payload, Pieces):
        # Each waits until the connection has taken in most of those before.
        for piece in payload:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        payload = b""
    elif response.stream is not None and not await _send_stream(response.stream, method, receive, send):
        return
    await send({"type": "http.response.body", "body": payload, "more_body": not is_whole})
    if not is_whole:
        await drain_body(receive)
        await send({"type": "http.response.body", "body": b""})


async def _send_stream(
    stream: AsyncGenerator[bytes, None], method: str, receive: Receive, send: Send
) -> bool:
    """Send the parts of a response as they come; returns false as soon as the client has gone away."""
    loop = asyncio.get_running_loop()
    is_sending = True

    def end(_: object) -> None:
        if is_sending:
            presence.reschedule(loop.time())

    # While no part comes, nothing else tells that nobody waits for one.
    leaving = loop.create_task(_until_gone(receive))
    try:
        async with contextlib.aclosing(stream), asyncio.timeout(None) as presence:
            leaving.add_done_callback(end)
            if method != "HEAD":
                async for part in stream:
                    await send({"type": "http.response.body", "body": part, "more_body": True})
            is_sending = False
    except TimeoutError:
        if not presence.expired():
            raise
        return False
    finally:
        is_sending = False
        leaving.cancel()
    return True


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def require_seen(principal: Principal, env_id: str) -> None:
    """Raise if an environment is another holder's: who asks is told no more than of one that does not exist.

    Raises:
        EnvironmentNotFoundError: It is.
    """
    if env_id and not principal.sees(env_id):
        raise EnvironmentNotFoundError(env_id)


def _nothing(_: Request) -> Response:
    return Response(b"")


_OPTIONS_ROUTE = Route("OPTIONS", OTHER_ROUTES, _nothing, "Which methods there are", auth_scope="")


def _stand_in(routes: dict[str, Route], method: str, path: str) -> Route:
    """Make the route for a method that has none of its own."""
    if not routes:
        raise RouteNotFoundError(path[:_MAX_SHOWN_PATH])
    if method == "HEAD" and "GET" in routes:
        return routes["GET"]
    if method == "OPTIONS":
        return _OPTIONS_ROUTE
    raise MethodNotAllowedError(method, path[:_MAX_SHOWN_PATH])


def _allowed(routes: dict[str, Route]) -> bytes:
    return ", ".join(sorted({*routes, "OPTIONS", *(("HEAD",) if "GET" in routes else ())})).encode()


def _log_request(method: str, path: str, status: int, code: str | None, elapsed_s: float) -> None:
    logger.log(
        logging.WARNING if status >= 500 else logging.INFO,
        "request",
        extra={
            "method": method,
            "path": path[:_MAX_SHOWN_PATH],
            "status": status,
            "code": code,
            "elapsed_ms": round(elapsed_s * 1000, 3),
        },
    )
