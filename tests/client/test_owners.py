"""Calls that go straight to the worker that owns the environment."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.client.conftest import LAKE, MakeClient
from tests.pool_process import Pool
from tests.sim.virtual_loop import VirtualLoop
from verl_agent_env.client.errors import ServerUnreachableError
from verl_agent_env.client.owners import Owners
from verl_agent_env.cluster.ring import Ring
from verl_agent_env.types import new_env_id

TWO = ["10.0.0.1:8001", "10.0.0.2:8001"]


class Cluster:
    """What ``/api/cluster`` answers, at the server and at the workers."""

    def __init__(self, addresses: list[str]) -> None:
        self.addresses = addresses
        self.unreachable: set[str] = set()
        self.strangers: set[str] = set()
        self.asked: list[str | None] = []

    async def fetch(self, url: str | None) -> dict[str, Any]:
        self.asked.append(url)
        address = (url or "").removeprefix("http://")
        if address in self.unreachable:
            raise ServerUnreachableError(address)
        mark = "other" if address in self.strangers else "first"
        return {
            "nodes": [
                {
                    "workers": [
                        {"address": one, "incarnation": f"{mark}-{one}", "state": "ready"}
                        for one in self.addresses
                    ]
                }
            ]
        }


async def urls_by(owners: Owners) -> list[str | None]:
    """Where each slot goes, once the map is there."""
    owners.url_for(new_env_id(0))
    await owners.settle()
    return [owners.url_for(new_env_id(slot)) for slot in range(4096)]


async def test_nothing_is_known_before_the_map_came_and_all_after() -> None:
    cluster = Cluster(TWO)
    owners = Owners(cluster.fetch)
    assert owners.url_for(new_env_id(1)) is None
    expected = [f"http://{address}" for address in Ring(TWO).assignments]
    assert await urls_by(owners) == expected
    assert cluster.asked == [None, *(f"http://{address}" for address in TWO)]
    await owners.close()


async def test_workers_that_cannot_be_reached_or_are_others_are_left_alone() -> None:
    cluster = Cluster([*TWO, "10.0.0.3:8001"])
    cluster.unreachable.add(TWO[0])
    cluster.strangers.add(TWO[1])
    owners = Owners(cluster.fetch)
    ring = Ring(cluster.addresses).assignments
    expected = [f"http://{address}" if address == "10.0.0.3:8001" else None for address in ring]
    assert await urls_by(owners) == expected
    await owners.close()


async def test_worker_that_failed_is_avoided_and_the_map_fetched_anew() -> None:
    cluster = Cluster(TWO)
    owners = Owners(cluster.fetch)
    await urls_by(owners)
    cluster.addresses = [*TWO, "10.0.0.3:8001"]
    owners.avoid(f"http://{TWO[0]}")
    urls = await urls_by(owners)
    assert f"http://{TWO[0]}" not in urls
    assert "http://10.0.0.3:8001" in urls
    await owners.close()


def test_worker_that_could_not_be_reached_is_probed_again_later() -> None:
    clock = VirtualLoop()
    cluster = Cluster(TWO)
    cluster.unreachable.add(TWO[0])

    async def play() -> None:
        owners = Owners(cluster.fetch, clock=clock.time)
        assert f"http://{TWO[0]}" not in await urls_by(owners)
        cluster.unreachable.clear()
        await asyncio.sleep(20.0)
        cluster.asked.clear()
        await urls_by(owners)
        assert cluster.asked == [None]
        await asyncio.sleep(60.0)
        assert f"http://{TWO[0]}" in await urls_by(owners)
        # One that answered is not asked again.
        assert cluster.asked == [None, None, f"http://{TWO[0]}"]
        await owners.close()

    clock.run_until_complete(play())
    clock.end()


async def test_map_that_cannot_be_read_changes_nothing() -> None:
    async def fetch(url: str | None) -> dict[str, Any]:
        return {"nodes": None}

    owners = Owners(fetch)
    assert set(await urls_by(owners)) == {None}
    await owners.close()


def forwarded(pool: Pool) -> float:
    """Calls and parts of batches that workers sent to each other."""
    total = 0.0
    for client in pool.at:
        text = client.get("/metrics").text
        total += sum(float(n) for n in re.findall(r"^\w*forwarded\w*{.*} (\S+)$", text, re.MULTILINE))
    return total


@pytest.mark.parametrize("micro_batching", [True, False], ids=["shared", "plain"])
async def test_direct_calls_meet_the_owner_and_survive_its_restart(
    start_pool: Callable[..., Pool], make_client: MakeClient, micro_batching: bool
) -> None:
    pool = start_pool()
    client = make_client(
        pool.server.url, direct="auto", micro_batching=micro_batching, deadline_s=30, close_deadline_s=30
    )
    envs = await asyncio.gather(*(client.make(**LAKE, seed=seed) for seed in range(20)))
    owners = client._dispatch._owners
    assert owners is not None
    await envs[0].state()
    await owners.settle()
    for env in envs:
        assert owners.url_for(env.env_id) == f"http://{pool.addresses[pool.owner_of(env.env_id)]}"
    before = forwarded(pool)
    for _ in range(3):
        await asyncio.gather(*(env.step("right") for env in envs))
    assert forwarded(pool) == before
    # Its environments are gone with it, but new ones are made and stepped.
    pool.kill(1)
    more = await asyncio.gather(*(client.make(**LAKE, seed=seed) for seed in range(20)))
    assert len(await asyncio.gather(*(env.step("right") for env in more))) == 20


async def test_without_direct_the_map_is_never_asked_for(
    start_pool: Callable[..., Pool], make_client: MakeClient
) -> None:
    pool = start_pool()
    client = make_client(pool.server.url, direct="never")
    async with client.make(**LAKE) as env:
        await env.step("right")
    assert client._dispatch._owners is None
