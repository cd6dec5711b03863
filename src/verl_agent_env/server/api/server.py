"""Handlers of the calls on the server itself."""

from __future__ import annotations

from typing import Protocol

from verl_agent_env.errors import NotReadyError, ShuttingDownError
from verl_agent_env.server.http.metrics import Metrics
from verl_agent_env.server.http.types import Request, Response
from verl_agent_env.wire.codec import decode, encode
from verl_agent_env.wire.schemas import DrainRequest


class ClusterView(Protocol):
    """The cluster, as one of its workers sees it."""

    @property
    def unready_reason(self) -> str:
        """Reason why this worker takes no new work; empty if it does."""

    async def describe(self) -> bytes:
        """Nodes, workers and slots, as JSON."""

    async def drain_node(self, node: str, *, undo: bool) -> int:
        """Drain all workers of a node, or have them take environments again; returns how many they are.

        Raises:
            InvalidRequestError, NodeNotFoundError, WorkerUnreachableError: It cannot be done.
        """


class ServerHandlers:
    """Calls about the server itself: catalogue, health, cluster, drain, metrics."""

    def __init__(self, metrics: Metrics, cluster: ClusterView) -> None:
        self._cluster = cluster
        self._metrics = metrics
        self.ready = False
        """Whether the server is not about to stop; nobody can ask it before it has started."""

    async def alive(self, request: Request) -> Response:
        """Answer that the process is alive."""
        return Response(b'{"status":"ok"}')

    async def is_ready(self, request: Request) -> Response:
        """Answer whether the server takes new work."""
        if not self.ready:
            raise ShuttingDownError
        if reason := self._cluster.unready_reason:
            raise NotReadyError(reason)
        return Response(b'{"status":"ready"}')

    async def cluster(self, request: Request) -> Response:
        """Nodes, workers and who owns how many slots."""
        return Response(await self._cluster.describe())

    async def drain(self, request: Request) -> Response:
        """Empty a node."""
        wanted = decode(request.body, DrainRequest)
        workers = await self._cluster.drain_node(wanted.node, undo=wanted.undo)
        message = "Node is taking environments." if wanted.undo else "Node drained."
        return Response(encode({"message": message, "workers": workers}))

    async def metrics(self, request: Request) -> Response:
        """All metrics, for Prometheus."""
        return Response(self._metrics.text(), b"text/plain; version=0.0.4; charset=utf-8")
