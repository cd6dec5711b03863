"""Several event logs beside one store: each has a part of the slots, and knows itself who may write to them.

The store says who owns a slot. Before a new owner reads or writes the slot's log, the owner **installs** a token there, with the
version of a map in which the slot has this owner. A log takes an installation unless there is one of a later version, and from
then on refuses every other token. Versions of the map follow the order of ownership, so an installation that was held up undoes
none that came after it. An owner that goes on with an earlier token says since when: if another owner has installed one since,
nothing is installed, and each of the owner's calls returns that other token.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from verl_agent_env.types import slot_of
from verl_agent_env.wire.event_log import EventLog, shard_of
from verl_agent_env.wire.records import Saved
from verl_agent_env.wire.task_results import ResultPage


class Installation(NamedTuple):
    """A token in a log, and the version of the map under which it was installed."""

    token: str
    version: int


NOT_BEFORE: Mapping[int, int] = {}
"""Of tokens that are new."""


class Fence(Protocol):
    """The tokens of one log, under which alone is written to its slots.

    Raises:
        StoreUnavailableError: From any call; whether it took effect is then unknown.
    """

    @property
    def where(self) -> str:
        """Address of the log, for messages."""

    async def generation(self) -> str:
        """Return the id of the log's data set, which the first call creates."""

    async def install(
        self,
        generation: str,
        version: int,
        tokens: Mapping[int, str],
        since: Mapping[int, int] = NOT_BEFORE,
    ) -> dict[int, Installation]:
        """Install the tokens of slots, but for slots that have one of a later version.

        Who goes on with a token that it has installed before says since when. If somebody else has installed another one since,
        that one stays: the caller finds it there again, should the answer get lost.

        Args:
            generation: The data set that is meant.
            version: Of a map in which the caller owns these slots.
            tokens: By slot.
            since: By slot, the version under which the caller installed the same token last.

        Returns:
            What each slot had before; version 0 where there was nothing.

        Raises:
            GenerationChangedError: The data set is another one; nothing was installed.
        """

    async def aclose(self) -> None:
        """Close connections; the fence cannot be used afterwards."""


@dataclass(frozen=True)
class FencedLog:
    """A log, and what says who may write to it."""

    log: EventLog
    fence: Fence | None = None
    """None where the store itself says it: it keeps the log, too."""


class JoinedLog:
    """Several logs, read as one: :class:`~verl_agent_env.wire.event_log.HistoryReader`."""

    def __init__(self, logs: Sequence[EventLog]) -> None:
        """Join logs, in the order of their shards."""
        self._logs = logs

    async def load(self, env_ids: Sequence[str], *, whole: bool = False) -> list[Saved]:
        """Implement :meth:`HistoryReader.load`: of those that come first and are in one log."""
        if not env_ids:
            return []
        shard = self._shard(env_ids[0])
        first = itertools.takewhile(lambda env_id: self._shard(env_id) == shard, env_ids)
        return await self._logs[shard].load([*first], whole=whole)

    async def env_ids(self, slots: Sequence[int]) -> list[str]:
        asked: dict[int, list[int]] = {}
        for slot in slots:
            asked.setdefault(shard_of(slot, len(self._logs)), []).append(slot)
        found = await asyncio.gather(*(self._logs[shard].env_ids(part) for shard, part in asked.items()))
        return [env_id for part in found for env_id in part]

    async def results(self, run: str, cursor: str = "0") -> ResultPage:
        """Implement :meth:`HistoryReader.results`: the tasks of one log after the other, each with its results in all logs."""
        logs = self._logs
        place, shard = divmod(int(cursor), len(logs))
        page = await logs[shard].results(run, str(place))
        tasks = [each.task for each in page.statistics]
        others = (log for number, log in enumerate(logs) if number != shard)
        found = {each.task: each for each in page.statistics}
        for part in await asyncio.gather(*(log.results_of(run, tasks) for log in others if tasks)):
            found |= {each.task: found[each.task].joined(each) for each in part}
        statistics = list(found.values())
        if page.next_cursor is not None:
            return ResultPage(statistics, str(int(page.next_cursor) * len(logs) + shard))
        return ResultPage(statistics, str(shard + 1) if shard + 1 < len(logs) else None)

    async def aclose(self) -> None:
        for log in self._logs:
            await log.aclose()

    def _shard(self, env_id: str) -> int:
        return shard_of(slot_of(env_id), len(self._logs))
