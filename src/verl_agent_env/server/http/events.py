"""Server-sent events (HTML, section 9.2)."""

from __future__ import annotations

MEDIA_TYPE = b"text/event-stream; charset=utf-8"
# A proxy would wait for more than one event before it passes any on.
HEADERS = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))


def event(name: str, data: str = "") -> bytes:
    """Write one event; each line of its data is a line of its own."""
    lines = "".join(f"data: {line}\n" for line in data.split("\n"))
    return f"event: {name}\n{lines}\n".encode()


def json_event(name: bytes, data: bytes) -> bytes:
    """Write one event whose data are JSON, which has no line breaks."""
    return b"event: %b\ndata: %b\n\n" % (name, data)
