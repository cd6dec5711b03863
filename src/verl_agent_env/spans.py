"""Spans of calls, where calls are traced: notes on the one at work, and the headers that pass its trace on.

OpenTelemetry is not imported here: a program that traces its calls has done so, and where it has not, nothing is done.
"""

from __future__ import annotations

import sys
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

PREFIX = "verl_agent_env."
"""Of the names of all attributes and events."""

_API = "opentelemetry.trace"


class CallSpan(Protocol):
    """Span of a call, as OpenTelemetry has it."""

    def set_attribute(self, key: str, value: str | int | float) -> None:
        """Set an attribute."""

    def add_event(self, name: str, attributes: dict[str, str | int | float]) -> None:
        """Add something that happened at this moment."""


current_span: ContextVar[CallSpan | None] = ContextVar("span", default=None)
"""Span of the call at work; None if it is not recorded."""


def note(name: str, value: str | int | float) -> None:
    """Set an attribute of the call's span, if it has one."""
    span = current_span.get()
    if span is not None:
        span.set_attribute(PREFIX + name, value)


def note_wait(name: str, began: float, waited_for: str) -> None:
    """Add the end of a wait to the call's span, if it has one.

    Args:
        name: Of the event.
        began: When the wait began, on the clock of :func:`time.perf_counter`.
        waited_for: What for.
    """
    span = current_span.get()
    if span is not None:
        waited_ms = round((time.perf_counter() - began) * 1000, 3)
        span.add_event(PREFIX + name, {PREFIX + "waited_ms": waited_ms, PREFIX + "waited_for": waited_for})


def tracer_provider() -> TracerProvider | None:
    """Return the tracer provider that the program has set; None if it has set none."""
    if _API not in sys.modules:
        return None
    from opentelemetry import trace

    provider = trace.get_tracer_provider()
    return None if isinstance(provider, trace.ProxyTracerProvider) else provider


def trace_headers() -> dict[str, str]:
    """Return ``traceparent`` and ``tracestate`` of the span at work; nothing where there is none."""
    if _API not in sys.modules:
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers)
    return headers
