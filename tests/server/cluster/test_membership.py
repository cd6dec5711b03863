"""A worker's part in its cluster: how it ends."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from tests.server.cluster.test_wiring import HERE, Nobody
from tests.waiting import HANG_S
from verl_agent_env.cluster.backends import open_backend
from verl_agent_env.cluster.memory.store import MemoryStore
from verl_agent_env.cluster.store import Heartbeat, WorkerRecord
from verl_agent_env.config import ClusterSettings, HostLimits
from verl_agent_env.envs.registry import default_registry
from verl_agent_env.server.cluster.identity import WorkerIdentity
from verl_agent_env.server.cluster.membership import SharedMembership
from verl_agent_env.server.cluster.wiring import wire_worker


class UnreadableStore(MemoryStore):
    """A store whose answer to the last call of a member nobody can read."""

    def __init__(self) -> None:
        super().__init__(num_slots=8)
        self.joined = asyncio.Event()

    async def heartbeat(self, record: WorkerRecord, ttl_s: float) -> Heartbeat:
        beat = await super().heartbeat(record, ttl_s)
        self.joined.set()
        return beat

    async def leave(self, incarnation: str) -> None:
        await super().leave(incarnation)
        raise ValueError("not the answer of a store")


async def test_leaving_ends_all_of_it_whatever_a_store_answers(caplog: pytest.LogCaptureFixture) -> None:
    store = UnreadableStore()
    worker = wire_worker(
        default_registry(),
        HostLimits(),
        ClusterSettings(node="node", redis="handed-in:"),
        WorkerIdentity(HERE, (HERE,), "supervisor"),
        dataclasses.replace(open_backend(""), store=store),
        lambda _: Nobody(),
        num_slots=8,
    )
    membership = worker.membership
    assert isinstance(membership, SharedMembership)
    before = asyncio.all_tasks()
    membership.start()
    async with asyncio.timeout(HANG_S):
        await store.joined.wait()
    await membership.leave()
    assert asyncio.all_tasks() == before
    assert (await store.read_map()).workers == {}
    assert [record.message for record in caplog.records if record.exc_info] == ["leaving the cluster failed"]
