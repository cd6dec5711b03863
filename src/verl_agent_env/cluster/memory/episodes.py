"""Kept episodes in the memory of the process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from verl_agent_env.wire.episode_rows import EpisodeRows, RunSummary
from verl_agent_env.wire.episode_store import Scope
from verl_agent_env.wire.episodes import EpisodeRow, KeptEpisode

_OVERHEAD_BYTES = 1000
"""Memory of an episode beside what is written of it: its row, and its places in maps."""


class MemoryEpisodes:
    """:class:`~verl_agent_env.wire.episode_store.EpisodeStore` of one process, gone with it.

    Each episode is one piece of memory: thousands of small objects that stay would lie between those of the live environments,
    and calls would find these scattered.
    """

    def __init__(self, max_bytes: int) -> None:
        """Keep nothing yet.

        Args:
            max_bytes: Bytes that all episodes may take, the oldest being deleted for new ones.
        """
        self.scope: Scope = "worker"
        self.bring: Callable[[], Awaitable[None]] | None = None
        self.dropped = 0
        self._max_bytes = max_bytes
        self._size = 0
        self._episodes: dict[str, bytes] = {}
        self._rows = EpisodeRows()

    def add(self, episode: KeptEpisode) -> None:
        try:
            written, row = episode.to_bytes(), episode.row
        except (TypeError, OverflowError):
            # Its keyword arguments are none that JSON could hold.
            self.dropped += 1
            return
        if len(written) + _OVERHEAD_BYTES > self._max_bytes:
            self.dropped += 1
            return
        self._place(row, written)
        while self._size > self._max_bytes:
            # Oldest first: dictionaries keep the order of insertion.
            self._remove(next(iter(self._episodes)))

    def _place(self, row: EpisodeRow, written: bytes) -> None:
        self._remove(row.id)
        self._episodes[row.id] = written
        self._rows.add(row)
        self._size += len(written) + _OVERHEAD_BYTES

    def _remove(self, episode_id: str) -> None:
        written = self._episodes.pop(episode_id, None)
        if written is not None:
            self._rows.remove(episode_id)
            self._size -= len(written) + _OVERHEAD_BYTES

    async def rows(self) -> Sequence[EpisodeRow]:
        await self._bring()
        return self._rows.rows()

    async def runs(self, tag: str | None) -> list[RunSummary]:
        await self._bring()
        return self._rows.runs(tag)

    async def documents(self, ids: Sequence[str]) -> list[bytes | None]:
        await self._bring()
        return [self._document(episode_id) for episode_id in ids]

    async def _bring(self) -> None:
        if self.bring is not None:
            await self.bring()

    def _document(self, episode_id: str) -> bytes | None:
        written = self._episodes.get(episode_id)
        return None if written is None else KeptEpisode.from_bytes(written).to_json(self._rows.of(episode_id))

    async def run(self) -> None:
        """Implement :meth:`EpisodeStore.run`: there is nothing to do."""
        await asyncio.Event().wait()

    async def flush(self) -> None:
        """Implement :meth:`EpisodeStore.flush`."""

    async def aclose(self) -> None:
        """Implement :meth:`EpisodeStore.aclose`."""
