"""A trial of every script and command before a node joins, so that missing permissions are errors at its start."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Sequence

from verl_agent_env.cluster.idempotency import IdempotencyRecord
from verl_agent_env.cluster.redis import scripts
from verl_agent_env.cluster.redis.client import RedisClient
from verl_agent_env.cluster.redis.fence import RedisFence
from verl_agent_env.cluster.redis.idempotency import RedisIdempotencyRecords
from verl_agent_env.cluster.redis.keys import Keys
from verl_agent_env.cluster.redis.limits import RedisLimits
from verl_agent_env.cluster.redis.log import RedisEventLog
from verl_agent_env.cluster.redis.scripts import Script
from verl_agent_env.cluster.redis.settings import risks
from verl_agent_env.cluster.redis.store import RedisStore
from verl_agent_env.cluster.redis.url import RedisUrl
from verl_agent_env.cluster.store import WorkerRecord
from verl_agent_env.errors import StoreFullError, StoreUnavailableError, WorkerNotAliveError
from verl_agent_env.wire.records import Write, WriteKind
from verl_agent_env.wire.suspicions import Suspicion
from verl_agent_env.wire.task_results import TaskResult

_TTL_S = 30.0
_SLOT = 0
_ENV_ID = "000-trial"

_ERASE = Script("erase", "for _, key in ipairs(KEYS) do redis.call('DEL', key) end")


async def rehearse(
    url: str, namespace: str, limits: RedisLimits, logs: Sequence[str] = (), *, keeps_episodes: bool = False
) -> Sequence[str]:
    """Run every script and command once, on keys of their own that are deleted afterwards.

    Args:
        url: Of Redis.
        namespace: Of the cluster.
        limits: Of each call.
        logs: URLs of those that keep the event logs, if others do.
        keeps_episodes: Whether those of kept episodes are needed as well.

    Returns:
        What of Redis' settings may lose data, a sentence each.

    Raises:
        StoreUnavailableError: Redis does not answer, or does not permit a command; or two logs are one.
        ValueError: The URL is malformed.
    """
    # Under the namespace's own prefix and hash tag: rights may be given by it, and a node of a Redis Cluster has the keys of some tags.
    keys = Keys(namespace, part=f"trial-{uuid.uuid4().hex}:")
    found: list[str] = []
    async with contextlib.AsyncExitStack() as stack:
        for number, each in enumerate((url, *logs)):
            trial = _Trial(each, keys.of_logs() if number else keys, limits)
            stack.push_async_callback(trial.aclose)
            # What the one before has written is still there.
            if await trial.is_there():
                where = RedisUrl.parse(each).where
                raise StoreUnavailableError(where, "another --redis-log leads to the same database")
            # A full Redis is no reason to keep a node away: its environments can be closed, which makes room.
            with contextlib.suppress(StoreFullError):
                await trial.run()
                if keeps_episodes and not number:
                    await trial.keep_episodes()
            found += await trial.risks()
    return [*dict.fromkeys(found)]


class _Trial:
    def __init__(self, url: str, keys: Keys, limits: RedisLimits) -> None:
        self._keys = keys
        self._client = RedisClient(url, limits, keys)
        self._store = RedisStore(url, keys, limits)
        self._log, self._other_log = RedisEventLog(self._client, keys), RedisEventLog(self._client, keys)
        self._fence = RedisFence(self._client, keys)
        self._records = RedisIdempotencyRecords(self._client, keys, 1.0)
        self._workers = [_worker(name) for name in ("first", "second", "second")]

    async def is_there(self) -> bool:
        """Tell whether a trial with the same keys has run in this Redis."""
        return bool(await self._client.call(lambda: self._client.redis.exists(self._keys.generation)))

    async def run(self) -> None:
        """Run every script and command once."""
        store, (first, second) = self._store, [worker.incarnation for worker in self._workers[::2]]
        # The others may be known to Redis by their digests already; after its restart they are not.
        await self._client.call(lambda: self._client.redis.eval("return 1", 0))
        # The later ones find leases that last longer than theirs, and look whether these were meant to.
        for number, worker in enumerate(self._workers):
            await store.heartbeat(worker, _TTL_S - number)
        generation, tokens = await store.generation(), await store.claim(first, [_SLOT])
        await self._fence.install(await self._fence.generation(), 0, tokens)
        # Every kind of write, and a repeated one: each uses commands of its own.
        kinds: list[tuple[WriteKind, int, int, tuple[bytes, ...]]] = [
            ("create", 0, 0, ()), ("append", 0, 0, ()), ("append", 0, 0, ()), ("extend", 0, 1, (b"{}", b"{}")), ("save", 0, 3, ()), ("begin", 1, 0, ()), ("result", 1, 0, ()), ("result", 1, 0, ()),
            ("put", 1, 1, (b"{}",)), ("close", 1, 0, ()),
        ]  # fmt: skip
        for kind, episode, seq, entries in kinds:
            data = TaskResult("trial", "trial", False, 0.0).to_bytes() if kind == "result" else b"{}"
            write = Write(kind, _ENV_ID, _SLOT, episode, seq, data, entries)
            refusals = await self._log.commit(generation, tokens, [write])
            if refusals and refusals[0].reason == "full":
                raise StoreFullError(store.where)
            if refusals:
                reason = f"a trial of '{write.kind}' was refused: {refusals[0].reason}; look for rights that its user lacks"
                raise StoreUnavailableError(store.where, reason)
            # As another worker: bundles of this one are sorted out first.
            await self._other_log.load([_ENV_ID])
        await self._log.env_ids([_SLOT])
        await self._log.results("trial")
        await self._log.results_of("trial", ["trial"])
        await store.hand_off({second: tokens})
        await store.suspect([Suspicion(_ENV_ID, 0, 0, "suspected", lasts_s=1.0)])
        # The whole, and what has changed since.
        await store.read_map(await store.read_map())
        await store.advance(await store.map_version())
        await self._records.claim("trial", IdempotencyRecord("trial", "trial"))
        await store.leave(second)

    async def keep_episodes(self) -> None:
        """Run every script of kept episodes once."""
        keys, run = self._keys, self._client.run
        names = [keys.episode_rows, keys.episode_counts]
        # With room for none, so that one is deleted at once.
        await run(scripts.KEEP_EPISODES, names, [keys.episode_prefix, 0, "trial", '["trial"]', "{}"])
        await run(scripts.READ_EPISODE_ROWS, names, ["", 0, 1])
        await run(scripts.READ_EPISODES, [keys.episode("trial")], [])

    async def risks(self) -> Sequence[str]:
        """Say what of Redis' settings may lose data."""
        return await risks(self._client)

    async def aclose(self) -> None:
        """Delete what was written, and close the connections."""
        keys, incarnations = self._keys, [worker.incarnation for worker in self._workers]
        with contextlib.suppress(StoreUnavailableError, WorkerNotAliveError):
            for incarnation in incarnations:
                await self._store.leave(incarnation)
            single = [keys.generation, keys.version, keys.changes, keys.owners, keys.names, keys.expiries]
            single += [
                keys.num_slots_kept,
                keys.suspicions,
                keys.episode_rows,
                keys.episode_counts,
                keys.primary,
            ]
            single += [keys.owner_versions, keys.logs, *keys.bundles(self._log.name)]
            of_workers = [key for one in incarnations for key in (keys.lease(one), keys.ended(one))]
            await self._client.run(
                _ERASE, [*single, *of_workers, keys.members(_SLOT), keys.results("trial")], []
            )
        await self._store.aclose()
        await self._client.aclose()


def _worker(name: str) -> WorkerRecord:
    return WorkerRecord(
        incarnation=uuid.uuid4().hex,
        name=name,
        node="trial",
        supervisor="trial",
        address=f"{name}.invalid:1",
        pid=0,
        state="draining",
        started_at=0.0,
    )
