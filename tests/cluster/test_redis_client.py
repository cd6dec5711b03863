"""Calls to Redis end when they are told to, whatever the client library is at."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from tests.cluster.redis_process import RedisProcess
from verl_agent_env.cluster.keys import Keys
from verl_agent_env.cluster.redis_store import RedisStore

Ask = Callable[[RedisStore], Awaitable[object]]


@pytest.mark.parametrize(
    "ask",
    [
        lambda store: store.map_version(),
        lambda store: store.read_map(),
        lambda store: store.wait_for_change(0, 0.002),
        lambda store: store.claim("nobody", []),
    ],
    ids=["map_version", "read_map", "wait_for_change", "claim"],
)
async def test_a_task_that_asks_redis_all_the_time_ends_at_its_first_cancellation(
    redis_server: RedisProcess, keys: Keys, ask: Ask
) -> None:
    store = await RedisStore.open(redis_server.url, keys)

    async def ask_forever() -> None:
        while True:
            try:
                await ask(store)
            except Exception:  # noqa: BLE001 - nobody of that name is alive
                await asyncio.sleep(0)

    try:
        # At many moments: it is a matter of one turn of the event loop.
        for _ in range(50):
            task = asyncio.create_task(ask_forever())
            await asyncio.sleep(random.uniform(0, 0.003))
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=2)
            assert done, "the cancellation got lost"
            assert task.cancelled()
    finally:
        await store.aclose()
