"""Every store, behind the same fixture."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from tests.cluster.redis_process import RedisProcess
from tests.contract.several_logs import SeveralLogs
from verl_agent_env.cluster.idempotency import IdempotencyRecords
from verl_agent_env.cluster.log_shards import Fence
from verl_agent_env.cluster.memory.fence import MemoryFence
from verl_agent_env.cluster.memory.idempotency import MemoryIdempotencyRecords
from verl_agent_env.cluster.memory.log import MemoryEventLog
from verl_agent_env.cluster.memory.store import MemoryStore
from verl_agent_env.cluster.redis.client import RedisClient
from verl_agent_env.cluster.redis.fence import RedisFence
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
    several: SeveralLogs | None = None
    """The log, if it is several beside the store."""

    async def install(self, store: Store, tokens: Mapping[int, str]) -> None:
        """Have the log take writes under tokens that the store gave out."""
        if self.several is not None:
            await self.several.install(store, tokens)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """A Redis shared by all tests of a process."""
    process = RedisProcess(tmp_path_factory.mktemp("redis"))
    yield process
    process.stop()


def memory_case(logs: int) -> StoreCase:
    """A store in memory, with as many logs beside it; it keeps the log itself if there is none."""
    memory = MemoryStore()
    fences = [MemoryFence(lambda: uuid.uuid4().hex) for _ in range(logs)]
    memory_logs = [MemoryEventLog(fence) for fence in fences] or [MemoryEventLog(memory)]

    def empty() -> None:
        memory.clear()
        for fence in fences:
            fence.clear()
        for log in memory_logs:
            log.clear()

    def fill(is_full: bool) -> None:
        for log in memory_logs:
            log.is_full = is_full

    records = MemoryIdempotencyRecords(60.0, 1 << 20, time.monotonic)
    several = SeveralLogs(list(zip(memory_logs, fences, strict=True))) if logs else None
    return StoreCase(lambda: memory, empty, fill, several or memory_logs[0], records, several)


@pytest.fixture(params=["memory", "redis", "memory-2-logs", "redis-2-logs"])
async def case(request: pytest.FixtureRequest) -> AsyncIterator[StoreCase]:
    """Each store in turn; without data in the beginning."""
    async with AsyncExitStack() as stack:
        kind, _, logs = str(request.param).partition("-")
        if kind == "memory":
            yield memory_case(2 if logs else 0)
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
        log: EventLog = RedisEventLog(client, keys)
        several = None
        if logs:
            # As two servers: another database each.
            parts: list[tuple[EventLog, Fence]] = []
            for database in (1, 2):
                other = RedisClient(f"{server.url.removesuffix('/0')}/{database}", PATIENT)
                stack.push_async_callback(other.aclose)
                parts.append((RedisEventLog(other, keys.of_logs()), RedisFence(other, keys.of_logs())))
            log = several = SeveralLogs(parts)
        yield StoreCase(connect, server.flush, server.fill, log, records_of_redis, several)


@pytest.fixture
def store(case: StoreCase) -> Store:
    """A connection to the store under test."""
    return case.connect()
