"""The event log: the history of live environments, which outlives their workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from verl_agent_env.wire.records import Refusal, Saved, Write
from verl_agent_env.wire.task_results import ResultPage, TaskStatistics

MAX_LOADED = 256
"""Largest number of environments in one call of :meth:`EventLog.load`."""
ENOUGH_LOADED_BYTES = 1 << 20
"""Bytes after which one call loads no further environment, because the store is blocked meanwhile."""
CLOSED_MEMORY_S = 600.0
"""Seconds for which it is known that an environment was closed."""


def shard_of(slot: int, count: int) -> int:
    """Return the number of the log, of ``count``, in which the environments of a slot are."""
    return slot % count


class HistoryReader(Protocol):
    """The history of environments, to be read; it may be kept in several logs.

    Raises:
        StoreUnavailableError: From any call.
    """

    async def load(self, env_ids: Sequence[str], *, whole: bool = False) -> list[Saved]:
        """Load the histories of the first of these environments: as many as fit into one call, at least one.

        Args:
            env_ids: The environments.
            whole: Load whole histories, instead of only the part from the snapshot on.
        """

    async def env_ids(self, slots: Sequence[int]) -> list[str]:
        """Return the environments in these slots that have a history."""

    async def results(self, run: str, cursor: str = "0") -> ResultPage:
        """Return the statistics of some tasks of a run, of the key ``run``.

        Args:
            run: Key of the run.
            cursor: That of the page before, a number; ``0`` for the first. Of a task on two pages the later one counts.
        """

    async def aclose(self) -> None:
        """Close connections; nothing can be read afterwards."""


class EventLog(HistoryReader, Protocol):
    """The history of environments. Only the owner of a slot, as its token proves, may write for environments in it.

    Writes are idempotent, even much later: one whose answer was lost may be sent again, and a late copy has no effect.

    Raises:
        StoreUnavailableError: From any call; whether a write took effect is then unknown.
    """

    async def commit(
        self, generation: str, tokens: Mapping[int, str], writes: Sequence[Write]
    ) -> list[Refusal]:
        """Apply writes in order, each of them atomically.

        Args:
            generation: Data set to which the tokens belong.
            tokens: Tokens of all slots in ``writes``, and maybe of others; never changed, but replaced by another mapping.
            writes: The writes.

        Returns:
            The writes that were refused.

        Raises:
            GenerationChangedError: The store was emptied; nothing was written.
        """

    async def results_of(self, run: str, tasks: Sequence[str]) -> list[TaskStatistics]:
        """Return the statistics of those of these tasks of a run that there are."""
