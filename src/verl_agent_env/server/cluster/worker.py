"""A worker as one of many: how calls reach the worker that they are meant for, and how others see it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from functools import partial
from typing import Any

import orjson

from verl_agent_env.cluster.backends import Backend
from verl_agent_env.cluster.slots import SlotTable
from verl_agent_env.cluster.store import WorkerRecord
from verl_agent_env.config import ClusterSettings
from verl_agent_env.engine import Host
from verl_agent_env.engine.host.batches import Batches
from verl_agent_env.errors import InvalidRequestError, NodeNotFoundError
from verl_agent_env.server.cluster.figures import WorkerFigures, shown_worker
from verl_agent_env.server.cluster.forwarding import Forwarder
from verl_agent_env.server.cluster.internal import DRAIN_PATH, InternalHandlers
from verl_agent_env.server.cluster.kept_episodes import KeptEpisodes
from verl_agent_env.server.cluster.membership import Membership
from verl_agent_env.server.cluster.peers import Peers
from verl_agent_env.server.cluster.router import Router
from verl_agent_env.server.cluster.sharded_batches import ShardedBatches
from verl_agent_env.server.cluster.watch import ClusterWatch
from verl_agent_env.server.http.metrics import Metrics
from verl_agent_env.server.http.types import Route
from verl_agent_env.server.verbs.create_requests import Create
from verl_agent_env.server.verbs.verb import BatchRunner
from verl_agent_env.wire.episode_store import EpisodeStore, Scope


class ClusterWorker:
    """A worker as one of many."""

    def __init__(
        self,
        settings: ClusterSettings,
        host: Host,
        table: SlotTable,
        peers: Peers,
        membership: Membership,
        backend: Backend,
        *,
        is_alone: bool,
    ) -> None:
        """Make a worker that is not part of the cluster yet; see :func:`~verl_agent_env.server.cluster.wiring.wire_worker`.

        Args:
            settings: Of the node.
            host: Its environments.
            table: Which slots are its own.
            peers: The other workers.
            membership: Its part in the cluster.
            backend: The store that they share.
            is_alone: Whether there are no others.
        """
        self.host = host
        self.table = table
        self.peers = peers
        self.membership = membership
        self.name = membership.record().name
        """Name of the worker, ``node:port``."""
        self.idempotency_records = backend.idempotency
        self._settings = settings
        self._backend = backend
        self._is_alone = is_alone
        router = Router(table, peers, membership.refresh)
        self.forwarder = Forwarder(router, peers)
        local = Batches(host)
        self.batches: BatchRunner = local
        """Carries out batches."""
        self.create: Create = host.create
        """Makes single environments."""
        self.internal_routes: list[Route] = []
        """The calls for the other workers."""
        if not self._is_alone:
            sharded = ShardedBatches(local, router, peers)
            self.batches, self.create = sharded, sharded.create_one
            self.internal_routes = InternalHandlers(local, table, membership).routes()

    def kept_episodes(self, store: EpisodeStore) -> KeptEpisodes:
        """Return the kept episodes of all workers, of which this one's are in ``store``."""
        kept = KeptEpisodes(store, self.peers, self._other_stores)
        if not self._is_alone:
            self.internal_routes += kept.routes()
        return kept

    def watch(self, metrics: Metrics) -> ClusterWatch:
        """Return the watch of the cluster, to which ``metrics`` are this worker's part."""
        own = partial(self._figures, metrics)
        watch = ClusterWatch(own, self.membership, self.table, self.peers)
        if not self._is_alone:
            self.internal_routes += watch.routes()
        return watch

    def _figures(self, metrics: Metrics) -> WorkerFigures:
        return WorkerFigures.of(self.membership.record(), self.host, metrics)

    async def _other_stores(self, scope: Scope) -> list[str]:
        """Find a worker for each store of this scope that is not this worker's own."""
        if self._is_alone or scope == "cluster":
            return []
        me = self.membership.record()
        _, records = await self.membership.describe()
        others = [record for record in records if record.address != me.address]
        if scope == "worker":
            return [record.address for record in others]
        by_node = {record.node: record.address for record in others if record.node != me.node}
        return list(by_node.values())

    def workers_for_new(self) -> Collection[str]:
        """Addresses of the workers that new environments are for."""
        return self.table.for_new.keys()

    def route_to_owner(self, route: Route) -> Route:
        """Return the route, its requests handled by the worker that owns them."""
        return route if self._is_alone else self.forwarder.route_to_owner(route)

    @property
    def unready_reason(self) -> str:
        """Reason why this worker takes no new work; empty if it does."""
        return self.membership.unready_reason

    async def start(self) -> None:
        """Become part of the cluster."""
        await self.peers.open()
        self.membership.start()

    async def stop(self) -> None:
        """Be no part of it any more."""
        await self.membership.leave()
        await self._backend.aclose()
        await self.peers.close()

    async def drain(self) -> None:
        """Take no new environments, and give those that there are to others."""
        await self.membership.drain()

    async def drain_node(self, node: str, *, undo: bool) -> int:
        """Drain all workers of a node, or have them take environments again.

        Returns:
            How many workers it has.

        Raises:
            InvalidRequestError: There is no Redis, and so no other node.
            NodeNotFoundError: There is no such node.
            WorkerUnreachableError: One of its workers does not answer.
        """
        if not self._settings.is_shared:
            raise InvalidRequestError(
                [{"loc": ["node"], "msg": "without Redis no other node could take its environments"}]
            )
        _, records = await self.membership.describe()
        addresses = [record.address for record in records if record.node == node]
        if not addresses:
            raise NodeNotFoundError(node, sorted({record.node for record in records}))
        body = orjson.dumps({"undo": undo})
        await asyncio.gather(*(self.peers.call(address, "POST", DRAIN_PATH, body) for address in addresses))
        return len(addresses)

    async def describe(self) -> bytes:
        """Nodes, workers and slots, as ``GET /api/cluster`` answers."""
        version, records = await self.membership.describe()
        return describe_cluster(version, records, self.table)


def describe_cluster(version: int, records: list[WorkerRecord], table: SlotTable) -> bytes:
    """``{map_version, num_slots, nodes: [{name, workers: […]}]}``, in order of names."""
    slots = table.slots_by_address()
    nodes: dict[str, list[dict[str, Any]]] = {}
    for record in sorted(records, key=lambda record: record.name):
        shown = {**shown_worker(record), "slots": slots.get(record.address, 0)}
        nodes.setdefault(record.node, []).append(shown)
    described = [{"name": name, "workers": workers} for name, workers in sorted(nodes.items())]
    return orjson.dumps({"map_version": version, "num_slots": table.num_slots, "nodes": described})
