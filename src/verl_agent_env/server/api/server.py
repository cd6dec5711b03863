"""Handlers of the calls on the server itself."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from verl_agent_env.engine import Host, inspection
from verl_agent_env.envs.kind import EnvKind
from verl_agent_env.envs.registry import Registry
from verl_agent_env.errors import ShuttingDownError
from verl_agent_env.server.cluster.worker import ClusterWorker
from verl_agent_env.server.http.metrics import Metrics
from verl_agent_env.server.http.types import Request, Response
from verl_agent_env.wire.codec import decode, encode
from verl_agent_env.wire.schemas import DrainRequest

logger = logging.getLogger(__name__)


class ServerHandlers:
    """Calls about the server itself: catalogue, health, cluster, drain, metrics."""

    def __init__(self, host: Host, metrics: Metrics, worker: ClusterWorker) -> None:
        self._host = host
        self._worker = worker
        self._metrics = metrics
        self._catalogue: tuple[list[str], bytes] | None = None
        self.ready = False
        """Whether the server has started and is not about to stop."""

    async def catalogue(self, request: Request) -> bytes:
        """All registered environments."""
        names = self._host.registry.names()
        if self._catalogue is None or self._catalogue[0] != names:
            # In a thread: it imports them all.
            described = await asyncio.to_thread(_describe_all, self._host.registry)
            self._catalogue = names, encode({"environments": described})
        return self._catalogue[1]

    async def alive(self, request: Request) -> bytes:
        """Answer that the process is alive."""
        return b'{"status":"ok"}'

    async def is_ready(self, request: Request) -> bytes:
        """Answer whether the server takes work."""
        if not (self.ready and self._worker.is_ready):
            raise ShuttingDownError
        return b'{"status":"ready"}'

    async def cluster(self, request: Request) -> bytes:
        """Nodes, workers and who owns how many slots."""
        return await self._worker.describe()

    async def drain(self, request: Request) -> bytes:
        """Empty a node."""
        wanted = decode(request.body, DrainRequest)
        workers = await self._worker.drain_node(wanted.node, undo=wanted.undo)
        return encode(
            {
                "message": "Node is taking environments." if wanted.undo else "Node drained.",
                "workers": workers,
            }
        )

    async def metrics(self, request: Request) -> Response:
        """All metrics, for Prometheus."""
        return Response(self._metrics.text(), b"text/plain; version=0.0.4; charset=utf-8")


def _describe_all(registry: Registry) -> list[dict[str, Any]]:
    described = []
    families: dict[type, str] = {}
    for spec in registry.specs():
        if spec.family is not None:
            # Its package would be imported; the catalogue tells of it.
            continue
        name = spec.name
        try:
            kind = registry.kind(name)
            if not kind.presets:
                families.setdefault(kind.env_class, name)
            described.append((kind.env_class, _describe(kind)))
        except Exception:
            # Another package's environment is broken, in whatever way: the others are still there.
            logger.warning("an environment cannot be described", exc_info=True, extra={"env_name": name})
    return [{**shown, "family": families.get(env_class, shown["name"])} for env_class, shown in described]


def _describe(kind: EnvKind) -> dict[str, Any]:
    return {
        "name": kind.name,
        "description": kind.description,
        "execution": kind.execution,
        "deterministic": kind.deterministic,
        "kwargs_schema": kind.arguments_schema(),
        "tools": [tool.openai() for tool in getattr(kind.env_class, "tools", ())],
        "render_modes": inspection.render_modes(kind.env_class),
    }
