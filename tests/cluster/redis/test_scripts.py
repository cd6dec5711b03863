"""A script that runs a second time, because the answer to the first got lost, gives the same and changes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.cluster.redis_process import RedisProcess
from tests.cluster.workers import worker
from verl_agent_env.cluster.redis.client import RedisClient
from verl_agent_env.cluster.redis.keys import Keys
from verl_agent_env.cluster.redis.limits import RedisLimits
from verl_agent_env.cluster.redis.scripts import Script
from verl_agent_env.cluster.redis.store import RedisStore


class Repeating(RedisClient):
    """Loses the first answer of every script, and keeps both."""

    def __init__(self, url: str) -> None:
        super().__init__(url, RedisLimits())
        self.answers: list[list[Any]] = []

    async def run(self, script: Script, keys: list[str], arguments: list[Any]) -> Any:
        lost = await super().run(script, keys, arguments)
        heard = await super().run(script, keys, arguments)
        self.answers.append([lost, heard])
        return heard


@pytest.fixture
async def client(redis_server: RedisProcess) -> AsyncIterator[Repeating]:
    repeating = Repeating(redis_server.url)
    yield repeating
    await repeating.aclose()


@pytest.fixture
async def store(redis_server: RedisProcess, keys: Keys, client: Repeating) -> RedisStore:
    under_test = RedisStore(redis_server.url, keys)
    await under_test.aclose()
    under_test._client = client
    return under_test


async def test_heartbeat_claim_and_hand_off_answer_alike_when_repeated(
    store: RedisStore, client: Repeating
) -> None:
    giver, taker = worker(), worker()
    await store.heartbeat(giver, 20)
    await store.heartbeat(taker, 20)
    tokens = await store.claim(giver.incarnation, [1, 2, 3])
    moved = await store.hand_off({taker.incarnation: {1: tokens[1], 2: tokens[2]}})
    assert set(moved) == {1, 2}
    assert len(client.answers) == 4
    for first, second in client.answers:
        assert second == first
    cluster = await store.read_map()
    assert cluster.tokens_of(taker.incarnation) == moved
    assert cluster.tokens_of(giver.incarnation) == {3: tokens[3]}


async def test_leaving_ends_alike_when_repeated(store: RedisStore) -> None:
    record = worker()
    await store.heartbeat(record, 20)
    await store.claim(record.incarnation, [1, 2])
    await store.leave(record.incarnation)
    cluster = await store.read_map()
    assert not cluster.owners
    assert not cluster.workers


async def test_call_is_asked_again_when_its_connection_broke(redis_server: RedisProcess) -> None:
    client = RedisClient(redis_server.url, RedisLimits())
    asked = 0

    async def ask() -> str:
        nonlocal asked
        asked += 1
        if asked == 1:
            # As if Redis died after the connection was looked at and before it was used.
            raise RedisConnectionError
        answer: str = await client.redis.echo("again")
        return answer

    try:
        assert await client.call(ask) == "again"
    finally:
        await client.aclose()
    assert asked == 2
