"""The wiring of a worker: alone, in a pool, and over a store, with what is handed in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from verl_agent_env.cluster.backends import open_backend
from verl_agent_env.config import ClusterSettings, HostLimits
from verl_agent_env.engine import CreateRequest, await_maybe
from verl_agent_env.envs.registry import default_registry
from verl_agent_env.errors import WorkerUnreachableError
from verl_agent_env.server.cluster.identity import WorkerIdentity
from verl_agent_env.server.cluster.membership import FixedMembership, SharedMembership
from verl_agent_env.server.cluster.peers import PeerAnswer, Peers
from verl_agent_env.server.cluster.wiring import wire_worker
from verl_agent_env.server.cluster.worker import ClusterWorker

HERE, THERE = "here:1", "there:2"


class Nobody:
    """Other workers, none of whom answers."""

    async def open(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""

    def heard_at(self, address: str) -> float | None:
        return None

    async def call(self, address: str, method: str, path: str, *_: Any, **__: Any) -> PeerAnswer:
        raise WorkerUnreachableError(address, "nobody is there")


class Wired:
    """A worker, and what its peers were given."""

    def __init__(self, pool: tuple[str, ...], settings: ClusterSettings, num_slots: int = 8) -> None:
        self.now = 100.0
        self.worker: ClusterWorker = wire_worker(
            default_registry(),
            HostLimits(),
            settings,
            WorkerIdentity(HERE, pool, "supervisor"),
            open_backend(""),
            self._connect,
            clock=lambda: self.now,
            lease_clock=lambda: self.now,
            num_slots=num_slots,
        )

    def _connect(self, supervisor_at: Callable[[str], str]) -> Peers:
        self.supervisor_at = supervisor_at
        return Nobody()


async def test_a_pool_shares_as_many_slots_as_it_is_given() -> None:
    wired = Wired((HERE, THERE), ClusterSettings())
    assert isinstance(wired.worker.membership, FixedMembership)
    owners = [wired.worker.table.owner_of(slot) for slot in range(8)]
    assert set(owners) == {HERE, THERE}
    assert wired.worker.table.slots_by_address() == {
        address: owners.count(address) for address in (HERE, THERE)
    }
    assert wired.supervisor_at(THERE) == "supervisor"
    assert {route.path for route in wired.worker.internal_routes} >= {"/internal/batch/step"}
    assert orjson.loads(await wired.worker.describe())["num_slots"] == 8


def test_a_worker_alone_takes_no_parts_of_batches() -> None:
    assert Wired((HERE,), ClusterSettings()).worker.internal_routes == []


async def test_a_worker_over_a_store_acts_for_nothing_before_its_lease() -> None:
    wired = Wired((), ClusterSettings(node="node", redis="handed-in:"))
    membership = wired.worker.membership
    assert isinstance(membership, SharedMembership)
    assert wired.worker.host.persistence is not None
    assert membership.unready_reason == "it waits for its place in the map"
    assert not any(map(wired.worker.table.owns, range(8)))
    assert wired.supervisor_at(THERE) == ""
    await membership.leave()


async def test_environments_live_by_the_clock_that_is_handed_in() -> None:
    wired = Wired((HERE,), ClusterSettings())
    host = wired.worker.host
    await await_maybe(host.create(CreateRequest("frozen_lake", 1, ttl_s=5.0)))
    assert await host.reap() == 0
    wired.now += 6.0
    assert await host.reap() == 1
    await host.stop()
