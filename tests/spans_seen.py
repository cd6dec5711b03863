"""Spans, kept in memory by OpenTelemetry's SDK, and what a test asks of them."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import format_span_id, format_trace_id

OURS = "verl_agent_env."


class SpansSeen:
    """All spans of one provider that have ended."""

    def __init__(self) -> None:
        self.provider = TracerProvider(shutdown_on_exit=False)
        self._exporter = InMemorySpanExporter()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def named(self, name: str) -> list[ReadableSpan]:
        """Those of a name, in the order in which they ended."""
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        """The only one of a name."""
        (span,) = self.named(name)
        return span

    def clear(self) -> None:
        """Forget all of them."""
        self._exporter.clear()


def traceparent(trace_id: str, *, sampled: bool = True) -> str:
    """A header for a trace, of a span that nobody has seen."""
    return f"00-{trace_id}-{'5' * 16}-0{int(sampled)}"


def trace_of(span: ReadableSpan) -> str:
    """Id of the span's trace, in hexadecimal digits."""
    assert span.context is not None
    return format_trace_id(span.context.trace_id)


def is_child_of(span: ReadableSpan, parent: ReadableSpan) -> bool:
    """Whether one span is the parent of another."""
    return span.parent is not None and span.parent.span_id == (parent.context and parent.context.span_id)


def parent_of(span: ReadableSpan) -> str:
    """Id of the span's parent, in hexadecimal digits; empty if it has none."""
    return "" if span.parent is None else format_span_id(span.parent.span_id)


def ours(span: ReadableSpan) -> dict[str, Any]:
    """Attributes of the project's own, without their prefix."""
    found = span.attributes or {}
    return {name.removeprefix(OURS): value for name, value in found.items() if name.startswith(OURS)}


def waits(span: ReadableSpan) -> dict[str, Any]:
    """What the span waited for, by event."""
    return {
        event.name.removeprefix(OURS): (event.attributes or {})[f"{OURS}waited_for"] for event in span.events
    }
