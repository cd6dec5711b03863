"""Records of idempotency keys in Redis: for how long, and what they hold."""

from __future__ import annotations

from tests.cluster.redis_process import RedisProcess
from verl_agent_env.cluster.idempotency import IdempotencyRecord
from verl_agent_env.cluster.redis.client import RedisClient
from verl_agent_env.cluster.redis.idempotency import RedisIdempotencyRecords
from verl_agent_env.cluster.redis.keys import Keys
from verl_agent_env.cluster.redis.limits import RedisLimits


async def test_a_record_ends_by_itself(redis_server: RedisProcess, keys: Keys) -> None:
    client = RedisClient(redis_server.url, RedisLimits())
    records = RedisIdempotencyRecords(client, keys, 60.0)
    await records.claim("k", IdempotencyRecord("f", "n"))
    left_ms = await client.redis.pttl(keys.idempotency_record("k"))
    assert 0 < left_ms <= 60_000
    assert await client.redis.get(keys.idempotency_record("k")) == "f n"
    await records.aclose()


async def test_records_of_other_clusters_are_others(redis_server: RedisProcess, keys: Keys) -> None:
    first, second = IdempotencyRecord("f", "n1"), IdempotencyRecord("f", "n2")
    for namespace, record in ((keys, first), (Keys(f"{keys.namespace}-other"), second)):
        records = RedisIdempotencyRecords(RedisClient(redis_server.url, RedisLimits()), namespace, 60.0)
        assert await records.claim("k", record) == record
        await records.aclose()
