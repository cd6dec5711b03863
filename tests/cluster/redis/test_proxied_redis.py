"""Redis behind a network that delays, breaks and swallows: no step is lost, and none is taken twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from tests.cluster.conftest import LEASE_S, StartNode
from tests.cluster.redis_process import RedisProcess
from tests.cluster.test_nodes import settle
from tests.lossy_proxy import LossyProxy
from tests.pool_process import Pool, initialize_many
from tests.waiting import no_hang, until

ENVS = 24
TTL_S = 6.0


@asynccontextmanager
async def two_nodes(
    start_node: StartNode, redis: RedisProcess, lease_s: float = LEASE_S
) -> AsyncIterator[tuple[Pool, Pool, LossyProxy]]:
    """A node that reaches Redis directly, one that does so through the proxy, and the proxy."""
    async with LossyProxy(redis.port) as proxy:
        far_url = f"redis://127.0.0.1:{proxy.port}/0"
        near = await asyncio.to_thread(start_node, "near", redis=redis.url, lease_s=lease_s)
        far = await asyncio.to_thread(start_node, "far", redis=far_url, lease_s=lease_s)
        await asyncio.to_thread(settle, near, far)
        yield near, far, proxy
        proxy.thaw()
        proxy.delay_s = 0.0


class Players:
    """Clients that step environments and send again what failed, at any node; each step has its number."""

    def __init__(self, urls: list[str], env_ids: list[str]) -> None:
        self.codes: Counter[str] = Counter()
        """Of answers that were not the step's."""
        self.seqs = dict.fromkeys(env_ids, 0)
        self._urls = urls
        self._is_over = False

    async def play_during(self, strike: Callable[[], Any]) -> None:
        """Step all of them until ``strike`` is over, then once more."""
        async with aiohttp.ClientSession() as session:
            playing = asyncio.gather(*(self._play(session, env_id) for env_id in self.seqs))
            await self.progress()
            await strike()
            self._is_over = True
            async with no_hang():
                await playing

    async def progress(self, steps: int = 1) -> None:
        """Return when every environment has taken so many steps more."""
        goals = {env_id: seq + steps for env_id, seq in self.seqs.items()}
        await until(lambda: all(self.seqs[env_id] >= goal for env_id, goal in goals.items()), what="progress")

    async def _play(self, session: aiohttp.ClientSession, env_id: str) -> None:
        goes_on = True
        while goes_on:
            goes_on = not self._is_over
            await self._step(session, env_id)
            await asyncio.sleep(0.02)

    async def _step(self, session: aiohttp.ClientSession, env_id: str) -> None:
        body = {"action": ("right", "left")[self.seqs[env_id] % 2], "seq": self.seqs[env_id]}
        for turn in range(10_000):
            url = self._urls[turn % len(self._urls)]
            async with session.post(f"{url}/api/environment/{env_id}/step", json=body) as answer:
                document = await answer.json(content_type=None)
            if answer.status == 200:
                self.seqs[env_id] += 1
                assert document["info"]["num_steps"] == self.seqs[env_id]
                return
            assert document["retryable"], document
            self.codes[document["code"]] += 1
            await asyncio.sleep(0.05)


async def cut_again_and_again(proxy: LossyProxy) -> None:
    """Break all connections ten times a second."""
    while True:
        proxy.cut()
        await asyncio.sleep(0.1)


def players_at(near: Pool, far: Pool) -> Players:
    """Clients of environments on both nodes."""
    return Players([near.server.url, far.server.url], initialize_many(near.any, ENVS))


async def test_slow_way_to_redis_costs_time_only(start_node: StartNode, own_redis: RedisProcess) -> None:
    async with two_nodes(start_node, own_redis) as (near, far, proxy):
        players = await asyncio.to_thread(players_at, near, far)

        async def strike() -> None:
            proxy.delay_s = 0.15
            await players.progress(2)

        await players.play_during(strike)
        assert players.codes == {}


async def test_broken_connections_to_redis_lose_nothing(
    start_node: StartNode, own_redis: RedisProcess
) -> None:
    async with two_nodes(start_node, own_redis) as (near, far, proxy):
        players = await asyncio.to_thread(players_at, near, far)

        async def strike() -> None:
            cutting = asyncio.create_task(cut_again_and_again(proxy))
            try:
                await players.progress(5)
            finally:
                cutting.cancel()

        await players.play_during(strike)
        assert players.codes == {}


async def test_node_whose_redis_says_nothing_gives_way_and_comes_back(
    start_node: StartNode, own_redis: RedisProcess
) -> None:
    async with two_nodes(start_node, own_redis) as (near, far, proxy):
        players = await asyncio.to_thread(players_at, near, far)

        async def strike() -> None:
            proxy.freeze()
            await asyncio.sleep(3 * LEASE_S)
            # By then the other node has all of them.
            await players.progress(3)
            proxy.thaw()

        await players.play_during(strike)
        assert set(players.codes) <= {"store_unavailable", "worker_unreachable", "moved"}
        await asyncio.to_thread(settle, near, far)


async def test_node_cut_from_redis_alone_closes_nothing_that_lives_elsewhere(
    start_node: StartNode, own_redis: RedisProcess
) -> None:
    async with two_nodes(start_node, own_redis, lease_s=1.5) as (near, far, proxy):
        env_ids = await asyncio.to_thread(initialize_many, near.any, ENVS, ttl_s=TTL_S)
        players = Players([near.server.url], env_ids)

        async def strike() -> None:
            proxy.freeze()
            # Longer than the lease and the ttl: the cut node has looked for idle environments meanwhile.
            await asyncio.sleep(1.5 + 1.25 * TTL_S + 1)
            proxy.thaw()
            # Its slots come home to it.
            await asyncio.to_thread(settle, near, far)

        await players.play_during(strike)
        assert min(players.seqs.values()) > 10
        assert set(players.codes) <= {"store_unavailable", "worker_unreachable", "moved"}
        at_home = Players([far.server.url], [])
        at_home.seqs = players.seqs
        await at_home.play_during(lambda: asyncio.sleep(0))
        closed = [
            line
            for client in far.at
            for line in client.get("/metrics").text.splitlines()
            if 'reason="idle"' in line
        ]
        assert closed == []
