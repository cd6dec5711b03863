"""The event log in Redis, beside the :class:`~verl_agent_env.cluster.redis.store.RedisStore`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from verl_agent_env.cluster.redis import log_scripts as scripts
from verl_agent_env.cluster.redis.client import RedisClient
from verl_agent_env.cluster.redis.keys import Keys
from verl_agent_env.errors import GenerationChangedError
from verl_agent_env.wire.event_log import CLOSED_MEMORY_S, ENOUGH_LOADED_BYTES, MAX_LOADED
from verl_agent_env.wire.records import Refusal, Saved, Write
from verl_agent_env.wire.task_results import TASKS_PER_PAGE, ResultPage, TaskStatistics

_CLOSED_MS = int(CLOSED_MEMORY_S * 1000)
# Redis blocks meanwhile; with a million environments, one call returns 16,000 ids.
_SLOTS_AT_ONCE = 64
_KINDS = {
    "create": "c",
    "append": "a",
    "extend": "x",
    "save": "s",
    "begin": "b",
    "close": "d",
    "put": "p",
    "result": "r",
}


class RedisEventLog:
    """:class:`~verl_agent_env.wire.event_log.EventLog` in Redis 6.2 or later."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    async def commit(
        self, generation: str, tokens: Mapping[int, str], writes: Sequence[Write]
    ) -> list[Refusal]:
        """Implement :meth:`EventLog.commit`."""
        held = set(tokens.values())
        arguments: list[Any] = [generation, self._keys.base, _CLOSED_MS, len(held), *held]
        for kind, env_id, _, episode, seq, data, entries in writes:
            arguments += (_KINDS[kind], env_id, episode, seq, data if kind != "extend" else len(entries))
            if kind == "put":
                arguments.append(len(entries))
            if entries:
                arguments += entries
        answer = await self._client.run(scripts.COMMIT, [self._keys.generation, self._keys.owners], arguments)
        if answer[0] == "generation":
            raise GenerationChangedError(generation, answer[1])
        return [Refusal(index, reason) for index, reason in zip(answer[1::2], answer[2::2], strict=True)]

    async def load(self, env_ids: Sequence[str], *, whole: bool = False) -> list[Saved]:
        """Implement :meth:`EventLog.load`."""
        if not env_ids:
            return []
        arguments = [ENOUGH_LOADED_BYTES, self._keys.base, "1" if whole else "", *env_ids[:MAX_LOADED]]
        return [*map(_saved, await self._client.run(scripts.LOAD, [self._keys.generation], arguments))]

    async def env_ids(self, slots: Sequence[int]) -> list[str]:
        """Implement :meth:`EventLog.env_ids`."""
        found: list[str] = []
        for start in range(0, len(slots), _SLOTS_AT_ONCE):
            keys = [self._keys.members(slot) for slot in slots[start : start + _SLOTS_AT_ONCE]]
            found += await self._client.run(scripts.MEMBERS, keys, [])
        return found

    async def results(self, run: str, cursor: str = "0") -> ResultPage:
        """Implement :meth:`EventLog.results`."""
        following, fields = await self._client.run(
            scripts.RESULTS, [self._keys.results(run)], [cursor, TASKS_PER_PAGE]
        )
        statistics = [_statistics(task, text) for task, text in zip(fields[::2], fields[1::2], strict=True)]
        return ResultPage(statistics, None if following == "0" else following)

    async def aclose(self) -> None:
        """Implement :meth:`EventLog.aclose`."""
        await self._client.aclose()


def _statistics(task: str, text: str) -> TaskStatistics:
    tries, successes, total_reward = text.split(" ")
    return TaskStatistics(task, int(tries), int(successes), float(total_reward))


def _saved(answer: Sequence[Any]) -> Saved:
    header, entries, snapshot, closed_as, first = answer
    return Saved(
        None if header is None else header.partition("\n")[2].encode(),
        [entry.encode() for entry in entries],
        None if snapshot is None else snapshot.partition("\n")[2].encode(),
        closed_as,
        first,
    )
