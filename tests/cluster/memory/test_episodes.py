"""Episodes in memory are within their bound whether somebody has read them or not."""

from __future__ import annotations

import asyncio

import orjson

from tests.contract.test_episodes import kept_episode
from tests.waiting import HANG_S
from verl_agent_env.cluster.memory import episodes
from verl_agent_env.cluster.memory.episodes import MemoryEpisodes

SIZE = kept_episode(0).size


async def test_the_oldest_are_deleted_unread_or_read() -> None:
    store = MemoryEpisodes(4 * SIZE)
    for number in range(6):
        store.add(kept_episode(number))
    assert [row.seed for row in await store.rows()] == [2, 3, 4, 5]
    for number in range(6, 8):
        store.add(kept_episode(number))
    assert [row.seed for row in await store.rows()] == [4, 5, 6, 7]
    for number in range(8, 13):
        store.add(kept_episode(number))
    assert [row.seed for row in await store.rows()] == [9, 10, 11, 12]
    assert sum(run.episodes for run in await store.runs(None)) == 4


async def test_two_who_read_at_once_see_all_episodes_and_those_added_meanwhile_do_no_harm() -> None:
    store = MemoryEpisodes(1 << 26)
    number = 3 * episodes._AT_ONCE
    for seed in range(number):
        store.add(kept_episode(seed))

    async def add_more() -> None:
        for seed in range(number, number + 10):
            store.add(kept_episode(seed))
            await asyncio.sleep(0)

    first, second, _ = await asyncio.gather(store.rows(), store.rows(), add_more())
    for rows in (first, second):
        assert [row.seed for row in rows][:number] == list(range(number))
    assert len(await store.rows()) == number + 10
    (document,) = await store.documents(["e7.0"])
    assert orjson.loads(document or b"")["seed"] == 7


async def test_rows_are_made_when_no_more_episodes_come() -> None:
    store = MemoryEpisodes(1 << 26, quiet_s=0.0)
    running = asyncio.create_task(store.run())
    made: list[int] = []
    for seed in range(100):
        store.add(kept_episode(seed))
        made.append(store.num_rows)
        await asyncio.sleep(0)
    assert set(made) == {0}
    async with asyncio.timeout(HANG_S):
        while store.num_rows < 100:  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0)
    running.cancel()
