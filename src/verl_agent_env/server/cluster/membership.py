"""Membership of a worker in its cluster: by a fixed list of addresses, or through a store."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Protocol

from verl_agent_env import background
from verl_agent_env.cluster.agent import ClusterAgent
from verl_agent_env.cluster.backends import Backend
from verl_agent_env.cluster.leases import LocalLease
from verl_agent_env.cluster.ring import Ring
from verl_agent_env.cluster.shard_ownership import ShardOwnership
from verl_agent_env.cluster.slots import SlotTable
from verl_agent_env.cluster.store import ClusterMap, WorkerRecord
from verl_agent_env.cluster.timing import Timing
from verl_agent_env.config import ClusterSettings
from verl_agent_env.engine import Host
from verl_agent_env.engine.persistence import Persistence
from verl_agent_env.errors import StoreUnavailableError, VerlAgentEnvError
from verl_agent_env.server.cluster.handover import Handover
from verl_agent_env.server.cluster.identity import WorkerIdentity
from verl_agent_env.server.cluster.local_environments import LocalEnvironments
from verl_agent_env.server.cluster.peers import WORKER_PATH, Peers

logger = logging.getLogger(__name__)

_STATUS_TIMEOUT_S = 1.0


async def record_at(peers: Peers, address: str, timeout_s: float) -> WorkerRecord:
    """Ask the worker at an address what it tells of itself.

    Raises:
        VerlAgentEnvError: No worker can be reached there, or it refuses.
        ValueError, TypeError: The answer is not that of a worker.
    """
    answer = await peers.call(address, "GET", WORKER_PATH, timeout_s=timeout_s)
    return WorkerRecord.from_json(answer.body)


class Membership(Protocol):
    """Membership of a worker: by a fixed list, or through a store."""

    @property
    def unready_reason(self) -> str:
        """Reason why this worker takes no new work; empty if it does."""

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

    def known(self) -> tuple[int, Mapping[str, WorkerRecord | None]]:
        """Version of the map and all workers by address, as known here without asking anybody; None for one that has not said
        anything of itself."""


class FixedMembership:
    """Implements :class:`Membership` for workers of one machine without Redis: the ring over their addresses owns the slots."""

    def __init__(
        self, identity: WorkerIdentity, record: WorkerRecord, table: SlotTable, peers: Peers, host: Host
    ) -> None:
        self._identity = identity
        self._record = record
        self._peers = peers
        self._host = host
        owners = Ring(identity.pool, table.num_slots).assignments
        table.assign(
            owners,
            [slot for slot in range(table.num_slots) if owners[slot] == identity.address],
            for_new={
                address: [slot for slot in range(table.num_slots) if owners[slot] == address]
                for address in identity.pool
            },
            inherited=range(table.num_slots) if identity.is_restart else (),
        )

    @property
    def unready_reason(self) -> str:
        return ""

    def record(self) -> WorkerRecord:
        return dataclasses.replace(self._record, live_envs=len(self._host.env_table))

    def start(self) -> None:
        """Implement :class:`Membership`."""

    async def drain(self) -> None:
        """Do nothing: there is nobody to give environments to; implements :class:`Membership`."""

    async def undrain(self) -> None:
        """Implement :class:`Membership`."""

    async def leave(self) -> None:
        """Implement :class:`Membership`."""

    async def refresh(self) -> None:
        """Do nothing: the list never changes; implements :class:`Membership`."""

    async def describe(self) -> tuple[int, list[WorkerRecord]]:
        """Ask each worker, and leave out those that do not answer; implements :class:`Membership`."""
        others = [address for address in self._identity.pool if address != self._identity.address]
        answers = await asyncio.gather(*map(self._ask, others))
        return 1, [self.record(), *(answer for answer in answers if answer is not None)]

    def known(self) -> tuple[int, Mapping[str, WorkerRecord | None]]:
        return 1, dict.fromkeys(self._identity.pool)

    async def _ask(self, address: str) -> WorkerRecord | None:
        try:
            return await record_at(self._peers, address, _STATUS_TIMEOUT_S)
        except (VerlAgentEnvError, ValueError, TypeError):
            # Not there, or something else is.
            return None


class SharedMembership:
    """Implements :class:`Membership` for workers of any number of nodes, which meet in a store."""

    def __init__(
        self,
        settings: ClusterSettings,
        backend: Backend,
        identity: WorkerIdentity,
        record: WorkerRecord,
        table: SlotTable,
        owned_in: Sequence[ShardOwnership],
        lease: LocalLease,
        host: Host,
        persistence: Persistence,
        timing: Timing,
        clock: Callable[[], float],
    ) -> None:
        self._timing = timing
        self._store = backend.store
        self._journal = persistence.recorder.journal
        self._owned_in = owned_in
        self._handovers = [Handover(host, persistence, own) for own in owned_in or (table,)]
        self._tasks: list[asyncio.Task[None]] = []
        self._environments = LocalEnvironments(host, self._is_warm, self._unconfirmed)
        self._supervisors: dict[str, str] = {}
        self._supervisors_of: ClusterMap | None = None
        """The map in which they were found."""
        self.agent = ClusterAgent(
            record,
            self._store,
            table,
            lease,
            self._environments,
            timing=timing,
            clock=clock,
            pool=identity.pool,
            expected_nodes=settings.expected_nodes,
        )

    @property
    def unready_reason(self) -> str:
        return self.agent.unready_reason

    def record(self) -> WorkerRecord:
        return dataclasses.replace(self.agent.record, live_envs=self._environments.count())

    def start(self) -> None:
        self.agent.start()
        self._tasks = [
            background.start("journal", self._journal.run),
            *(background.start("handover", handover.run) for handover in self._handovers),
            *(background.start("event log", partial(own.run, self._evict)) for own in self._owned_in),
        ]

    def _is_warm(self, slot: int) -> bool:
        return any(handover.is_warm(slot) for handover in self._handovers)

    async def _unconfirmed(self, slots: Collection[int]) -> Collection[int]:
        """Find slots of which an event log may have lost what was written; a store that keeps the log lost their owners with it."""
        found: list[int] = []
        for own in self._owned_in:
            found += await own.unconfirmed([slot for slot in slots if own.has(slot)])
        return found

    def _evict(self, slots: Collection[int]) -> None:
        """Remove what is in memory of slots that another worker owned meanwhile, but for what is nowhere else."""
        self._environments.evict(slots, keep_not_durable=True)

    async def drain(self) -> None:
        await self.agent.drain()

    async def undrain(self) -> None:
        await self.agent.undrain()

    async def leave(self) -> None:
        for last in (self._journal.flush, self.agent.leave):
            try:
                with contextlib.suppress(TimeoutError, StoreUnavailableError):
                    async with asyncio.timeout(self._timing.leave_s):
                        await last()
            except Exception:
                # The lease runs out anyway; nothing of this worker may go on after it.
                logger.exception("leaving the cluster failed")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def refresh(self) -> None:
        await self.agent.refresh()

    async def describe(self) -> tuple[int, list[WorkerRecord]]:
        """Implement :class:`Membership`; numbers of live environments are those of the last heartbeats."""
        cluster = self.agent.cluster
        if cluster is None:
            return 0, [self.record()]
        # A member reads the map only when it has changed, which these numbers do not do.
        with contextlib.suppress(StoreUnavailableError):
            cluster = await self._store.read_map()
        me = self.record()
        others = (worker for worker in cluster.workers.values() if worker.incarnation != me.incarnation)
        return cluster.version, [me, *others]

    def known(self) -> tuple[int, Mapping[str, WorkerRecord | None]]:
        cluster = self.agent.cluster
        if cluster is None:
            return 0, {}
        return cluster.version, {worker.address: worker for worker in cluster.workers.values()}

    def supervisor_at(self, address: str) -> str:
        """Return the id of the supervisor of the worker at an address; empty if nobody is known there."""
        cluster = self.agent.cluster
        if cluster is not self._supervisors_of:
            workers = () if cluster is None else cluster.workers.values()
            self._supervisors = {worker.address: worker.supervisor for worker in workers}
            self._supervisors_of = cluster
        return self._supervisors.get(address, "")
