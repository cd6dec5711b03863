"""Every store, behind the same fixture."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from tests.cluster.redis_process import RedisProcess
from verl_agent_env.cluster.idempotency import IdempotencyRecords
from verl_agent_env.cluster.memory.idempotency import MemoryIdempotencyRecords
from verl_agent_env.cluster.memory.log import MemoryEventLog
from verl_agent_env.cluster.memory.store import MemoryStore
from verl_agent_env.cluster.redis.client import RedisClient
from verl_agent_env.cluster.redis.idempotency import RedisIdempotencyRecords
from verl_agent_env.cluster.redis.keys import Keys
from verl_agent_env.cluster.redis.limits import RedisLimits
from verl_agent_env.cluster.redis.log import RedisEventLog
from verl_agent_env.cluster.redis.store import RedisStore
from verl_agent_env.cluster.store import Store
from verl_agent_env.wire.event_log import EventLog

PATIENT = RedisLimits(connect_s=60.0, call_s=60.0)
"""The machine may be busy."""


@dataclass(frozen=True)
class StoreCase:
    """One data set, with a way to reach it as another process would, and to lose it."""

    connect: Callable[[], Store]
    empty: Callable[[], None]
    fill: Callable[[bool], None]
    """Leaves no room in it, or makes some again."""
    log: EventLog
    records: IdempotencyRecords


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """A Redis shared by all tests of a process."""
    process = RedisProcess(tmp_path_factory.mktemp("redis"))
    yield process
    process.stop()


@pytest.fixture(params=["memory", "redis"])
async def case(request: pytest.FixtureRequest) -> AsyncIterator[StoreCase]:
    """Each store in turn; without data in the beginning."""
    async with AsyncExitStack() as stack:
        if request.param == "memory":
            memory = MemoryStore()
            memory_log = MemoryEventLog(memory)

            def empty() -> None:
                memory.clear()
                memory_log.clear()

            def fill(is_full: bool) -> None:
                memory_log.is_full = is_full

            records = MemoryIdempotencyRecords(60.0, 1 << 20, time.monotonic)
            yield StoreCase(lambda: memory, empty, fill, memory_log, records)
            return
        server: RedisProcess = request.getfixturevalue("redis_server")
        keys = Keys(uuid.uuid4().hex)

        def connect() -> Store:
            store = RedisStore(server.url, keys, PATIENT)
            stack.push_async_callback(store.aclose)
            return store

        client = RedisClient(server.url, PATIENT)
        stack.push_async_callback(client.aclose)
        stack.callback(server.fill, False)
        records_of_redis = RedisIdempotencyRecords(client, keys, 60.0)
        yield StoreCase(connect, server.flush, server.fill, RedisEventLog(client, keys), records_of_redis)


@pytest.fixture
def store(case: StoreCase) -> Store:
    """A connection to the store under test."""
    return case.connect()
