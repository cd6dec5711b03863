"""One worker as a part of many: what it shares with the others, and how calls reach the one that they are meant for."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import ssl
import time
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol, cast

import orjson

from verl_agent_env import background
from verl_agent_env.cluster.agent import ClusterAgent
from verl_agent_env.cluster.backends import Backend, BackendOptions, open_backend
from verl_agent_env.cluster.idempotency import KNOWN_S
from verl_agent_env.cluster.leases import LocalLease
from verl_agent_env.cluster.ring import Ring
from verl_agent_env.cluster.slots import SlotTable
from verl_agent_env.cluster.store import ClusterMap, WorkerRecord
from verl_agent_env.cluster.timing import Timing
from verl_agent_env.config import ClusterSettings, HttpLimits
from verl_agent_env.engine import Host
from verl_agent_env.engine.batches import Batches
from verl_agent_env.engine.persistence import Persistence, PersistenceOptions
from verl_agent_env.envs.base import Durability
from verl_agent_env.errors import (
    EnvironmentLostError,
    EnvironmentNotFoundError,
    InvalidRequestError,
    NodeNotFoundError,
    StoreUnavailableError,
    VerlAgentEnvError,
)
from verl_agent_env.server.cluster.forwarding import Forwarder
from verl_agent_env.server.cluster.handover import Handover
from verl_agent_env.server.cluster.internal import DRAIN_PATH, InternalHandlers
from verl_agent_env.server.cluster.local_environments import LocalEnvironments
from verl_agent_env.server.cluster.peers import WORKER_PATH, Peers
from verl_agent_env.server.cluster.router import Router
from verl_agent_env.server.cluster.sharded_batches import ShardedBatches
from verl_agent_env.server.http.auth import peer_secret_of
from verl_agent_env.server.http.types import Route
from verl_agent_env.server.verbs.create_requests import Create
from verl_agent_env.server.verbs.verb import BatchRunner
from verl_agent_env.types import NUM_SLOTS, slot_of
from verl_agent_env.wire.suspicions import Suspicion

_STATUS_TIMEOUT_S = 1.0


@dataclass(frozen=True)
class Place:
    """Identity of a worker process within its pool."""

    address: str
    """``host:port`` of its own."""
    pool: tuple[str, ...]
    """Addresses of all workers of the pool, its own included."""
    supervisor: str
    """Random id of the life of the pool's supervisor."""
    is_successor: bool = False
    """Whether another process was here before."""
    record: memoryview | None = None
    """Where it writes for the supervisor what is under way."""
    suspicions: tuple[Suspicion, ...] = ()
    """What the supervisor holds against calls."""


class Cluster(Protocol):
    """Membership of a worker: by a fixed list, or through a store."""

    @property
    def is_ready(self) -> bool:
        """True if this worker takes work."""

    def record(self) -> WorkerRecord:
        """This worker."""

    def start(self) -> None:
        """Become part of it."""

    async def drain(self) -> None:
        """Take no new environments, and give those that there are to others."""

    async def undrain(self) -> None:
        """Take environments again."""

    async def leave(self) -> None:
        """Be no part of it any more."""

    async def refresh(self) -> None:
        """Bring the slot table up to date."""

    async def describe(self) -> tuple[int, list[WorkerRecord]]:
        """Version of the map, and all live workers."""

    def supervisor_at(self, address: str) -> str:
        """Id of the supervisor of the worker at an address; empty if nobody is known there."""


class FixedCluster:
    """The workers of one machine without Redis: the ring over their addresses owns the slots, once and for all."""

    def __init__(
        self, place: Place, record: WorkerRecord, table: SlotTable, peers: Peers, host: Host
    ) -> None:
        self._place = place
        self._record = record
        self._peers = peers
        self._host = host
        owners = Ring(place.pool).assignments
        table.assign(
            owners,
            [slot for slot in range(NUM_SLOTS) if owners[slot] == place.address],
            for_new={
                address: [slot for slot in range(NUM_SLOTS) if owners[slot] == address]
                for address in place.pool
            },
            inherited=range(NUM_SLOTS) if place.is_successor else (),
        )

    @property
    def is_ready(self) -> bool:
        """Implement :class:`Cluster`."""
        return True

    def record(self) -> WorkerRecord:
        """Implement :class:`Cluster`."""
        return dataclasses.replace(self._record, live_envs=len(self._host.env_table))

    def start(self) -> None:
        """Implement :class:`Cluster`."""

    async def drain(self) -> None:
        """Do nothing: there is nobody to give environments to; implements :class:`Cluster`."""

    async def undrain(self) -> None:
        """Implement :class:`Cluster`."""

    async def leave(self) -> None:
        """Implement :class:`Cluster`."""

    async def refresh(self) -> None:
        """Do nothing: the list never changes; implements :class:`Cluster`."""

    async def describe(self) -> tuple[int, list[WorkerRecord]]:
        """Ask each worker, and leave out those that do not answer; implements :class:`Cluster`."""
        others = [address for address in self._place.pool if address != self._place.address]
        answers = await asyncio.gather(*map(self._ask, others))
        return 1, [self.record(), *(answer for answer in answers if answer is not None)]

    def supervisor_at(self, address: str) -> str:
        """Return the supervisor, which all workers share; implements :class:`Cluster`."""
        return self._place.supervisor

    async def _ask(self, address: str) -> WorkerRecord | None:
        try:
            answer = await self._peers.call(address, "GET", WORKER_PATH, timeout_s=_STATUS_TIMEOUT_S)
            return WorkerRecord.from_json(answer.body)
        except (VerlAgentEnvError, ValueError, TypeError):
            # Not there, or something else is.
            return None


class SharedCluster:
    """Workers of any number of nodes, which meet in a store."""

    def __init__(
        self,
        settings: ClusterSettings,
        backend: Backend,
        place: Place,
        record: WorkerRecord,
        table: SlotTable,
        lease: LocalLease,
        host: Host,
        persistence: Persistence,
    ) -> None:
        self._timing = Timing(settings.lease_s)
        self._store = backend.store
        self._journal = persistence.recorder.journal
        self._handover = Handover(host, persistence, table)
        self._tasks: list[asyncio.Task[None]] = []
        self._residents = LocalEnvironments(host, self._handover.is_warm)
        self._table = table
        self._supervisors: dict[str, str] = {}
        self._supervisors_of: ClusterMap | None = None
        """The map in which they were found."""
        self._member = ClusterAgent(
            record,
            self._store,
            table,
            lease,
            self._residents,
            timing=self._timing,
            pool=place.pool,
            expected_nodes=settings.expected_nodes,
        )

    @property
    def is_ready(self) -> bool:
        """Implement :class:`Cluster`."""
        return self._member.has_settled and self._member.record.state == "ready"

    def record(self) -> WorkerRecord:
        """Implement :class:`Cluster`."""
        return dataclasses.replace(self._member.record, live_envs=self._residents.count())

    def start(self) -> None:
        """Implement :class:`Cluster`."""
        self._member.start()
        self._tasks = [
            background.start("journal", self._journal.run),
            background.start("handover", self._handover.run),
        ]

    async def drain(self) -> None:
        """Implement :class:`Cluster`."""
        await self._member.drain()

    async def undrain(self) -> None:
        """Implement :class:`Cluster`."""
        await self._member.undrain()

    async def leave(self) -> None:
        """Implement :class:`Cluster`."""
        for last in (self._journal.flush, self._member.leave):
            with contextlib.suppress(TimeoutError, StoreUnavailableError):
                async with asyncio.timeout(self._timing.leave_s):
                    await last()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def refresh(self) -> None:
        """Implement :class:`Cluster`."""
        await self._member.refresh()

    async def describe(self) -> tuple[int, list[WorkerRecord]]:
        """Implement :class:`Cluster`; numbers of live environments are those of the last heartbeats."""
        cluster = self._member.cluster
        if cluster is None:
            return 0, [self.record()]
        # A member reads the map only when it has changed, which these numbers do not do.
        with contextlib.suppress(StoreUnavailableError):
            cluster = await self._store.read_map()
        me = self.record()
        others = (worker for worker in cluster.workers.values() if worker.incarnation != me.incarnation)
        return cluster.version, [me, *others]

    def supervisor_at(self, address: str) -> str:
        """Implement :class:`Cluster`."""
        cluster = self._member.cluster
        if cluster is not self._supervisors_of:
            workers = () if cluster is None else cluster.workers.values()
            self._supervisors = {worker.address: worker.supervisor for worker in workers}
            self._supervisors_of = cluster
        return self._supervisors.get(address, "")


class SharedState:
    """State that a worker shares with others of its cluster: slots, their lease, and the store."""

    def __init__(self, settings: ClusterSettings, place: Place, limits: HttpLimits) -> None:
        """Share nothing yet.

        Args:
            settings: Of the node.
            place: Of the process.
            limits: How much is known of idempotency keys.
        """
        self.settings = settings
        self.place = place
        self.lease = LocalLease(Timing(settings.lease_s)) if settings.is_shared else None
        self.table = SlotTable(place.address, self.lease)
        options = BackendOptions(
            settings.namespace,
            keys_known_s=max(KNOWN_S, limits.idempotency_memory_s),
            keys_max_bytes=limits.idempotency_memory_bytes // 4,
        )
        self.backend = open_backend(settings.redis, options)
        self.kept: PersistenceOptions | None = None
        """Where and how the worker's environments are kept, if that is outside its process."""
        if settings.is_shared:
            self.kept = PersistenceOptions(self.backend.log, self.table, durabilities_of(settings))

    def unknown_env_error(self, env_id: str) -> VerlAgentEnvError:
        """Make the error of an id that nothing is known of."""
        # What is kept was looked for before: if the log does not know the id, nobody does.
        if not self.settings.is_shared and env_id[3:4] == "-" and self.table.is_inherited(slot_of(env_id)):
            return EnvironmentLostError(env_id, "the worker that held it has ended, or it never was")
        return EnvironmentNotFoundError(env_id)


class ClusterWorker:
    """A worker as one of many."""

    def __init__(
        self, shared: SharedState, host: Host, token: str = "", tls: ssl.SSLContext | None = None
    ) -> None:
        """Make a worker that is not part of the cluster yet.

        Args:
            shared: What it shares with the others.
            host: Its environments.
            token: What workers of an earlier version are shown, if they ask for a bearer token.
            tls: How to call other workers over TLS; None for plain HTTP.
        """
        place, settings = shared.place, shared.settings
        self._settings = settings
        self._is_alone = len(place.pool) == 1 and not settings.is_shared
        self._backend = shared.backend
        self.idempotency_records = shared.backend.idempotency
        self.table = shared.table
        self.peers = Peers(settings.peer_timeout_s, token, self._secret_of, tls)
        record = WorkerRecord(
            incarnation=uuid.uuid4().hex,
            name=f"{settings.node or 'local'}:{place.address.rpartition(':')[2]}",
            node=settings.node or "local",
            supervisor=place.supervisor,
            address=place.address,
            pid=os.getpid(),
            state="ready",
            started_at=time.time(),
        )
        self.name = record.name
        """Name of the worker, ``node:port``."""
        self._cluster: Cluster
        if shared.lease is not None and host.persistence is not None:
            self._cluster = SharedCluster(
                settings, shared.backend, place, record, self.table, shared.lease, host, host.persistence
            )
        else:
            self._cluster = FixedCluster(place, record, self.table, self.peers, host)
        router = Router(self.table, self.peers, self._cluster.refresh)
        self.forwarder = Forwarder(router, self.peers)
        local = Batches(host)
        self.batches: BatchRunner = local
        """Carries out batches."""
        self.create: Create = host.create
        """Makes single environments."""
        self.internal_routes: list[Route] = []
        """The calls for the other workers."""
        if not self._is_alone:
            sharded = ShardedBatches(local, router, self.peers)
            self.batches, self.create = sharded, sharded.create_one
            self.internal_routes = InternalHandlers(local, self.table, self._cluster).routes()

    def workers_for_new(self) -> Collection[str]:
        """Addresses of the workers that new environments are for."""
        return self.table.for_new.keys()

    def route_to_owner(self, route: Route) -> Route:
        """Return the route, its requests handled by the worker that owns them."""
        return route if self._is_alone else self.forwarder.route_to_owner(route)

    @property
    def is_ready(self) -> bool:
        """True if this worker takes work."""
        return self._cluster.is_ready

    async def start(self) -> None:
        """Become part of the cluster."""
        await self.peers.open()
        self._cluster.start()

    async def stop(self) -> None:
        """Be no part of it any more."""
        await self._cluster.leave()
        await self._backend.aclose()
        await self.peers.close()

    async def drain(self) -> None:
        """Take no new environments, and give those that there are to others."""
        await self._cluster.drain()

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
        _, records = await self._cluster.describe()
        addresses = [record.address for record in records if record.node == node]
        if not addresses:
            raise NodeNotFoundError(node, sorted({record.node for record in records}))
        body = orjson.dumps({"undo": undo})
        await asyncio.gather(*(self.peers.call(address, "POST", DRAIN_PATH, body) for address in addresses))
        return len(addresses)

    async def describe(self) -> bytes:
        """Nodes, workers and slots, as ``GET /api/cluster`` answers."""
        version, records = await self._cluster.describe()
        return describe_cluster(version, records, self.table.slots_by_address())

    def _secret_of(self, address: str) -> str:
        supervisor = self._cluster.supervisor_at(address)
        return peer_secret_of(supervisor) if supervisor else ""


def durabilities_of(settings: ClusterSettings) -> dict[str, Durability]:
    """Return the durabilities that the settings give, by env name."""
    found: dict[str, Durability] = {}
    for item in settings.durability:
        name, _, durability = item.partition("=")
        found[name] = cast("Durability", durability)
    return found


def describe_cluster(version: int, records: list[WorkerRecord], slots: dict[str, int]) -> bytes:
    """``{map_version, num_slots, nodes: [{name, workers: […]}]}``, in order of names."""
    nodes: dict[str, list[dict[str, Any]]] = {}
    for record in sorted(records, key=lambda record: record.name):
        nodes.setdefault(record.node, []).append(
            {
                "name": record.name,
                "address": record.address,
                "pid": record.pid,
                "state": record.state,
                "slots": slots.get(record.address, 0),
                "live_envs": record.live_envs,
                "incarnation": record.incarnation,
                "started_at": record.started_at,
            }
        )
    described = [{"name": name, "workers": workers} for name, workers in sorted(nodes.items())]
    return orjson.dumps({"map_version": version, "num_slots": NUM_SLOTS, "nodes": described})
