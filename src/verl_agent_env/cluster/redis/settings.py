"""Settings of Redis that put data at risk, said before a node joins."""

from __future__ import annotations

import contextlib
import functools

from verl_agent_env.cluster.redis.client import RedisClient
from verl_agent_env.errors import StoreUnavailableError

_NAMES = ("maxmemory-policy", "min-replicas-to-write", "min-replicas-max-lag")
_MAX_LAG_S = 5


async def risks(client: RedisClient) -> list[str]:
    """Say what of the server's settings may lose data, a sentence each.

    Empty where the settings may not be read, as at many providers: there they are the provider's.
    """
    found = await _read(client)
    sentences = []
    policy = found.get("maxmemory-policy", "noeviction")
    if policy != "noeviction":
        sentences.append(
            f"Redis deletes environments when it is full: set maxmemory-policy noeviction in place of {policy}."
        )
    too_late = int(found.get("min-replicas-max-lag") or 0) > _MAX_LAG_S
    if client.has_sentinels and found and (found.get("min-replicas-to-write") in (None, "0") or too_late):
        sentences.append(
            "A primary that is cut off from its Sentinels goes on taking writes, which are lost: set "
            "min-replicas-to-write 1 and min-replicas-max-lag 2 on each server, and have two replicas or more."
        )
    return sentences


async def _read(client: RedisClient) -> dict[str, str]:
    found: dict[str, str] = {}
    with contextlib.suppress(StoreUnavailableError):
        for name in _NAMES:
            found |= await client.call(functools.partial(client.redis.config_get, name))
    return found
