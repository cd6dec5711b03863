"""Kept episodes in Redis, shared by the workers of a cluster."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

import orjson

from verl_agent_env.cluster.redis import scripts
from verl_agent_env.cluster.redis.client import RedisClient
from verl_agent_env.cluster.redis.keys import Keys
from verl_agent_env.errors import StoreUnavailableError
from verl_agent_env.wire.episode_queue import EpisodeQueue
from verl_agent_env.wire.episode_store import Scope
from verl_agent_env.wire.episodes import EpisodeRow, KeptEpisode

_ROWS_AT_ONCE = 4096


class RedisEpisodes(EpisodeQueue):
    """:class:`~verl_agent_env.wire.episode_store.EpisodeStore` in Redis 6.2 or later.

    The rows are a list, of which each worker reads what has been added since it looked last; each episode is a string.
    """

    def __init__(self, client: RedisClient, keys: Keys, max_bytes: int) -> None:
        """Read and write nothing yet.

        Args:
            client: A client of its own, because a cancelled call closes its connection.
            keys: Names of the Redis keys.
            max_bytes: Bytes of episodes in Redis, the oldest being deleted for new ones; and of those that wait to be
                written.
        """
        super().__init__(max_bytes)
        self.scope: Scope = "cluster"
        self._client = client
        self._keys = keys
        self._max_bytes = max_bytes
        self._origin = ""
        """Id of the list: another one begins when Redis was emptied."""
        self._read_from, self._read_to = 0, 0
        """Numbers of the rows that were read, counted from the first one ever."""

    @contextlib.asynccontextmanager
    async def _up_to_date(self) -> AsyncIterator[None]:
        await self.flush()
        async with self._reading:
            while await self._read_more():
                pass
            yield

    async def documents(self, ids: Sequence[str]) -> list[bytes | None]:
        keys = [self._keys.episode(episode_id) for episode_id in ids]
        found = await self._client.run(scripts.READ_EPISODES, keys, [])
        return [None if text is None else text.encode() for text in found]

    async def aclose(self) -> None:
        with contextlib.suppress(StoreUnavailableError):
            await self.flush()
        await self._client.aclose()

    async def write(self, episodes: Sequence[KeptEpisode]) -> None:
        arguments: list[str | bytes | int] = [self._keys.episode_prefix, self._max_bytes]
        for episode in episodes:
            arguments += (episode.row.id, orjson.dumps([*episode.row]), episode.to_json())
        await self._client.run(
            scripts.KEEP_EPISODES, [self._keys.episode_rows, self._keys.episode_counts], arguments
        )

    async def _read_more(self) -> bool:
        """Read some rows that were added; tells whether there are more. Those that were deleted are forgotten."""
        origin, first, written = await self._client.run(
            scripts.READ_EPISODE_ROWS,
            [self._keys.episode_rows, self._keys.episode_counts],
            [self._origin, self._read_to, _ROWS_AT_ONCE],
        )
        if origin != self._origin:
            self._rows.clear()
            self._origin, self._read_from, self._read_to = origin, first, first
        self._rows.remove_first(first - self._read_from)
        self._read_from = max(first, self._read_from)
        self._read_to = max(first, self._read_to)
        for text in written:
            self._rows.add(EpisodeRow(*orjson.loads(text)))
        self._read_to += len(written)
        return len(written) == _ROWS_AT_ONCE
