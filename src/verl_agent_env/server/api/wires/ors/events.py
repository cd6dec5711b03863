"""Server-sent events, as ORS' clients read them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

from verl_agent_env.server.http.events import HEADERS, MEDIA_TYPE
from verl_agent_env.server.http.types import Response

_SIGN_OF_LIFE = b": at work\n\n"
_SIGN_OF_LIFE_S = 10.0
"""Clients give up a call that sends nothing for 30 seconds."""

_at_work: set[asyncio.Future[bytes]] = set()
"""Work under way: the event loop alone would not keep what nobody waits for any more."""


def events(*pieces: bytes) -> Response:
    """Answer with events that are known already."""
    return Response(b"".join(pieces), MEDIA_TYPE, headers=HEADERS)


def events_of_work(first: bytes, work: Coroutine[Any, Any, bytes]) -> Response:
    """Answer with one event at once, and with what ``work`` gives when it is done.

    The work is done to its end also when nobody listens any more.
    """

    task = asyncio.ensure_future(work)
    _at_work.add(task)
    task.add_done_callback(_at_work.discard)

    async def stream() -> AsyncGenerator[bytes, None]:
        yield first
        while True:
            done, _ = await asyncio.wait({task}, timeout=_SIGN_OF_LIFE_S)
            if done:
                break
            yield _SIGN_OF_LIFE
        yield task.result()

    return Response(b"", MEDIA_TYPE, headers=HEADERS, stream=stream())
