"""The store of kept episodes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, Protocol, TypeAlias

from verl_agent_env.wire.episode_rows import RunSummary
from verl_agent_env.wire.episodes import EpisodeRow, KeptEpisode

Scope: TypeAlias = Literal["worker", "node", "cluster"]


class EpisodeStore(Protocol):
    """Episodes that are over, the oldest of which are deleted when there is no room.

    Raises:
        StoreUnavailableError: From any call that reads.
    """

    bring: Callable[[], Awaitable[None]] | None
    """Adds episodes that are over and were not added yet: awaited before somebody lists them."""

    @property
    def scope(self) -> Scope:
        """Part of the cluster whose episodes are in it: this worker, the workers of its node, or all."""

    @property
    def dropped(self) -> int:
        """Number of episodes that this process could not keep: too large, or the store took too long."""

    def add(self, episode: KeptEpisode) -> None:
        """Keep an episode; returns at once and never fails, because no step waits for it."""

    async def rows(self) -> Sequence[EpisodeRow]:
        """Return the rows of all episodes, in any order."""

    async def runs(self, tag: str | None) -> list[RunSummary]:
        """Return the sums of all episodes by run, which are to be read alone; with a ``tag``, of those of its holder."""

    async def documents(self, ids: Sequence[str]) -> list[bytes | None]:
        """Return episodes as JSON (:meth:`KeptEpisode.to_json`), in order; None for those that are not there."""

    async def run(self) -> None:
        """Write what was added, until cancelled."""

    async def flush(self) -> None:
        """Write what was added."""

    async def aclose(self) -> None:
        """Write what was added, as far as possible, and free all connections and files."""
