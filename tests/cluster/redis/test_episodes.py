"""Kept episodes in Redis: who reads seldom sees what there is, and nothing is counted twice."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from tests.cluster.redis_process import RedisProcess
from tests.contract.conftest import PATIENT
from tests.contract.test_episodes import kept_episode
from tests.ports import free_port
from verl_agent_env.cluster.redis import episodes
from verl_agent_env.cluster.redis.client import RedisClient
from verl_agent_env.cluster.redis.episodes import RedisEpisodes
from verl_agent_env.cluster.redis.keys import Keys
from verl_agent_env.cluster.redis.limits import RedisLimits

SIZE = len(kept_episode(10).to_json())

Connect = Callable[[int], RedisEpisodes]


@pytest.fixture
async def connect(redis_server: RedisProcess) -> AsyncIterator[Connect]:
    """A function that connects to the same episodes once more, with a bound of so many bytes."""
    keys = Keys(uuid.uuid4().hex)
    async with AsyncExitStack() as stack:

        def connected(max_bytes: int) -> RedisEpisodes:
            store = RedisEpisodes(RedisClient(redis_server.url, PATIENT, keys), keys, max_bytes)
            stack.push_async_callback(store.aclose)
            return store

        yield connected


async def ids(store: RedisEpisodes) -> list[str]:
    return [row.id for row in await store.rows()]


async def test_who_reads_seldom_sees_what_is_there_however_much_was_deleted(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(episodes, "_ROWS_AT_ONCE", 2)
    room = 4 * SIZE + 100
    writer, reader = connect(room), connect(room)
    added = 10
    for number in (3, 1, 9, 0, 2, 5, 1):
        for seed in range(added, added + number):
            writer.add(kept_episode(seed))
            await writer.flush()
        added += number
        seen = await ids(reader)
        assert reader._read_to == added - 10
        assert seen == await ids(connect(room))
        assert seen == [f"e{seed}.0" for seed in range(max(10, added - 4), added)]


async def test_two_who_read_at_once_read_each_row_once(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(episodes, "_ROWS_AT_ONCE", 2)
    writer, reader = connect(1 << 20), connect(1 << 20)
    for first in (10, 20):
        for seed in range(first, first + 9):
            writer.add(kept_episode(seed))
        await writer.flush()
        one, other = await asyncio.gather(ids(reader), ids(reader))
        assert one == other == await ids(writer)
        assert (reader._read_from, reader._read_to) == (0, len(one))


async def test_an_episode_that_is_written_twice_is_counted_once(connect: Connect) -> None:
    episode = kept_episode(10, 5_000)
    store = connect(3 * len(episode.to_json()) // 2)
    for _ in range(3):
        store.add(episode)
        await store.flush()
    assert await ids(store) == ["e10.0"]
    assert await store.documents(["e10.0"]) == [episode.to_json()]


async def test_what_waits_is_written_at_the_end(connect: Connect) -> None:
    store = connect(1 << 20)
    store.add(kept_episode(10))
    await store.aclose()
    assert await ids(connect(1 << 20)) == ["e10.0"]


async def test_the_end_does_not_fail_where_nothing_can_be_written() -> None:
    keys, quick = Keys("none"), RedisLimits(connect_s=0.1, call_s=0.1)
    store = RedisEpisodes(RedisClient(f"redis://127.0.0.1:{free_port()}", quick, keys), keys, 1 << 20)
    store.add(kept_episode(10))
    await store.aclose()
    assert len(store._waiting) == 1
