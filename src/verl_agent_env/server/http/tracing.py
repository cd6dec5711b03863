"""One span for each call, by OpenTelemetry's API.

Imported only where the program has set a tracer provider: everywhere else routes keep their handlers as they are.
"""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from verl_agent_env import __version__
from verl_agent_env.engine import AwaitableOrValue, PendingAnswer
from verl_agent_env.engine.environments.live_env import LiveEnv
from verl_agent_env.errors import InternalError, MovedError, VerlAgentEnvError
from verl_agent_env.server.http.logs import current_request_id
from verl_agent_env.server.http.request_memory import UNCOUNTED_BYTES
from verl_agent_env.server.http.types import Request, Response, Route
from verl_agent_env.spans import PREFIX, current_span

_HEADERS = ("traceparent", "tracestate")
_PROPAGATOR = TraceContextTextMapPropagator()
_FLUSH_S = 2.0
"""Seconds that the end of a worker waits for a collector."""


Find = Callable[[str], LiveEnv | None]
"""Gives the live environment of an id, if it is here."""


class Tracing:
    """Gives each call a span: of the trace that its request names, or of one of its own."""

    def __init__(self, provider: trace.TracerProvider, worker: str, find: Find) -> None:
        """Trace the calls of one worker.

        Args:
            provider: Gives the tracer.
            worker: The worker's name.
            find: Gives the live environment of an id, if it is here.
        """
        self._provider = provider
        self._tracer = provider.get_tracer("verl_agent_env", __version__)
        self._worker = worker
        self._find = find

    def traced(self, route: Route) -> Route:
        """Return the route with a handler that has a span for each request, until the response is there."""

        def handle(request: Request) -> AwaitableOrValue[Response]:
            call = _TracedCall(self._begin(route, request), route, request, self._find)
            with call.at_work():
                try:
                    answer = route.handler(request)
                except MovedError as moved:
                    if route.at_owner is None:
                        call.end(moved)
                        raise
                    answer = route.at_owner(request)
                except BaseException as error:
                    call.end(error)
                    raise
            return call.finish(answer) if isinstance(answer, Response) else call.follow(answer)

        return dataclasses.replace(route, handler=handle, at_owner=None)

    async def flush(self) -> None:
        """Send the spans that the provider still holds, before the process ends."""
        flush = getattr(self._provider, "force_flush", None)
        if flush is not None:
            # One that outlives the wait holds up no end of the process.
            sending = threading.Thread(target=flush, name="flush-spans", daemon=True)
            sending.start()
            await asyncio.to_thread(sending.join, _FLUSH_S)

    @contextmanager
    def within(self, headers: Iterable[tuple[bytes, bytes]]) -> Iterator[None]:
        """Have the calls of a connection be of the trace that its first request names."""
        token = contexts.attach(_context_of(dict(headers)))
        try:
            yield
        finally:
            contexts.detach(token)

    def _begin(self, route: Route, request: Request) -> Span:
        outer = trace.get_current_span().get_span_context()
        is_inner = outer.is_valid and not outer.is_remote
        span = self._tracer.start_span(
            f"{route.method} {route.path}",
            None if is_inner else _context_of(request.headers),
            SpanKind.INTERNAL if is_inner else SpanKind.SERVER,
        )
        if span.is_recording():
            span.set_attribute("http.request.method", route.method)
            span.set_attribute("http.route", route.path)
            span.set_attribute(PREFIX + "worker", self._worker)
            request_id = current_request_id.get()
            if request_id:
                span.set_attribute(PREFIX + "request_id", request_id.decode("latin-1"))
        return span


class _Asked(msgspec.Struct):
    """Fields of a request's body that a span tells of."""

    env_name: str | None = None
    run_id: str | None = None
    seq: int | None = None


class _Made(msgspec.Struct):
    """Field of the response to ``initialize`` that a span tells of."""

    env_id: str | None = None


class _TracedCall:
    """One call, from its handler to its response."""

    def __init__(self, span: Span, route: Route, request: Request, find: Find) -> None:
        self._span = span
        self._route = route
        self._request = request
        self._find = find
        # A call may end it.
        self._env = find(request.env_id) if span.is_recording() and request.env_id else None

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Have the span be the one that is at work."""
        token = contexts.attach(trace.set_span_in_context(self._span))
        noted = current_span.set(self._span if self._span.is_recording() else None)
        try:
            yield
        finally:
            current_span.reset(noted)
            contexts.detach(token)

    async def follow(self, answer: PendingAnswer[Response] | Coroutine[Any, Any, Response]) -> Response:
        """Wait for the response, wherever it comes from."""
        with self.at_work():
            try:
                try:
                    response = await answer
                except MovedError:
                    if self._route.at_owner is None:
                        raise
                    response = await self._route.at_owner(self._request)
            except BaseException as error:
                self.end(error)
                raise
        return self.finish(response)

    def finish(self, response: Response) -> Response:
        """End the span, now or as soon as all parts of the response are there."""
        if response.stream is None:
            self.end(None, response)
        else:
            response.stream = self._streamed(response, response.stream)
        return response

    async def _streamed(
        self, response: Response, stream: AsyncGenerator[bytes, None]
    ) -> AsyncGenerator[bytes, None]:
        error: BaseException | None = None
        try:
            while True:
                # Not while whoever takes the parts is at work.
                with self.at_work():
                    try:
                        part = await anext(stream)
                    except StopAsyncIteration:
                        return
                yield part
        except BaseException as raised:
            error = raised
            raise
        finally:
            await stream.aclose()
            self.end(error, response)

    def end(self, error: BaseException | None, response: Response | None = None) -> None:
        """End the span with what came of the call."""
        if self._span.is_recording():
            for name, value in self._attributes(error, response).items():
                if value is not None and value != "":
                    self._span.set_attribute(PREFIX + name, value)
            status, outcome = _outcome_of(error)
            self._span.set_attribute("http.response.status_code", status)
            if status >= 500:
                self._span.set_status(Status(StatusCode.ERROR, outcome))
        self._span.end()

    def _attributes(
        self, error: BaseException | None, response: Response | None
    ) -> dict[str, str | int | None]:
        asked = _read(self._request.body, _Asked)
        env_id, seq = self._request.env_id, asked.seq
        if not env_id and response is not None and self._route.path.endswith("environment/initialize"):
            env_id = _read(response.body, _Made).env_id or ""
        env = self._find(env_id) or self._env
        if env is not None and seq is None and error is None and self._route.path.endswith("/step"):
            seq = env.seq - 1
        return {
            "env_name": asked.env_name if env is None else env.kind.name,
            "env_id": env_id,
            "run_id": asked.run_id if env is None else env.run_id,
            "seq": seq,
            "outcome": _outcome_of(error)[1],
        }


def _outcome_of(error: BaseException | None) -> tuple[int, str]:
    """Give the status of a call's response, and ``ok`` or the error's code."""
    if error is None:
        return 200, "ok"
    if isinstance(error, VerlAgentEnvError):
        return error.status, error.code
    if isinstance(error, Exception):
        return InternalError.status, InternalError.code
    return 499, "cancelled"


def _context_of(headers: Mapping[bytes, bytes]) -> Context:
    """Read the trace that a request names; the one at work if it names none that can be read."""
    carrier = {
        name: headers[name.encode()].decode("latin-1") for name in _HEADERS if name.encode() in headers
    }
    return _PROPAGATOR.extract(carrier) if carrier else contexts.get_current()


def _read(body: object, form: type[Any]) -> Any:
    """Read of a JSON object what a span tells of; nothing of one that is long or has another form."""
    if isinstance(body, bytes) and 0 < len(body) <= UNCOUNTED_BYTES:
        try:
            return msgspec.json.decode(body, type=form)
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
    return form()
