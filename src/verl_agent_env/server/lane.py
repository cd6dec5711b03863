"""The way of every API call: from ASGI messages to a handler and back, without layers in between.

A request costs what parsing it and stepping the environment cost; a stack of middlewares would cost as much again.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from verl_agent_env.config import HttpLimits
from verl_agent_env.errors import (
    BodyTimeoutError,
    BodyTooLargeError,
    InternalError,
    MethodNotAllowedError,
    UnauthorizedError,
    VerlAgentEnvError,
)
from verl_agent_env.server.auth import TokenGuard
from verl_agent_env.server.metrics import Metrics

logger = logging.getLogger("verl_agent_env.server")

JSON = b"application/json"
PROBLEM_JSON = b"application/problem+json"

_ENVIRONMENT_PREFIX = "/api/environment/"
_MAX_REQUEST_ID_BYTES = 128


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
    request_model: type | None = None
    response_model: type | None = None
    parameters: tuple[dict[str, Any], ...] = ()
    errors: tuple[type[VerlAgentEnvError], ...] = ()
    is_open: bool = False
    """Whether it needs no bearer token."""
    media_type: str = "application/json"
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
        self._request_prefix = secrets.token_hex(4)
        self._request_numbers = itertools.count(1)

    def match(self, path: str) -> tuple[dict[str, Route], str] | None:
        """The routes of a path by method, and the environment's id in it."""
        if path.startswith(_ENVIRONMENT_PREFIX):
            rest = path[len(_ENVIRONMENT_PREFIX) :]
            cut = rest.find("/")
            env_id, verb = (rest, "") if cut < 0 else (rest[:cut], rest[cut:])
            routes = self._by_verb.get(verb)
            if routes is not None and env_id and env_id != "initialize":
                return routes, env_id
        routes = self._by_path.get(path)
        return None if routes is None else (routes, "")

    async def serve(
        self, routes: dict[str, Route], env_id: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer a request whose path has ``routes``."""
        started = time.perf_counter()
        method = scope["method"]
        headers = dict(scope["headers"])
        route = routes.get(method)
        request_id = headers.get(b"x-request-id", b"")
        if not request_id or len(request_id) > _MAX_REQUEST_ID_BYTES:
            request_id = b"%b-%x" % (self._request_prefix.encode(), next(self._request_numbers))
        out_headers = [(b"x-request-id", request_id)]
        status, media_type, code = 200, JSON, ""
        try:
            if route is None:
                out_headers.append((b"allow", ", ".join(sorted(routes)).encode()))
                raise MethodNotAllowedError(method, scope["path"])
            if not route.is_open and not self._guard.admits(headers.get(b"authorization")):
                out_headers.append((b"www-authenticate", b"Bearer"))
                raise UnauthorizedError
            body = await self._read_body(receive, headers)
            reply = await route.handler(Call(env_id, body, scope["query_string"], headers))
            if isinstance(reply, Reply):
                payload, media_type = reply.body, reply.media_type
            else:
                payload = reply
        except _ClientGoneError:
            return
        except VerlAgentEnvError as error:
            status, payload, code = error.status, orjson.dumps(error.to_problem()), error.code
        except Exception:
            logger.exception("request failed", extra={"request_id": request_id.decode("latin-1")})
            failure = InternalError()
            status, payload, code = failure.status, orjson.dumps(failure.to_problem()), failure.code
        if code:
            media_type = PROBLEM_JSON
            out_headers.extend(_error_headers(status))
        out_headers.append((b"content-type", media_type))
        out_headers.append((b"content-length", b"%d" % len(payload)))
        await send({"type": "http.response.start", "status": status, "headers": out_headers})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else payload})
        elapsed = time.perf_counter() - started
        label = route.path if route is not None else "other"
        self._metrics.observe(label, elapsed, code)
        if self._log_all or status >= 500:
            _log_request(request_id, method, scope["path"], status, code, elapsed)

    async def _read_body(self, receive: Receive, headers: Mapping[bytes, bytes]) -> bytes:
        limit = self._limits.max_body_bytes
        declared = headers.get(b"content-length")
        if declared is not None and declared.isdigit() and int(declared) > limit:
            raise BodyTooLargeError(limit)
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientGoneError
        body: bytes = message.get("body", b"")
        if message.get("more_body", False):
            return await self._read_rest(receive, body)
        if len(body) > limit:
            raise BodyTooLargeError(limit)
        return body

    async def _read_rest(self, receive: Receive, first: bytes) -> bytes:
        limits = self._limits
        parts, size = [first], len(first)
        try:
            async with asyncio.timeout(limits.body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _ClientGoneError
                    part = message.get("body", b"")
                    parts.append(part)
                    size += len(part)
                    if size > limits.max_body_bytes:
                        raise BodyTooLargeError(limits.max_body_bytes)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise BodyTimeoutError(limits.body_timeout_s) from None


class _ClientGoneError(Exception):
    """The client left before its request was whole; nobody waits for an answer."""


def _error_headers(status: int) -> list[tuple[bytes, bytes]]:
    headers = []
    if status in (429, 503):
        headers.append((b"retry-after", b"%d" % VerlAgentEnvError.retry_after_s))
    if status in (408, 413):
        # The rest of the body is not read: the connection cannot be used again.
        headers.append((b"connection", b"close"))
    return headers


def _log_request(request_id: bytes, method: str, path: str, status: int, code: str, elapsed_s: float) -> None:
    logger.log(
        logging.WARNING if status >= 500 else logging.INFO,
        "request",
        extra={
            "request_id": request_id.decode("latin-1"),
            "method": method,
            "path": path,
            "status": status,
            "code": code or None,
            "elapsed_ms": round(elapsed_s * 1000, 3),
        },
    )
