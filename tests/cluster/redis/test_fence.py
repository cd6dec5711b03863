"""The fence of an event log in Redis: its own data set, whoever else is there, and another one at another primary."""

from __future__ import annotations

import redis

from tests.cluster.redis_process import RedisProcess
from tests.contract.conftest import PATIENT
from verl_agent_env.cluster.backends import BackendOptions, open_backend
from verl_agent_env.cluster.log_shards import Installation
from verl_agent_env.cluster.redis.client import RedisClient
from verl_agent_env.cluster.redis.fence import RedisFence
from verl_agent_env.cluster.redis.keys import Keys


async def test_a_log_at_another_primary_is_another_data_set_that_knows_the_order(
    redis_server: RedisProcess, keys: Keys
) -> None:
    keys = keys.of_logs()
    url = f"{redis_server.url}?failover=yes"
    fence = RedisFence(RedisClient(url, PATIENT, keys), keys)
    generation = await fence.generation()
    await fence.install(generation, 5, {7: "one"})
    with redis.Redis(port=redis_server.port) as client:
        client.set(keys.primary, "the run id of a server that was the primary before")
    await fence.aclose()
    again = RedisFence(RedisClient(url, PATIENT, keys), keys)
    present = await again.generation()
    assert present != generation
    # Nobody is installed any more; a replica may have missed the last one, but none that it has is undone.
    assert await again.install(present, 4, {7: "former"}) == {7: Installation("", 5)}
    assert await again.install(present, 6, {7: "heir"}) == {7: Installation("", 5)}
    await again.aclose()


async def test_addresses_of_the_logs_stay_when_the_store_has_another_primary(
    redis_server: RedisProcess, namespace: str
) -> None:
    log_url = f"{redis_server.url.removesuffix('/0')}/1"
    options = BackendOptions(namespace, logs=(log_url,))
    url = f"{redis_server.url}?failover=yes"
    backend = open_backend(url, options)
    before = await backend.store.generation()
    await backend.aclose()
    with redis.Redis(port=redis_server.port) as client:
        client.set(Keys(namespace).primary, "the run id of a server that was the primary before")
    backend = open_backend(url, options)
    after = await backend.store.generation()
    assert after != before
    assert after.partition(" ")[2] == log_url
    await backend.aclose()


async def test_one_redis_may_keep_the_store_and_a_log(redis_server: RedisProcess, namespace: str) -> None:
    backend = open_backend(redis_server.url, BackendOptions(namespace, logs=(redis_server.url,)))
    (part,) = backend.logs
    assert part.fence is not None
    assert backend.places == [redis_server.url]
    assert await part.fence.generation() != await backend.store.generation()
    await backend.aclose()


async def test_who_only_reads_the_map_begins_no_data_set(redis_server: RedisProcess, namespace: str) -> None:
    reader = open_backend(redis_server.url, BackendOptions(namespace, logs=None))
    assert (await reader.store.read_map()).generation == ""
    owner = open_backend(redis_server.url, BackendOptions(namespace, logs=(redis_server.url,)))
    generation = await owner.store.generation()
    assert generation.endswith(redis_server.url)
    assert (await reader.store.read_map()).generation == generation
    await reader.aclose()
    await owner.aclose()
