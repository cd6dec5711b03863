"""Calls to Redis end when they are told to, whatever the client library is at."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from tests.cluster.redis_process import RedisProcess
from tests.waiting import HANG_S, no_hang
from verl_agent_env.cluster.redis.client import PubSubListener, RedisClient
from verl_agent_env.cluster.redis.keys import Keys
from verl_agent_env.cluster.redis.limits import RedisLimits
from verl_agent_env.cluster.redis.scripts import Script
from verl_agent_env.cluster.redis.store import RedisStore
from verl_agent_env.errors import StoreUnavailableError

Ask = Callable[[RedisStore], Awaitable[object]]


class SlowRedis:
    """Reads commands, and answers none before :attr:`thawed`; then each with 1."""

    def __init__(self) -> None:
        self.thawed = asyncio.Event()
        self.url = ""
        self.writers: list[asyncio.StreamWriter] = []

    def hang_up(self) -> None:
        for writer in self.writers:
            writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                for _ in range(int((await reader.readuntil(b"\n"))[1:])):
                    await reader.readexactly(int((await reader.readuntil(b"\n"))[1:]) + 2)
                await self.thawed.wait()
                writer.write(b":1\r\n")
        writer.close()


@pytest.fixture
async def slow_redis() -> AsyncIterator[SlowRedis]:
    redis = SlowRedis()
    server = await asyncio.start_server(redis.serve, "127.0.0.1", 0)
    redis.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield redis
    redis.thawed.set()
    redis.hang_up()
    server.close()


async def test_calls_that_time_out_one_after_the_other_do_not_fail_one_that_has_time_left(
    slow_redis: SlowRedis,
) -> None:
    # What a call may take grows with its bytes.
    client = RedisClient(slow_redis.url, RedisLimits(call_s=0.5, bytes_per_s=1024.0))
    script = Script("one", "return 1")
    try:
        first, second, patient = (
            asyncio.ensure_future(client.run(script, [], ["x" * size])) for size in (0, 512, 65_536)
        )
        for hasty in (first, second):
            with pytest.raises(StoreUnavailableError, match="did not answer"):
                await hasty
        slow_redis.thawed.set()
        assert await patient == 1
    finally:
        await client.aclose()


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
    store = RedisStore(redis_server.url, keys)
    await store.generation()

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
            done, _ = await asyncio.wait([task], timeout=HANG_S)
            assert done, "the cancellation got lost"
            assert task.cancelled()
    finally:
        await store.aclose()


@pytest.fixture
def interrupted_if_it_never_waits() -> Iterator[None]:
    """A loop that is never given back cannot be timed by itself."""

    def interrupt(*_: Any) -> None:
        raise RuntimeError("the event loop stood still")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(int(HANG_S))
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("interrupted_if_it_never_waits")
async def test_notices_go_on_after_the_network_gave_a_connection_up(
    redis_server: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = RedisClient(redis_server.url, RedisLimits(poll_s=0.05))
    channel, pubsub, made = uuid.uuid4().hex, client.redis.pubsub, []

    def noted() -> Any:
        made.append(pubsub())
        return made[-1]

    monkeypatch.setattr(client.redis, "pubsub", noted)
    notices = PubSubListener(client, channel)
    try:
        async with no_hang():
            await notices.next().wait()
            again = notices.next()
            # As the kernel reports it when nothing was heard of the other side for long.
            made[0].connection._reader.set_exception(TimeoutError(errno.ETIMEDOUT, "Connection timed out"))
            await again.wait()
            assert len(made) == 2
            heard = notices.next()
            await client.redis.publish(channel, "now")
            await heard.wait()
    finally:
        await notices.aclose()
        await client.aclose()


async def test_large_call_has_the_time_that_its_bytes_take(redis_server: RedisProcess) -> None:
    arrives_s = 0.6

    async def pass_on_slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, to_redis = await asyncio.open_connection("127.0.0.1", redis_server.port)
        command = b"*"
        while len(command) < size or not command.endswith(b"\r\n"):
            command += await reader.read(1 << 20)
        await asyncio.sleep(arrives_s)
        to_redis.write(command[1:])
        writer.write(await upstream.read(1 << 16))
        to_redis.close()
        writer.close()

    size = 3_000_000
    proxy = await asyncio.start_server(pass_on_slowly, "127.0.0.1", 0)
    url = f"redis://127.0.0.1:{proxy.sockets[0].getsockname()[1]}/0"
    length = Script("length", "return #ARGV[1]")
    seed = RedisClient(redis_server.url, RedisLimits())
    hurried = RedisClient(url, RedisLimits(call_s=arrives_s / 2, bytes_per_s=1e12))
    patient = RedisClient(url, RedisLimits(call_s=arrives_s / 2, bytes_per_s=50_000.0))
    try:
        assert await seed.run(length, [], ["x"]) == 1
        with pytest.raises(StoreUnavailableError):
            await hurried.run(length, [], ["x" * size])
        assert await patient.run(length, [], ["x" * size]) == size
    finally:
        for client in (seed, hurried, patient):
            await client.aclose()
        proxy.close()
