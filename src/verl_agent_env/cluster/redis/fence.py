"""The tokens of one of several logs, in the log's Redis."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from verl_agent_env.cluster.log_shards import NOT_BEFORE, Installation
from verl_agent_env.cluster.redis import scripts
from verl_agent_env.cluster.redis.client import RedisClient
from verl_agent_env.cluster.redis.keys import Keys
from verl_agent_env.errors import GenerationChangedError

_SLOTS_AT_ONCE = 1024
"""Redis answers nobody else meanwhile."""


class RedisFence:
    """:class:`~verl_agent_env.cluster.log_shards.Fence` in Redis 6.2 or later."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        """Create the fence of the log of ``keys``.

        Args:
            client: A client of its own, because a cancelled call closes its connection.
            keys: Names of the log's Redis keys.
        """
        self._client = client
        self._keys = keys

    @property
    def where(self) -> str:
        """URL without the password, for messages."""
        return self._client.where

    async def generation(self) -> str:
        return str((await self._run("", 0, ()))[1])

    async def install(
        self,
        generation: str,
        version: int,
        tokens: Mapping[int, str],
        since: Mapping[int, int] = NOT_BEFORE,
    ) -> dict[int, Installation]:
        slots = list(tokens)
        former: dict[int, Installation] = {}
        for start in range(0, len(slots), _SLOTS_AT_ONCE):
            part = slots[start : start + _SLOTS_AT_ONCE]
            fields = [
                field
                for slot in part
                for field in (self._keys.field(slot), tokens[slot], since.get(slot, ""))
            ]
            state, found, *before = await self._run(generation, version, fields)
            if state != "ok":
                raise GenerationChangedError(generation, found)
            for slot, token, known in zip(part, before[::2], before[1::2], strict=True):
                former[slot] = Installation(token, int(known))
        return former

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _run(self, generation: str, version: int, fields: Any) -> Any:
        keys = self._keys
        arguments = [generation, uuid.uuid4().hex, version, *fields]
        return await self._client.run(
            scripts.INSTALL, [keys.generation, keys.owners, keys.owner_versions], arguments
        )
