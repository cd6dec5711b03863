"""Kept episodes in the memory of the process."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from verl_agent_env.wire.episode_rows import EpisodeRows, RunSummary
from verl_agent_env.wire.episode_store import Scope
from verl_agent_env.wire.episodes import EpisodeRow, KeptEpisode

_AT_ONCE = 64
"""Episodes whose rows are made before other work has its turn."""
_QUIET_S = 1.0
"""When no episode has come for so long, the rows of those that came are made: between the batches of a trainer."""


class MemoryEpisodes:
    """:class:`~verl_agent_env.wire.episode_store.EpisodeStore` of one process, gone with it.

    Rows are made when somebody reads, or when no more episodes come: until then, to keep an episode is to keep a reference to it.
    """

    def __init__(self, max_bytes: int, quiet_s: float = _QUIET_S) -> None:
        """Keep nothing yet.

        Args:
            max_bytes: Bytes that all episodes may take, the oldest being deleted for new ones.
            quiet_s: Seconds without a new episode until rows are made that nobody has asked for.
        """
        self._quiet_s = quiet_s
        self.scope: Scope = "worker"
        self.dropped = 0
        self._max_bytes = max_bytes
        self._size = 0
        self._episodes: dict[str, KeptEpisode] = {}
        self._rows = EpisodeRows()
        self._new: deque[KeptEpisode] = deque()
        """Episodes without a row, all later than those with one."""

    @property
    def num_rows(self) -> int:
        """Number of episodes whose rows are made."""
        return len(self._episodes)

    def add(self, episode: KeptEpisode) -> None:
        """Implement :meth:`EpisodeStore.add`."""
        if episode.size > self._max_bytes:
            self.dropped += 1
            return
        self._new.append(episode)
        self._size += episode.size
        while self._size > self._max_bytes:
            if self._episodes:
                # Oldest first: dictionaries keep the order of insertion.
                self._remove(next(iter(self._episodes)))
            else:
                self._size -= self._new.popleft().size

    def _remove(self, episode_id: str) -> None:
        episode = self._episodes.pop(episode_id, None)
        if episode is not None:
            self._rows.remove(episode_id)
            self._size -= episode.size

    async def _make_rows(self) -> None:
        """Make the rows of all episodes that are new now."""
        left = len(self._new)
        while self._new and left > 0:
            for _ in range(min(_AT_ONCE, len(self._new))):
                episode = self._new.popleft()
                self._remove(episode.row.id)
                self._episodes[episode.row.id] = episode
                self._rows.add(episode.row)
            left -= _AT_ONCE
            await asyncio.sleep(0)

    async def rows(self) -> Sequence[EpisodeRow]:
        """Implement :meth:`EpisodeStore.rows`."""
        await self._make_rows()
        return self._rows.rows()

    async def runs(self, tag: str | None) -> list[RunSummary]:
        """Implement :meth:`EpisodeStore.runs`."""
        await self._make_rows()
        return self._rows.runs(tag)

    async def documents(self, ids: Sequence[str]) -> list[bytes | None]:
        """Implement :meth:`EpisodeStore.documents`."""
        await self._make_rows()
        found = [self._episodes.get(episode_id) for episode_id in ids]
        return [None if episode is None else episode.to_json() for episode in found]

    async def run(self) -> None:
        """Implement :meth:`EpisodeStore.run`: make rows in quiet times, so that who reads need not wait for them."""
        last: KeptEpisode | None = None
        while True:
            await asyncio.sleep(self._quiet_s)
            before, last = last, self._new[-1] if self._new else None
            if last is not None and last is before:
                await self._make_rows()

    async def flush(self) -> None:
        """Implement :meth:`EpisodeStore.flush`."""

    async def aclose(self) -> None:
        """Implement :meth:`EpisodeStore.aclose`."""
