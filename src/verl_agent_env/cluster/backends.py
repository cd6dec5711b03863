"""Store back ends, selected by the scheme of the store's URL.

A new back end is a module of its own and one line in :data:`_OPENERS`; ``tests/contract`` tests its behaviour.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from verl_agent_env.cluster.folder.episodes import FolderEpisodes
from verl_agent_env.cluster.idempotency import KNOWN_S, IdempotencyRecords
from verl_agent_env.cluster.log_shards import FencedLog, JoinedLog
from verl_agent_env.cluster.memory.episodes import MemoryEpisodes
from verl_agent_env.cluster.memory.idempotency import MemoryIdempotencyRecords
from verl_agent_env.cluster.memory.log import MemoryEventLog
from verl_agent_env.cluster.memory.store import MemoryStore
from verl_agent_env.cluster.redis.keys import Keys
from verl_agent_env.cluster.redis.limits import RedisLimits
from verl_agent_env.cluster.store import Store
from verl_agent_env.types import NUM_SLOTS
from verl_agent_env.wire.episode_store import EpisodeStore
from verl_agent_env.wire.event_log import HistoryReader


@dataclass(frozen=True)
class BackendOptions:
    """Settings of a back end, which uses those that apply to it."""

    namespace: str = Keys.namespace
    """Name of the data set: clusters of different namespaces do not see each other."""
    call_s: float = RedisLimits.call_s
    """Seconds within which a call returns or fails."""
    keys_known_s: float = KNOWN_S
    """Seconds for which an idempotency key is known."""
    num_slots: int = NUM_SLOTS
    """Number of slots of the data set."""
    logs: Sequence[str] | None = ()
    """URLs of the Redis that keep the event logs, each of a part of the slots, in any order. Without any, the store keeps
    them; None for who does not read or write them, and need not know."""
    keeps_episodes: bool = False
    """Whether episodes that are over are kept there as well."""
    keys_max_bytes: int = 16 * 1024 * 1024
    """Bytes that idempotency keys may take, if they are kept in the memory of the process."""


@dataclass(frozen=True)
class Backend:
    """Connections to one data set, each opened at its first use."""

    store: Store
    logs: Sequence[FencedLog]
    """The event logs, each of a part of the slots: one, which the store keeps itself, or several in their order."""
    idempotency: IdempotencyRecords
    rehearse: Callable[[], Awaitable[Sequence[str]]]
    """Tries every command that the other parts need, outside the data set; raises :class:`StoreUnavailableError`. Returns what of
    the server's settings may lose data, a sentence each."""

    @property
    def places(self) -> list[str]:
        """Addresses of the event logs that the store does not keep itself."""
        return [part.fence.where for part in self.logs if part.fence is not None]

    @property
    def log(self) -> HistoryReader:
        """All logs, to be read."""
        return self.logs[0].log if len(self.logs) == 1 else JoinedLog([part.log for part in self.logs])

    async def aclose(self) -> None:
        """Close all connections."""
        await self.idempotency.aclose()
        await self.log.aclose()
        for part in self.logs:
            if part.fence is not None:
                await part.fence.aclose()
        await self.store.aclose()


def open_backend(url: str, options: BackendOptions | None = None) -> Backend:
    """Return the back end at ``url``; the memory of this process if it is empty.

    Raises:
        ValueError: The URL is malformed; the message shows the form, and never a password.
    """
    # Unknown schemes go to Redis, whose client explains the form of a URL.
    opener = _OPENERS.get(url.partition(":")[0], _open_redis)
    return opener(url, options or BackendOptions())


def _open_memory(_: str, options: BackendOptions) -> Backend:
    store = MemoryStore(num_slots=options.num_slots)
    records = MemoryIdempotencyRecords(options.keys_known_s, options.keys_max_bytes, time.monotonic)
    return Backend(store, (FencedLog(MemoryEventLog(store)),), records, _rehearse_nothing)


async def _rehearse_nothing() -> Sequence[str]:
    return ()


def _open_redis(url: str, options: BackendOptions) -> Backend:
    # Here, as below: a process on its own starts sooner without the Redis client.
    from verl_agent_env.cluster.redis.client import RedisClient
    from verl_agent_env.cluster.redis.fence import RedisFence
    from verl_agent_env.cluster.redis.idempotency import RedisIdempotencyRecords
    from verl_agent_env.cluster.redis.log import RedisEventLog
    from verl_agent_env.cluster.redis.rehearsal import rehearse
    from verl_agent_env.cluster.redis.store import RedisStore
    from verl_agent_env.cluster.redis.url import RedisUrl, in_order

    keys = Keys.of_cluster(options.namespace, options.num_slots)
    limits = RedisLimits(call_s=options.call_s)
    urls = None if options.logs is None else in_order(options.logs)
    # One connection each: a cancelled call closes its own, and a long commit delays no heartbeat.
    logs = [FencedLog(RedisEventLog(RedisClient(url, limits, keys), keys))]
    if urls:
        keys_of_logs = keys.of_logs()
        logs = [
            FencedLog(
                RedisEventLog(RedisClient(each, limits, keys_of_logs), keys_of_logs),
                RedisFence(RedisClient(each, limits, keys_of_logs), keys_of_logs),
            )
            for each in urls
        ]
    return Backend(
        RedisStore(
            url, keys, limits, None if urls is None else [RedisUrl.parse(each).where for each in urls]
        ),
        logs,
        RedisIdempotencyRecords(RedisClient(url, limits, keys), keys, options.keys_known_s),
        functools.partial(
            rehearse, url, options.namespace, limits, urls or (), keeps_episodes=options.keeps_episodes
        ),
    )


def open_episodes(where: str, max_bytes: int, redis: str, namespace: str) -> EpisodeStore:
    """Return the store of kept episodes that ``--keep-trajectories`` names: ``memory``, ``redis`` or a directory.

    Args:
        where: Which one.
        max_bytes: Bytes that the episodes may take; in a directory, those that wait to be written.
        redis: URL of the cluster's Redis.
        namespace: Name of the data set in it.

    Raises:
        ValueError: There is no Redis, or the directory cannot be made or written into.
    """
    if where == "memory":
        return MemoryEpisodes(max_bytes)
    if where == "redis":
        if not redis:
            raise ValueError("episodes can be kept in redis by a node of a cluster only (--redis)")
        from verl_agent_env.cluster.redis.client import RedisClient
        from verl_agent_env.cluster.redis.episodes import RedisEpisodes

        keys = Keys(namespace)
        return RedisEpisodes(RedisClient(redis, RedisLimits(), keys), keys, max_bytes)
    return FolderEpisodes(Path(where), max_bytes)


_OPENERS: dict[str, Callable[[str, BackendOptions], Backend]] = {
    "": _open_memory,
    "redis": _open_redis,
    "rediss": _open_redis,
    "redis+sentinel": _open_redis,
    "rediss+sentinel": _open_redis,
    "unix": _open_redis,
}
