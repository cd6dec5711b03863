"""Idempotency records in Redis, shared by the workers of a cluster."""

from __future__ import annotations

from verl_agent_env.cluster.idempotency import IdempotencyRecord
from verl_agent_env.cluster.redis import scripts
from verl_agent_env.cluster.redis.client import RedisClient
from verl_agent_env.cluster.redis.keys import Keys


class RedisIdempotencyRecords:
    """:class:`~verl_agent_env.cluster.idempotency.IdempotencyRecords` in Redis 6.2 or later."""

    def __init__(self, client: RedisClient, keys: Keys, known_s: float) -> None:
        """Create records in the data set of ``keys``.

        Args:
            client: A client of its own, because a cancelled call closes its connection.
            keys: Names of the Redis keys.
            known_s: Seconds for which a record is kept.
        """
        self._client = client
        self._keys = keys
        self._known_ms = max(1, round(known_s * 1000))

    async def claim(self, name: str, record: IdempotencyRecord) -> IdempotencyRecord:
        key = self._keys.idempotency_record(name)
        kept = await self._client.run(scripts.CLAIM_KEY, [key], [record.to_text(), self._known_ms])
        return IdempotencyRecord.from_text(kept)

    async def aclose(self) -> None:
        await self._client.aclose()
