"""Server-sent events, as ORS' clients read them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from verl_agent_env.server.http.types import Response

_MEDIA_TYPE = b"text/event-stream; charset=utf-8"
# A proxy would wait for more, and the first event is what makes a call safe to send again.
_HEADERS = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))
_SIGN_OF_LIFE = b": at work\n\n"
_SIGN_OF_LIFE_S = 10.0
"""Clients give a call up that says nothing for 30 seconds."""


def event(name: str, data: str = "") -> bytes:
    """Write one event; each line of its data is a line of its own."""
    lines = "".join(f"data: {line}\n" for line in data.split("\n"))
    return f"event: {name}\n{lines}\n".encode()


def events(*pieces: bytes) -> Response:
    """Answer with events that are known already."""
    return Response(b"".join(pieces), _MEDIA_TYPE, headers=_HEADERS)


def events_of_work(first: bytes, work: Callable[[], Awaitable[bytes]]) -> Response:
    """Answer with one event at once, and with what ``work`` gives when it is done.

    The work is done to its end also when nobody listens any more.
    """

    async def stream() -> AsyncIterator[bytes]:
        yield first
        task = asyncio.ensure_future(work())
        while True:
            done, _ = await asyncio.wait({task}, timeout=_SIGN_OF_LIFE_S)
            if done:
                break
            yield _SIGN_OF_LIFE
        yield task.result()

    return Response(b"", _MEDIA_TYPE, headers=_HEADERS, stream=stream())
