"""Kept episodes in files of a directory, as JSON lines."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import orjson

from verl_agent_env.errors import StoreUnavailableError
from verl_agent_env.wire.episode_queue import EpisodeQueue
from verl_agent_env.wire.episode_store import Scope
from verl_agent_env.wire.episodes import EpisodeRow, KeptEpisode

ROWS_SUFFIX = ".rows.jsonl"
EPISODES_SUFFIX = ".episodes.jsonl"


class _Place(NamedTuple):
    """Position of an episode in a file."""

    path: Path
    first: int
    length: int


class FolderEpisodes(EpisodeQueue):
    """:class:`~verl_agent_env.wire.episode_store.EpisodeStore` in a directory, which other processes may share.

    Each process writes two files of its own: the episodes, a line each, and their rows with the positions of the lines, from
    which all processes read what there is. Nothing is deleted; of files that somebody takes away, the episodes are gone.
    """

    def __init__(self, folder: Path, max_waiting_bytes: int) -> None:
        """Read and write nothing yet.

        Args:
            folder: The directory; it is made if it does not exist.
            max_waiting_bytes: Bytes of episodes that wait to be written.

        Raises:
            ValueError: The directory cannot be made, or nothing can be written into it.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as refused:
            raise ValueError(
                f"the directory {folder} for episodes cannot be made: {refused.strerror}"
            ) from None
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ValueError(f"nothing can be written into the directory {folder} for episodes")
        super().__init__(max_waiting_bytes)
        self.scope: Scope = "node"
        self._folder = folder
        self._name = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:8]}"
        self._files: tuple[BinaryIO, BinaryIO] | None = None
        self._read_to: dict[Path, int] = {}
        self._places: dict[str, _Place] = {}

    @contextlib.asynccontextmanager
    async def _up_to_date(self) -> AsyncIterator[None]:
        with contextlib.suppress(OSError):
            await self.flush()
        async with self._reading:
            try:
                await asyncio.to_thread(self._read_new)
            except OSError as refused:
                raise StoreUnavailableError(str(self._folder), refused.strerror or str(refused)) from refused
            yield

    async def documents(self, ids: Sequence[str]) -> list[bytes | None]:
        if any(episode_id not in self._places for episode_id in ids):
            await self.rows()
        places = [self._places.get(episode_id) for episode_id in ids]
        return await asyncio.to_thread(lambda: [None if at is None else _read(at) for at in places])

    async def aclose(self) -> None:
        with contextlib.suppress(OSError):
            await self.flush()
        for file in self._files or ():
            file.close()
        self._files = None

    async def write(self, episodes: Sequence[KeptEpisode]) -> None:
        await asyncio.to_thread(self._append, episodes)

    def _append(self, episodes: Sequence[KeptEpisode]) -> None:
        if self._files is None:
            self._files = self._open(EPISODES_SUFFIX), self._open(ROWS_SUFFIX)
        contents, rows = self._files
        lines, index = [], []
        first = contents.tell()
        for episode in episodes:
            line = episode.to_json() + b"\n"
            index.append(orjson.dumps([*episode.row, first, len(line) - 1]) + b"\n")
            lines.append(line)
            first += len(line)
        # The rows last: whoever reads one finds its episode.
        for file, written in ((contents, lines), (rows, index)):
            file.write(b"".join(written))
            file.flush()

    def _open(self, suffix: str) -> BinaryIO:
        return (self._folder / (self._name + suffix)).open("ab")

    def _read_new(self) -> None:
        """Read the rows that were written since they were read last."""
        paths = sorted(self._folder.glob("*" + ROWS_SUFFIX))
        for path in self._read_to.keys() - set(paths):
            self._forget(path)
        for path in paths:
            first = self._read_to.get(path, 0)
            with path.open("rb") as file:
                file.seek(first)
                written = file.read()
            # The last line may not be whole yet.
            whole = written[: written.rfind(b"\n") + 1]
            contents = path.with_name(path.name.removesuffix(ROWS_SUFFIX) + EPISODES_SUFFIX)
            for line in whole.splitlines():
                *fields, start, length = orjson.loads(line)
                row = EpisodeRow(*fields)
                self._rows.add(row)
                self._places[row.id] = _Place(contents, start, length)
            self._read_to[path] = first + len(whole)

    def _forget(self, path: Path) -> None:
        """Forget the episodes of a file that is gone."""
        del self._read_to[path]
        contents = path.with_name(path.name.removesuffix(ROWS_SUFFIX) + EPISODES_SUFFIX)
        for episode_id in [key for key, place in self._places.items() if place.path == contents]:
            self._rows.remove(episode_id)
            del self._places[episode_id]


def _read(place: _Place) -> bytes | None:
    try:
        with place.path.open("rb") as file:
            file.seek(place.first)
            return file.read(place.length)
    except OSError:
        # Somebody took the file away.
        return None
