"""Several logs beside a store, as their owners write to them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from verl_agent_env.cluster.log_shards import Fence, JoinedLog
from verl_agent_env.cluster.store import Store
from verl_agent_env.errors import GenerationChangedError
from verl_agent_env.wire.event_log import EventLog, shard_of
from verl_agent_env.wire.records import Refusal, Write
from verl_agent_env.wire.task_results import TaskStatistics


class SeveralLogs(JoinedLog):
    """Logs that are read as one, and written as one by whoever was installed in all of them."""

    def __init__(self, logs: Sequence[tuple[EventLog, Fence]]) -> None:
        super().__init__([log for log, _ in logs])
        self._parts = logs
        self._generations: dict[str, list[str]] = {}
        """Data sets of the logs, by that of the store."""
        self._store: Store | None = None

    async def install(self, store: Store, tokens: Mapping[int, str]) -> None:
        """Install the tokens that the store gave out, as of its present map."""
        cluster, self._store = await store.read_map(), store
        generations = self._generations.setdefault(cluster.generation, [])
        for number, (_, fence) in enumerate(self._parts):
            mine = {
                slot: token for slot, token in tokens.items() if shard_of(slot, len(self._parts)) == number
            }
            generations.append(await fence.generation())
            await fence.install(generations[number], cluster.version, mine)

    async def commit(
        self, generation: str, tokens: Mapping[int, str], writes: Sequence[Write]
    ) -> list[Refusal]:
        """Implement :meth:`EventLog.commit` under the tokens of the store."""
        refusals = []
        for number, (log, _) in enumerate(self._parts):
            positions = [
                at for at, write in enumerate(writes) if shard_of(write.slot, len(self._parts)) == number
            ]
            if not positions:
                continue
            known = self._generations.get(generation) or [""] * len(self._parts)
            try:
                refused = await log.commit(known[number], tokens, [writes[at] for at in positions])
            except GenerationChangedError:
                found = "" if self._store is None else await self._store.generation()
                raise GenerationChangedError(generation, found) from None
            refusals += [Refusal(positions[refusal.position], refusal.reason) for refusal in refused]
        return sorted(refusals)

    def _shard(self, env_id: str) -> int:
        # These tests' ids are shorter than others.
        return shard_of(int(env_id[:3], 16), len(self._parts))

    async def results_of(self, run: str, tasks: Sequence[str]) -> list[TaskStatistics]:
        """Implement :meth:`EventLog.results_of`."""
        return [one for log, _ in self._parts for one in await log.results_of(run, tasks)]
