"""Wiring of a worker: the one place where host, slots, peers and store are put together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import cast

from verl_agent_env.cluster.backends import Backend, BackendOptions, open_backend
from verl_agent_env.cluster.idempotency import KNOWN_S
from verl_agent_env.cluster.leases import LocalLease, boot_time
from verl_agent_env.cluster.shard_ownership import ShardOwnership
from verl_agent_env.cluster.slots import SlotTable
from verl_agent_env.cluster.store import WorkerRecord
from verl_agent_env.cluster.timing import Timing
from verl_agent_env.config import ClusterSettings, HostLimits, HttpLimits
from verl_agent_env.engine import Host
from verl_agent_env.engine.episodes.collector import EpisodeOptions
from verl_agent_env.engine.execution.kinds import KindLoader
from verl_agent_env.engine.execution.under_way import CallRecord
from verl_agent_env.engine.persistence import PersistenceOptions
from verl_agent_env.engine.persistence.recorder import LogShard
from verl_agent_env.engine.persistence.slot_ownership import SlotOwnership
from verl_agent_env.envs.base import Durability
from verl_agent_env.envs.registry import Registry
from verl_agent_env.errors import EnvironmentLostError, EnvironmentNotFoundError, VerlAgentEnvError
from verl_agent_env.server.cluster.identity import WorkerIdentity
from verl_agent_env.server.cluster.membership import FixedMembership, Membership, SharedMembership
from verl_agent_env.server.cluster.peers import NoPeers, Peers
from verl_agent_env.server.cluster.worker import ClusterWorker
from verl_agent_env.types import slot_of
from verl_agent_env.wire.suspicions import Suspicions

Connect = Callable[[Callable[[str], str]], Peers]
"""Makes the way to the other workers, given what tells the id of the supervisor of the worker at an address."""


def wire_worker(
    registry: Registry,
    limits: HostLimits,
    settings: ClusterSettings,
    identity: WorkerIdentity,
    backend: Backend,
    connect: Connect,
    *,
    clock: Callable[[], float] = time.monotonic,
    lease_clock: Callable[[], float] = boot_time,
    timing: Timing | None = None,
    num_slots: int | None = None,
    kinds: KindLoader | None = None,
    record: WorkerRecord | None = None,
    episodes: EpisodeOptions | None = None,
) -> ClusterWorker:
    """Make a worker that is not part of its cluster yet; each part is complete before another one gets it.

    Args:
        registry: The kinds of environments.
        limits: How many environments there may be, and how much they may take.
        settings: Of the node.
        identity: Of the process.
        backend: The store.
        connect: Makes the way to the other workers; not called for a process on its own.
        clock: Seconds, by which environments are used and closed.
        lease_clock: Seconds, by which leases end and slots move.
        timing: Durations of the cluster; by the lease of the settings if not given.
        num_slots: Number of slots; that of the settings if not given.
        kinds: Loads kinds.
        record: The worker's description of itself; made of its identity if not given.
        episodes: Where and how episodes are kept that are over, if they are.
    """
    num_slots = num_slots or settings.slots
    timing = timing or Timing(settings.lease_s)
    lease = LocalLease(timing, lease_clock) if settings.is_shared else None
    table = SlotTable(identity.address, lease, num_slots)

    owned_in = shard_ownerships(table, backend)
    if owned_in:
        table.require_proofs(owned_in)
    host = Host(
        registry,
        limits,
        name=identity.address,
        clock=clock,
        num_slots=num_slots,
        unknown=lambda env_id: _unknown_env_error(env_id, table, settings),
        kinds=kinds,
        record=CallRecord(identity.record_memory),
        suspicions=Suspicions(identity.suspicions),
        kept=_persistence_of(settings, backend, table, owned_in) if settings.is_shared else None,
        episodes=episodes,
    )
    record = record or identity.record(settings.node)
    is_alone = len(identity.pool) == 1 and not settings.is_shared
    membership: Membership
    if lease is not None and host.persistence is not None:
        shared = membership = SharedMembership(
            settings,
            backend,
            identity,
            record,
            table,
            owned_in,
            lease,
            host,
            host.persistence,
            timing,
            lease_clock,
        )
        peers = connect(shared.supervisor_at)
    else:
        peers = NoPeers() if is_alone else connect(lambda _: identity.supervisor)
        membership = FixedMembership(identity, record, table, peers, host)
    return ClusterWorker(settings, host, table, peers, membership, backend, is_alone=is_alone)


def _unknown_env_error(env_id: str, table: SlotTable, settings: ClusterSettings) -> VerlAgentEnvError:
    # What is kept was looked for before: if the log does not know the id, nobody does.
    if not settings.is_shared and env_id[-33:-32] == "-" and table.is_inherited(slot_of(env_id)):
        return EnvironmentLostError(env_id, "the worker that held it has ended, or it never was")
    return EnvironmentNotFoundError(env_id)


def _persistence_of(
    settings: ClusterSettings, backend: Backend, table: SlotTable, owned_in: Sequence[ShardOwnership]
) -> PersistenceOptions:
    ownerships: Sequence[SlotOwnership] = owned_in or [table]
    shards = [LogShard(part.log, own) for part, own in zip(backend.logs, ownerships, strict=True)]
    return PersistenceOptions(backend.log, table, shards, durabilities_of(settings))


def shard_ownerships(table: SlotTable, backend: Backend) -> list[ShardOwnership]:
    """Return the ownership of the slots of each log, where logs say it themselves; none where the store does."""
    fences = [part.fence for part in backend.logs if part.fence is not None]
    advance = backend.store.advance
    return [ShardOwnership(table, number, len(fences), fence, advance) for number, fence in enumerate(fences)]


def open_backend_of(settings: ClusterSettings, limits: HttpLimits) -> Backend:
    """Return the store that the settings name; the memory of this process if they name none."""
    options = BackendOptions(
        settings.namespace,
        num_slots=settings.slots,
        keys_known_s=max(KNOWN_S, limits.idempotency_memory_s),
        keys_max_bytes=limits.idempotency_memory_bytes // 4,
        logs=settings.redis_logs,
    )
    return open_backend(settings.redis, options)


def durabilities_of(settings: ClusterSettings) -> dict[str, Durability]:
    """Return the durabilities that the settings give, by env name."""
    found: dict[str, Durability] = {}
    for item in settings.durability:
        name, _, durability = item.partition("=")
        found[name] = cast("Durability", durability)
    return found
