"""The journals of several logs, each of which has a part of the slots: what stops one of them stops no other."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from verl_agent_env import background
from verl_agent_env.engine.group_commit.groups import Group
from verl_agent_env.engine.persistence.journal import Journal
from verl_agent_env.errors import VerlAgentEnvError
from verl_agent_env.types import slot_of
from verl_agent_env.wire.event_log import shard_of
from verl_agent_env.wire.records import Write

T = TypeVar("T")


class ShardedJournal:
    """One :class:`~verl_agent_env.engine.persistence.journal.Journal` for each log, used as one."""

    def __init__(self, parts: Sequence[Journal]) -> None:
        """Join journals, in the order of their shards."""
        self.parts = parts

    def of(self, slot: int) -> Journal:
        """Return the journal that writes a slot."""
        return self.parts[shard_of(slot, len(self.parts))]

    def write(self, write: Write) -> Group:
        return self.of(write.slot).write(write)

    def repersist(self, env_ids: Iterable[str]) -> None:
        for env_id in env_ids:
            self.of(slot_of(env_id)).repersist([env_id])

    async def settle_all(
        self, waiting: Mapping[Group, Sequence[tuple[int, str]]]
    ) -> dict[int, VerlAgentEnvError]:
        waiting_at: dict[Journal, dict[Group, Sequence[tuple[int, str]]]] = {}
        for group, items in waiting.items():
            # All of a group is of one journal.
            waiting_at.setdefault(self.of(slot_of(items[0][1])), {})[group] = items
        errors: dict[int, VerlAgentEnvError] = {}
        for found in await all_of([part.settle_all(groups) for part, groups in waiting_at.items()]):
            errors |= found
        return errors

    async def flush(self, slots: Collection[int] | None = None, *, patience_s: float | None = None) -> None:
        """Implement :meth:`Journal.flush`; what one log does not take keeps no other from being written."""
        await all_of([part.flush(slots, patience_s=patience_s) for part in self.parts])

    def slots_pending(self) -> set[int]:
        return set().union(*(part.slots_pending() for part in self.parts))

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for part in self.parts:
                tasks.create_task(background.keep_running("journal", part.run))


async def all_of(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Carry out calls side by side, all of them to their end.

    Raises:
        Exception: What the first of those raised that failed.
    """
    results = await asyncio.gather(*calls, return_exceptions=True)
    failure = next((result for result in results if isinstance(result, BaseException)), None)
    if failure is not None:
        raise failure
    return [result for result in results if not isinstance(result, BaseException)]
