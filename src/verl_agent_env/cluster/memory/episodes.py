"""Kept episodes in the memory of the process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from verl_agent_env.wire.episode_rows import EpisodeRows, RunSummary
from verl_agent_env.wire.episode_store import Scope
from verl_agent_env.wire.episodes import EpisodeRow, KeptEpisode


class MemoryEpisodes:
    """:class:`~verl_agent_env.wire.episode_store.EpisodeStore` of one process, gone with it."""

    def __init__(self, max_bytes: int) -> None:
        """Keep nothing yet.

        Args:
            max_bytes: Bytes that all episodes may take, the oldest being deleted for new ones.
        """
        self.scope: Scope = "worker"
        self.dropped = 0
        self._max_bytes = max_bytes
        self._size = 0
        self._episodes: dict[str, KeptEpisode] = {}
        self._rows = EpisodeRows()

    def add(self, episode: KeptEpisode) -> None:
        """Implement :meth:`EpisodeStore.add`."""
        size = episode.size
        if size > self._max_bytes:
            self.dropped += 1
            return
        self._remove(episode.row.id)
        self._episodes[episode.row.id] = episode
        self._rows.add(episode.row)
        self._size += size
        while self._size > self._max_bytes:
            # Oldest first: dictionaries keep the order of insertion.
            self._remove(next(iter(self._episodes)))

    def _remove(self, episode_id: str) -> None:
        episode = self._episodes.pop(episode_id, None)
        if episode is not None:
            self._rows.remove(episode_id)
            self._size -= episode.size

    async def rows(self) -> Sequence[EpisodeRow]:
        """Implement :meth:`EpisodeStore.rows`."""
        return self._rows.rows()

    async def runs(self, tag: str | None) -> list[RunSummary]:
        """Implement :meth:`EpisodeStore.runs`."""
        return self._rows.runs(tag)

    async def documents(self, ids: Sequence[str]) -> list[bytes | None]:
        """Implement :meth:`EpisodeStore.documents`."""
        found = [self._episodes.get(episode_id) for episode_id in ids]
        return [None if episode is None else episode.to_json() for episode in found]

    async def run(self) -> None:
        """Implement :meth:`EpisodeStore.run`: nothing has to be written."""
        await asyncio.Event().wait()

    async def flush(self) -> None:
        """Implement :meth:`EpisodeStore.flush`."""

    async def aclose(self) -> None:
        """Implement :meth:`EpisodeStore.aclose`."""
