"""The way of every API call: from ASGI messages to a handler and back, without layers in between.

A request costs what parsing it and stepping the environment cost; a stack of middlewares would cost as much again.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from verl_agent_env.config import HttpLimits
from verl_agent_env.errors import (
    BodyTimeoutError,
    BodyTooLargeError,
    InternalError,
    MethodNotAllowedError,
    RouteNotFoundError,
    ShuttingDownError,
    UnauthorizedError,
    VerlAgentEnvError,
)
from verl_agent_env.server.auth import TokenGuard
from verl_agent_env.server.body import ClientGoneError, linger, read_body
from verl_agent_env.server.logs import current_request_id
from verl_agent_env.server.metrics import Metrics

logger = logging.getLogger("verl_agent_env.server")

JSON = b"application/json"
PROBLEM_JSON = b"application/problem+json"

_ENVIRONMENT_PREFIX = "/api/environment/"
_MAX_ENV_ID_LENGTH = 128
_MAX_SHOWN_PATH = 256
# Visible ASCII only: it goes into a header and into the logs.
_REQUEST_ID = re.compile(rb"[!-~]{1,128}")
OTHER_ROUTES = "other"
"""Label of requests that reached no route."""


@dataclass(slots=True)
class Call:
    """One request, read."""

    env_id: str
    """From the path; empty where the path has none."""
    body: bytes
    query: bytes
    headers: Mapping[bytes, bytes]


@dataclass(frozen=True)
class Reply:
    """An answer that is not plain JSON."""

    body: bytes
    media_type: bytes = JSON


Handler = Callable[[Call], Awaitable[bytes | Reply]]


@dataclass(frozen=True)
class Route:
    """One call of the API: its method and path, who answers it, and what the OpenAPI page says of it."""

    method: str
    path: str
    handler: Handler
    summary: str
    request_model: type[BaseModel] | None = None
    response_model: type[BaseModel] | None = None
    parameters: tuple[dict[str, Any], ...] = ()
    errors: tuple[type[VerlAgentEnvError], ...] = ()
    is_open: bool = False
    """Whether it needs no bearer token."""
    media_types: tuple[str, ...] = ("application/json",)
    """What a success can be."""
    tags: tuple[str, ...] = field(default=("environment",))


class Lane:
    """Finds the route of a request and serves it."""

    def __init__(
        self,
        routes: list[Route],
        limits: HttpLimits,
        guard: TokenGuard,
        metrics: Metrics,
        *,
        log_all: bool = False,
    ) -> None:
        self.routes = routes
        self._limits = limits
        self._guard = guard
        self._is_guarded = guard.has_tokens
        self._metrics = metrics
        self._log_all = log_all
        # Two tables: calls on one environment by what follows its id, and all others by their whole path.
        self._by_verb: dict[str, dict[str, Route]] = {}
        self._by_path: dict[str, dict[str, Route]] = {}
        for route in routes:
            prefix, _, verb = route.path.partition("{env_id}")
            table, key = (
                (self._by_verb, verb) if prefix == _ENVIRONMENT_PREFIX else (self._by_path, route.path)
            )
            table.setdefault(key, {})[route.method] = route
        self._request_prefix = secrets.token_hex(4).encode()
        self._request_numbers = itertools.count(1)

    def match(self, path: str) -> tuple[dict[str, Route], str] | None:
        """The routes of a path by method, and the environment's id in it."""
        if path.startswith(_ENVIRONMENT_PREFIX):
            rest = path[len(_ENVIRONMENT_PREFIX) :]
            cut = rest.find("/")
            env_id, verb = (rest, "") if cut < 0 else (rest[:cut], rest[cut:])
            routes = self._by_verb.get(verb)
            if routes is not None and 0 < len(env_id) <= _MAX_ENV_ID_LENGTH and env_id != "initialize":
                return routes, env_id
        routes = self._by_path.get(path)
        return None if routes is None else (routes, "")

    async def serve(
        self, routes: dict[str, Route], env_id: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer a request whose path has ``routes``; none at all means that there is no such path."""
        started = time.perf_counter()
        headers = dict(scope["headers"])
        request_id = self._request_id(headers.get(b"x-request-id"))
        route = routes.get(scope["method"])
        cancelled: asyncio.CancelledError | None = None
        try:
            if route is None:
                route = _stand_in(routes, scope["method"], scope["path"])
            if (
                self._is_guarded
                and not route.is_open
                and not self._guard.admits(headers.get(b"authorization"))
            ):
                raise UnauthorizedError
            body = await read_body(receive, headers.get(b"content-length", b""), self._limits)
            reply = await route.handler(Call(env_id, body, scope["query_string"], headers))
        except ClientGoneError:
            return
        except VerlAgentEnvError as raised:
            error = raised
        except asyncio.CancelledError as raised:
            # The server stops and waits no longer for this call.
            error, cancelled = ShuttingDownError(), raised
        except Exception:
            logger.exception("request failed")
            error = InternalError()
        else:
            start, payload = _success(reply, request_id, routes, scope["method"])
            await send(start)
            await send({"type": "http.response.body", "body": payload})
            self._done(route, scope, 200, "", started)
            return
        await self._refuse(error, request_id, routes, scope, send)
        self._done(route, scope, error.status, error.code, started)
        if isinstance(error, BodyTooLargeError):
            await linger(receive)
            await send({"type": "http.response.body", "body": b""})
        if cancelled is not None:
            raise cancelled

    async def _refuse(
        self, error: VerlAgentEnvError, request_id: bytes, routes: dict[str, Route], scope: Scope, send: Send
    ) -> None:
        payload = orjson.dumps(error.to_problem())
        headers = [
            (b"content-type", PROBLEM_JSON),
            (b"content-length", b"%d" % len(payload)),
            (b"x-request-id", request_id),
            *_error_headers(error, scope),
        ]
        if isinstance(error, MethodNotAllowedError):
            headers.append((b"allow", _allowed(routes)))
        await send({"type": "http.response.start", "status": error.status, "headers": headers})
        shown = b"" if scope["method"] == "HEAD" else payload
        await send(
            {"type": "http.response.body", "body": shown, "more_body": isinstance(error, BodyTooLargeError)}
        )

    def _done(self, route: Route | None, scope: Scope, status: int, code: str, started: float) -> None:
        """Count the request, and log it if it failed or all are logged."""
        elapsed = time.perf_counter() - started
        self._metrics.observe(route.path if route is not None else OTHER_ROUTES, elapsed, code)
        if self._log_all or status >= 500:
            _log_request(scope["method"], scope["path"], status, code, elapsed)

    def _request_id(self, given: bytes | None) -> bytes:
        """The client's id of the request if it can be sent back as it is, else a new one; all logs carry it."""
        if given is None or _REQUEST_ID.fullmatch(given) is None:
            given = b"%b-%x" % (self._request_prefix, next(self._request_numbers))
        current_request_id.set(given)
        return given


def _success(
    reply: bytes | Reply, request_id: bytes, routes: dict[str, Route], method: str
) -> tuple[dict[str, Any], bytes]:
    """The head of a successful answer as an ASGI message, and its body."""
    payload, media_type = (reply.body, reply.media_type) if isinstance(reply, Reply) else (reply, JSON)
    headers = [
        (b"content-type", media_type),
        (b"content-length", b"%d" % len(payload)),
        (b"x-request-id", request_id),
    ]
    if method == "OPTIONS":
        headers.append((b"allow", _allowed(routes)))
    elif method == "HEAD":
        payload = b""
    return {"type": "http.response.start", "status": 200, "headers": headers}, payload


async def _nothing(_: Call) -> bytes:
    return b""


_OPTIONS_ROUTE = Route("OPTIONS", OTHER_ROUTES, _nothing, "Which methods there are", is_open=True)


def _stand_in(routes: dict[str, Route], method: str, path: str) -> Route:
    """What serves a method that has no route of its own."""
    if not routes:
        raise RouteNotFoundError(path[:_MAX_SHOWN_PATH])
    if method == "HEAD" and "GET" in routes:
        return routes["GET"]
    if method == "OPTIONS":
        return _OPTIONS_ROUTE
    raise MethodNotAllowedError(method, path[:_MAX_SHOWN_PATH])


def _allowed(routes: dict[str, Route]) -> bytes:
    return ", ".join(sorted({*routes, "OPTIONS", *(("HEAD",) if "GET" in routes else ())})).encode()


def _error_headers(error: VerlAgentEnvError, scope: Scope) -> list[tuple[bytes, bytes]]:
    added = []
    if isinstance(error, UnauthorizedError):
        added.append((b"www-authenticate", b"Bearer"))
    if error.status in (429, 503):
        added.append((b"retry-after", b"%d" % error.retry_after_s))
    if isinstance(error, BodyTimeoutError | BodyTooLargeError) or b"expect" in dict(scope["headers"]):
        # The rest of the body is not read, or may never be sent: the connection cannot be used again.
        added.append((b"connection", b"close"))
    return added


def _log_request(method: str, path: str, status: int, code: str, elapsed_s: float) -> None:
    logger.log(
        logging.WARNING if status >= 500 else logging.INFO,
        "request",
        extra={
            "method": method,
            "path": path[:_MAX_SHOWN_PATH],
            "status": status,
            "code": code or None,
            "elapsed_ms": round(elapsed_s * 1000, 3),
        },
    )
