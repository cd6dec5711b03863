"""Redis at its worst: wrong, away, silent, restarted, emptied. Each call ends in time with one clear sentence."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from tests.cluster.redis_process import RedisProcess
from tests.cluster.workers import worker
from tests.ports import free_port
from tests.waiting import HANG_S, NEVER_S, no_hang
from verl_agent_env.cluster.redis.client import RedisClient
from verl_agent_env.cluster.redis.keys import Keys
from verl_agent_env.cluster.redis.limits import RedisLimits
from verl_agent_env.cluster.redis.scripts import Script
from verl_agent_env.cluster.redis.store import RedisStore
from verl_agent_env.errors import SlotsDifferError, StoreFullError, StoreUnavailableError, WorkerNotAliveError
from verl_agent_env.types import MANY_SLOTS, NUM_SLOTS

TTL_S = NEVER_S
PATIENT = RedisLimits(connect_s=HANG_S, call_s=HANG_S, poll_s=0.1)
QUICK = RedisLimits(connect_s=0.3, call_s=0.5, poll_s=0.1)
"""Where Redis says nothing."""


@contextlib.asynccontextmanager
async def connected(
    url: str, keys: Keys | None = None, limits: RedisLimits = PATIENT
) -> AsyncIterator[RedisStore]:
    store = RedisStore(url, keys, limits)
    try:
        yield store
    finally:
        await store.aclose()


async def until_answered(store: RedisStore) -> str:
    """The generation, as soon as Redis answers."""
    async with no_hang():
        while True:
            with contextlib.suppress(StoreUnavailableError):
                return await store.generation()
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://localhost:6379",
        "redis://",
        "redis://localhost:port/0",
        "redis://localhost/zero",
        "redis://localhost:99999",
        "redis://user:hidden@[::1/0",
        "redis://localhost/0?socket_timeout=100",
        "redis://localhost/0?ssl_nonsense=1",
        "unix://",
    ],
)
def test_wrong_url_is_one_sentence_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"redis://\[user:password@\]host:port/0") as caught:
        RedisStore(url)
    assert "hidden" not in str(caught.value)


async def test_address_is_shown_without_its_password() -> None:
    async with connected("redis://user:hidden@somewhere/2") as store:
        assert store.where == "redis://somewhere:6379/2"


@pytest.mark.parametrize("limit", [field.name for field in dataclasses.fields(RedisLimits)])
def test_limits_must_be_positive(limit: str) -> None:
    with pytest.raises(ValueError, match="above 0"):
        RedisLimits(**{limit: 0})


async def test_nobody_there_is_a_typed_error_at_once() -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    async with connected(url, limits=RedisLimits(connect_s=NEVER_S, call_s=NEVER_S)) as store:
        with pytest.raises(StoreUnavailableError) as caught:
            async with no_hang():
                await store.generation()
    assert caught.value.store == url
    assert (caught.value.status, caught.value.retryable) == (503, True)


async def test_unknown_host_is_a_typed_error() -> None:
    async with connected("redis://no-such-host.invalid:6379/0") as store:
        with pytest.raises(StoreUnavailableError):
            await store.generation()


async def test_silent_server_ends_every_call_in_time() -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    async with connected(url, limits=RedisLimits(call_s=0.2)) as store:
        for attempt in (
            store.generation,
            lambda: store.heartbeat(worker(), TTL_S),
            lambda: store.leave("a"),
            lambda: store.claim("a", [1]),
            lambda: store.hand_off({"b": {1: "a:b"}}),
            store.read_map,
            store.map_version,
            lambda: store.wait_for_change(0, NEVER_S),
        ):
            with pytest.raises(StoreUnavailableError) as caught:
                async with no_hang():
                    await attempt()
            assert "0.2 s" in caught.value.reason
    server.close()


async def test_wrong_password_is_a_typed_error(tmp_path_factory: pytest.TempPathFactory) -> None:
    process = RedisProcess(tmp_path_factory.mktemp("redis"), "--requirepass", "secret")
    try:
        for credentials in ("", ":wrong@"):
            async with connected(f"redis://{credentials}127.0.0.1:{process.port}/0") as store:
                with pytest.raises(StoreUnavailableError) as caught:
                    await store.generation()
            assert "password" in caught.value.reason
        async with connected(f"redis://:secret@127.0.0.1:{process.port}/0") as store:
            assert await store.generation()
    finally:
        process.stop()


async def test_full_redis_keeps_a_cluster_together(own_redis: RedisProcess) -> None:
    own_redis.fill()
    async with connected(own_redis.url) as store:
        generation = await store.generation()
        a, b = worker(), worker()
        for record in (a, b):
            assert (await store.heartbeat(record, TTL_S)).generation == generation
        tokens = await store.claim(a.incarnation, range(NUM_SLOTS))
        assert len(tokens) == NUM_SLOTS
        moved = await store.hand_off({b.incarnation: {slot: tokens[slot] for slot in range(9)}})
        cluster = await store.read_map()
        assert cluster.tokens_of(b.incarnation) == moved
        assert len(cluster.tokens_of(a.incarnation)) == NUM_SLOTS - 9
        assert await store.wait_for_change(cluster.version - 1, NEVER_S) == cluster.version
        await store.leave(a.incarnation)
        with pytest.raises(WorkerNotAliveError):
            await store.heartbeat(a, TTL_S)
        assert len(await store.claim(b.incarnation, range(NUM_SLOTS))) == NUM_SLOTS
        # Other workers' ends are remembered as well.
        successor = dataclasses.replace(b, incarnation="next")
        await store.heartbeat(successor, TTL_S)
        assert not (await store.read_map()).tokens_of(b.incarnation)


async def test_full_redis_is_a_typed_error(own_redis: RedisProcess) -> None:
    own_redis.fill()
    client = RedisClient(own_redis.url, QUICK)
    grow = Script("grow", "return redis.call('SET', KEYS[1], '')")
    try:
        with pytest.raises(StoreFullError) as caught:
            await client.run(grow, ["key"], [])
        with pytest.raises(StoreFullError):
            await client.call(lambda: client.redis.set("key", ""))
    finally:
        await client.aclose()
    assert "maxmemory" in caught.value.detail
    assert (caught.value.status, caught.value.retryable) == (503, True)


@pytest.mark.parametrize(
    "text",
    [
        "OOM command not allowed when used memory > 'maxmemory'. script: 0a9, on @user_script:1.",
        "Error running script (call to f_0a9): @user_script:1: @user_script: 1: -OOM command not allowed.",
        "@user_script: 1: -OOM command not allowed when used memory > 'maxmemory'.",
    ],
    ids=["redis_7", "redis_6_raised", "redis_6_returned"],
)
async def test_refusals_within_scripts_are_understood_in_all_versions(
    redis_server: RedisProcess, text: str
) -> None:
    client = RedisClient(redis_server.url, QUICK)

    async def refuse() -> None:
        raise ResponseError(text)

    try:
        with pytest.raises(StoreFullError):
            await client.call(refuse)
        text = text.replace("OOM", "READONLY")
        with pytest.raises(StoreUnavailableError) as caught:
            await client.call(refuse)
    finally:
        await client.aclose()
    assert "read-only" in caught.value.reason


@pytest.mark.parametrize(
    "text",
    [
        "NOPERM this user has no permissions to run the 'hset' command",
        "The user executing the script can't run this command or subcommand script: 0a9, on @user_script:1.",
        "ERR ACL failure in script: User limited has no permissions to run the 'hset' command script: 0a9",
        "ERR ACL failure in script: No permissions to access a key script: 0a9, on @user_script:1.",
    ],
    ids=["command", "redis_7.0", "redis_7.2_and_valkey", "key"],
)
async def test_missing_rights_are_understood_in_all_versions(redis_server: RedisProcess, text: str) -> None:
    client = RedisClient(redis_server.url, QUICK)

    async def refuse() -> None:
        raise ResponseError(text)

    try:
        with pytest.raises(StoreUnavailableError, match="does not permit a command"):
            await client.call(refuse)
    finally:
        await client.aclose()


async def test_foreign_data_under_our_keys_is_not_taken_for_an_outage(
    redis_server: RedisProcess, keys: Keys
) -> None:
    client: Redis = Redis.from_url(redis_server.url)
    await client.set(keys.owners, "no hash")
    await client.aclose()
    async with connected(redis_server.url, keys) as store:
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            await store.read_map()


async def test_scripts_are_loaded_again_when_redis_forgot_them(
    redis_server: RedisProcess, keys: Keys
) -> None:
    client: Redis = Redis.from_url(redis_server.url)
    async with connected(redis_server.url, keys) as store:
        me, other = worker(), worker()
        await client.script_flush()
        await store.heartbeat(me, TTL_S)
        await store.heartbeat(other, TTL_S)
        await client.script_flush()
        tokens = await store.claim(me.incarnation, [1, 2])
        await client.script_flush()
        moved = await store.hand_off({other.incarnation: {1: tokens[1]}})
        await client.script_flush()
        assert (await store.read_map()).tokens_of(other.incarnation) == moved
        await client.script_flush()
        await store.leave(other.incarnation)
        assert (await store.read_map()).owners.keys() == {2}
    await client.aclose()


async def test_restarted_redis_is_met_again(own_redis: RedisProcess) -> None:
    async with connected(own_redis.url) as store:
        record = worker()
        first = await store.heartbeat(record, TTL_S)
        own_redis.stop()
        with pytest.raises(StoreUnavailableError):
            await store.heartbeat(record, TTL_S)
        own_redis.start()
        assert await until_answered(store) != first.generation
        again = await store.heartbeat(record, TTL_S)
        assert again.generation != first.generation
        assert again.map_version > first.map_version


async def test_restart_between_two_calls_goes_unnoticed(own_redis: RedisProcess) -> None:
    async with connected(own_redis.url) as store:
        await asyncio.gather(*(store.generation() for _ in range(6)))
        own_redis.stop()
        own_redis.start()
        assert len(set(await asyncio.gather(*(store.generation() for _ in range(6))))) == 1


async def test_paused_redis_goes_on_where_it_was(own_redis: RedisProcess) -> None:
    async with connected(own_redis.url, limits=QUICK) as store:
        generation = await until_answered(store)
        own_redis.pause()
        try:
            with pytest.raises(StoreUnavailableError):
                await store.generation()
        finally:
            own_redis.resume()
        assert await until_answered(store) == generation


async def test_waiting_is_woken_again_after_a_restart(own_redis: RedisProcess) -> None:
    async with connected(own_redis.url) as here, connected(own_redis.url) as there:
        await here.wait_for_change(0, 0.01)
        own_redis.stop()
        own_redis.start()
        await until_answered(here)
        waiting = asyncio.create_task(here.wait_for_change(0, NEVER_S))
        await until_answered(there)
        version = (await there.heartbeat(worker(), TTL_S)).map_version
        async with no_hang():
            assert await waiting == version


async def test_version_differs_from_all_before_when_redis_goes_back(
    redis_server: RedisProcess, keys: Keys
) -> None:
    client: Redis = Redis.from_url(redis_server.url, decode_responses=True)
    async with connected(redis_server.url, keys) as store:
        record = worker()
        seen = {(await store.heartbeat(record, TTL_S)).map_version}
        old = str(await client.get(keys.version))
        for slot in range(5):
            await store.claim(record.incarnation, [slot])
            seen.add(await store.map_version())
        await client.set(keys.version, old)
        await store.claim(record.incarnation, [9])
        assert await store.map_version() not in seen
    await client.aclose()


async def test_worker_of_another_number_of_slots_is_refused_and_changes_nothing(
    redis_server: RedisProcess, keys: Keys
) -> None:
    many = dataclasses.replace(keys, num_slots=MANY_SLOTS)
    async with connected(redis_server.url, keys) as few, connected(redis_server.url, many) as store:
        assert (await few.read_map()).num_slots == 0
        record = worker()
        await store.heartbeat(record, TTL_S)
        tokens = await store.claim(record.incarnation, [0x1F, 0x1F0, MANY_SLOTS - 1])
        before = await store.read_map()
        assert before.num_slots == MANY_SLOTS
        assert before.tokens_of(record.incarnation) == tokens
        with pytest.raises(SlotsDifferError) as caught:
            await few.heartbeat(worker(), TTL_S)
        assert (caught.value.wanted, caught.value.found) == (NUM_SLOTS, MANY_SLOTS)
        assert await store.read_map() == before
        with pytest.raises(ValueError, match="from 0 to 65535"):
            await store.claim(record.incarnation, [MANY_SLOTS])


async def test_data_of_an_earlier_version_of_this_software_have_its_number_of_slots(
    redis_server: RedisProcess, keys: Keys
) -> None:
    many = dataclasses.replace(keys, num_slots=MANY_SLOTS)
    client: Redis = Redis.from_url(redis_server.url, decode_responses=True)
    async with connected(redis_server.url, keys) as few, connected(redis_server.url, many) as store:
        await few.heartbeat(worker(), TTL_S)
        await client.delete(keys.num_slots_kept)
        assert (await store.read_map()).num_slots == NUM_SLOTS
        with pytest.raises(SlotsDifferError):
            await store.heartbeat(worker(), TTL_S)
        await few.heartbeat(worker(), TTL_S)
    await client.aclose()


async def test_change_by_an_earlier_version_of_this_software_is_not_missed(
    redis_server: RedisProcess, keys: Keys
) -> None:
    """It writes a new version of the map, and nothing of what is new in it."""
    client: Redis = Redis.from_url(redis_server.url, decode_responses=True)
    async with connected(redis_server.url, keys) as store:
        record = worker()
        await store.heartbeat(record, TTL_S)
        tokens = await store.claim(record.incarnation, range(4))
        known = await store.read_map()
        await client.hdel(keys.owners, "001")
        await client.set(keys.version, known.version + 1)
        assert (await store.read_map(known)).owners.keys() == {0, 2, 3}
        await store.claim(record.incarnation, [9])
        assert (await store.read_map(known)).owners.keys() == {0, 2, 3, 9}
        later = await store.read_map()
        await store.leave(record.incarnation)
        assert not (await store.read_map(later)).owners
    await client.aclose()
    assert len(tokens) == 4


async def test_dead_worker_ends_in_its_time_although_the_clock_of_redis_went_back(
    redis_server: RedisProcess,
) -> None:
    keys, shift_ms = Keys(), 10 * int(1000 * TTL_S)
    dead, silent, alive = (worker(name=name) for name in ("dead", "silent", "alive"))
    async with connected(redis_server.url, keys) as store, Redis.from_url(redis_server.url) as direct:
        await store.heartbeat(dead, 0.1)
        await store.heartbeat(silent, TTL_S)
        # As everything that is dated by the clock lies further ahead now.
        for record in (dead, silent):
            await direct.pexpire(keys.lease(record.incarnation), shift_ms)
            await direct.zincrby(keys.expiries, shift_ms, record.name)
        async with no_hang():
            await store.heartbeat(alive, 2 * TTL_S)
            while dead.incarnation in (await store.read_map()).workers:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
        assert await direct.pttl(keys.lease(silent.incarnation)) <= 1000 * TTL_S
        # Nor is a lease shorter than its worker believes.
        assert await direct.pttl(keys.lease(silent.incarnation)) > 1000 * TTL_S - 1000 * HANG_S
        await store.heartbeat(silent, TTL_S)
        assert set((await store.read_map()).workers) == {silent.incarnation, alive.incarnation}


async def test_lease_of_an_earlier_version_that_lasts_longer_than_the_others_stays(
    redis_server: RedisProcess,
) -> None:
    keys = Keys()
    earlier, present = worker(name="earlier"), worker(name="present")
    async with connected(redis_server.url, keys) as store, Redis.from_url(redis_server.url) as direct:
        await store.heartbeat(earlier, 20 * TTL_S)
        # Versions before this did not write it.
        await direct.hdel(keys.lease(earlier.incarnation), "ttl")
        await store.heartbeat(present, TTL_S)
        assert await direct.pttl(keys.lease(earlier.incarnation)) > 10 * 1000 * TTL_S
