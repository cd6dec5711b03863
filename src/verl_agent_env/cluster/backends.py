"""Store back ends: what workers share, by the scheme of the URL at which it is.

A new back end is its own module and one line in :data:`_OPENERS`; ``tests/contract`` says what it has to do.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from verl_agent_env.cluster.idempotency import KNOWN_S, IdempotencyRecords
from verl_agent_env.cluster.memory.idempotency import MemoryIdempotencyRecords
from verl_agent_env.cluster.memory.log import MemoryEventLog
from verl_agent_env.cluster.memory.store import MemoryStore
from verl_agent_env.cluster.redis.client import RedisClient, RedisLimits
from verl_agent_env.cluster.redis.idempotency import RedisIdempotencyRecords
from verl_agent_env.cluster.redis.keys import Keys
from verl_agent_env.cluster.redis.log import RedisEventLog
from verl_agent_env.cluster.redis.rehearsal import rehearse
from verl_agent_env.cluster.redis.store import RedisStore
from verl_agent_env.cluster.store import Store
from verl_agent_env.wire.event_log import EventLog


@dataclass(frozen=True)
class BackendOptions:
    """Settings that a back end uses as far as they apply to it."""

    namespace: str = Keys.namespace
    """Name of the data set: clusters of different namespaces do not see each other."""
    call_s: float = RedisLimits.call_s
    """Seconds until a call has its answer, or fails."""
    keys_known_s: float = KNOWN_S
    """Seconds for which an idempotency key is known."""
    keys_max_bytes: int = 16 * 1024 * 1024
    """Bytes that idempotency keys take in the memory of the process, where they are kept there."""


@dataclass(frozen=True)
class Backend:
    """Connections to one data set. Each is made when it is first used."""

    store: Store
    log: EventLog
    idempotency: IdempotencyRecords
    rehearse: Callable[[], Awaitable[object]]
    """Tries everything that the other parts ask for, apart from the data set; raises :class:`StoreUnavailableError`."""

    async def aclose(self) -> None:
        """Close all connections."""
        for part in (self.idempotency, self.log, self.store):
            await part.aclose()


def open_backend(url: str, options: BackendOptions | None = None) -> Backend:
    """Make the back end at ``url``; the memory of this process where it is empty.

    Raises:
        ValueError: The URL is none of a store; the message says what one looks like, and never holds a password.
    """
    # Redis takes whatever no other one does: its client says what a URL looks like.
    opener = _OPENERS.get(url.partition(":")[0], _open_redis)
    return opener(url, options or BackendOptions())


def _open_memory(_: str, options: BackendOptions) -> Backend:
    store = MemoryStore()
    records = MemoryIdempotencyRecords(options.keys_known_s, options.keys_max_bytes, time.monotonic)
    return Backend(store, MemoryEventLog(store), records, store.read_map)


def _open_redis(url: str, options: BackendOptions) -> Backend:
    keys, limits = Keys(options.namespace), RedisLimits(call_s=options.call_s)
    # A connection each: a call that is given up closes its own, and a long commit delays no heartbeat.
    return Backend(
        RedisStore(url, keys, limits),
        RedisEventLog(RedisClient(url, limits), keys),
        RedisIdempotencyRecords(RedisClient(url, limits), keys, options.keys_known_s),
        functools.partial(rehearse, url, options.namespace, limits),
    )


_OPENERS: dict[str, Callable[[str, BackendOptions], Backend]] = {
    "": _open_memory,
    "redis": _open_redis,
    "rediss": _open_redis,
    "unix": _open_redis,
}
