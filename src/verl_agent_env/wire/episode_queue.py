"""Kept episodes that wait to be written, and rows of those that were: what stores that write in the background have in common."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager

from verl_agent_env.errors import StoreUnavailableError
from verl_agent_env.wire.episode_rows import EpisodeRows, RunSummary
from verl_agent_env.wire.episodes import EpisodeRow, KeptEpisode

logger = logging.getLogger(__name__)

_AT_ONCE = 64
"""Episodes that are written together."""
_PAUSE_S = 0.1
"""Between two writes, so that episodes come together."""
_RETRY_S = 1.0


class EpisodeQueue(ABC):
    """Episodes that wait to be written in the background; beyond a number of bytes the oldest are dropped.

    Of what was written, by any process, it has the rows that were read so far. Base class of stores of episodes
    (:class:`~verl_agent_env.wire.episode_store.EpisodeStore`).
    """

    def __init__(self, max_waiting_bytes: int) -> None:
        """Hold nothing yet.

        Args:
            max_waiting_bytes: Bytes of memory that waiting episodes may take.
        """
        self.bring: Callable[[], Awaitable[None]] | None = None
        self.dropped = 0
        """Episodes that were dropped."""
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting: deque[KeptEpisode] = deque()
        self._size = 0
        self._has_some = asyncio.Event()
        self._writing = asyncio.Lock()
        self._reading = asyncio.Lock()
        self._rows = EpisodeRows()

    @abstractmethod
    async def write(self, episodes: Sequence[KeptEpisode]) -> None:
        """Write episodes; one that was written already is left as it is.

        Raises:
            StoreUnavailableError, OSError: They cannot be written.
        """

    @abstractmethod
    def _up_to_date(self) -> AbstractAsyncContextManager[None]:
        """Hold the rows still, after those were read that have been written by now.

        Raises:
            StoreUnavailableError: They cannot be read.
        """

    async def rows(self) -> Sequence[EpisodeRow]:
        await self._bring()
        async with self._up_to_date():
            return self._rows.rows()

    async def runs(self, tag: str | None) -> list[RunSummary]:
        await self._bring()
        async with self._up_to_date():
            return self._rows.runs(tag)

    async def _bring(self) -> None:
        if self.bring is not None:
            await self.bring()

    def add(self, episode: KeptEpisode) -> None:
        """Have an episode written soon."""
        self._waiting.append(episode)
        self._size += episode.size
        self._has_some.set()
        while self._size > self._max_waiting_bytes:
            self._size -= self._waiting.popleft().size
            self.dropped += 1

    async def run(self) -> None:
        """Write what comes, until cancelled."""
        while True:
            await self._has_some.wait()
            try:
                await self.flush()
            except (StoreUnavailableError, OSError):
                logger.warning("writing kept episodes failed; retrying", exc_info=True)
                await asyncio.sleep(_RETRY_S)
            await asyncio.sleep(_PAUSE_S)

    async def flush(self) -> None:
        """Write all that waits.

        Raises:
            StoreUnavailableError, OSError: It cannot be written; it goes on waiting.
        """
        async with self._writing:
            while self._waiting:
                some = [self._waiting[index] for index in range(min(_AT_ONCE, len(self._waiting)))]
                await self.write(some)
                for episode in some:
                    # What was dropped meanwhile is gone already.
                    if self._waiting and self._waiting[0] is episode:
                        self._waiting.popleft()
                        self._size -= episode.size
            self._has_some.clear()
