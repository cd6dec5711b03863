"""Handler of the call that tells what the cluster is doing, as it happens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Protocol

from verl_agent_env.server.api.queries import query_of, whole_number
from verl_agent_env.server.http import events
from verl_agent_env.server.http.tokens import Principal
from verl_agent_env.server.http.types import Request, Response
from verl_agent_env.wire.codec import encode

MAX_SECONDS = 300
"""Duration of one response: whoever goes on listening shows a token again, which may have been withdrawn meanwhile."""


class ClusterSnapshot(Protocol):
    """The cluster as of one moment."""

    cluster: bytes
    """Nodes, workers and rates, as JSON."""
    slots: bytes
    """Owner of each slot, as JSON."""
    slots_version: int
    """Another one as soon as a slot has another owner."""

    def live_of_run(self, run_id: str, tag: str | None) -> int:
        """Return the number of live environments of a run; with a ``tag``, of those of its holder."""


class SnapshotSource(Protocol):
    """The watch of the cluster."""

    def snapshots(self) -> AsyncGenerator[ClusterSnapshot, None]:
        """Yield a snapshot at once, and each that follows, until the server stops."""


class ClusterEventHandlers:
    """Tells what the cluster is doing."""

    def __init__(self, source: SnapshotSource) -> None:
        self._source = source

    async def events(self, request: Request) -> Response:
        """Send the state of the cluster every two seconds, as server-sent events.

        The first event, ``you``, says what the token allows; ``slots`` comes whenever a slot has another owner, ``cluster``
        each time, and ``run`` with it where a run was asked for.
        """
        query = query_of(request)
        run = query.get("run", [""])[-1]
        seconds = whole_number(query, "seconds", MAX_SECONDS, 1, MAX_SECONDS)
        stream = self._events(request.principal, run, seconds)
        return Response(b"", events.MEDIA_TYPE, headers=events.HEADERS, stream=stream)

    async def _events(self, principal: Principal, run: str, seconds: int) -> AsyncGenerator[bytes, None]:
        end = asyncio.get_running_loop().time() + seconds
        yield events.json_event(b"you", encode({"admin": principal.is_admin}))
        slots_version = -1
        async with contextlib.aclosing(self._source.snapshots()) as snapshots:
            async for snapshot in snapshots:
                written = []
                if snapshot.slots_version != slots_version:
                    slots_version = snapshot.slots_version
                    written.append(events.json_event(b"slots", snapshot.slots))
                if run:
                    live = snapshot.live_of_run(run, principal.run_tag)
                    written.append(events.json_event(b"run", encode({"run_id": run, "live_envs": live})))
                written.append(events.json_event(b"cluster", snapshot.cluster))
                yield b"".join(written)
                if asyncio.get_running_loop().time() >= end:
                    return
