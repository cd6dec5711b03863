"""The event log in Redis, beside the :class:`~verl_agent_env.cluster.redis.store.RedisStore`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from verl_agent_env.cluster.redis import log_scripts as scripts
from verl_agent_env.cluster.redis.bundles import Bundle, BundledSteps
from verl_agent_env.cluster.redis.client import RedisClient
from verl_agent_env.cluster.redis.keys import Keys
from verl_agent_env.errors import GenerationChangedError, StoreUnavailableError
from verl_agent_env.wire.event_log import CLOSED_MEMORY_S, ENOUGH_LOADED_BYTES, MAX_LOADED
from verl_agent_env.wire.records import Refusal, Saved, Write
from verl_agent_env.wire.task_results import TASKS_PER_PAGE, ResultPage, TaskStatistics

_CLOSED_MS = int(CLOSED_MEMORY_S * 1000)
# Redis blocks meanwhile; with a million environments, one call returns 16,000 ids.
_SLOTS_AT_ONCE = 64
_SORTED_STEPS, _SORTED_BYTES = 8192, 2 * 1024 * 1024
"""After which one call of Redis sorts out no further bundle, because others wait meanwhile."""
_LOOK_S = 1.0
"""How often it is looked whether all workers can read bundles, while one cannot."""
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
        self._bundled = BundledSteps()
        self._map: str | None = None
        """Version of the map in which all workers sort out bundles before they read."""
        self._tokens: Mapping[int, str] = {}
        self._held: Collection[str] = ()
        """The different ones among these tokens: a worker has thousands of slots, and few tokens."""
        self._look_at = 0.0
        """When to look again whether they do, by :func:`time.monotonic`."""

    @property
    def name(self) -> str:
        """Name of this writer, under which its bundles are kept."""
        return self._bundled.name

    async def commit(
        self, generation: str, tokens: Mapping[int, str], writes: Sequence[Write]
    ) -> list[Refusal]:
        known = self._bundled
        try:
            if known.has_many:
                await self._sort_out(known.name, known.newest_half)
            bundle = await self._bundle_of(tokens, writes)
            if bundle is not None and bundle.entries:
                answer = await self._make(generation, tokens, writes, bundle)
                if answer[0] == "ok":
                    return self._taken(tokens, writes, bundle, answer)
                self._note_untaken(bundle, answer[1])
            if known.reads_bundled(writes):
                await self._sort_out(known.name)
            every = Bundle(others=list(range(len(writes))))
            return self._taken(tokens, writes, every, await self._make(generation, tokens, writes, every))
        except BaseException:
            known.doubt()
            raise

    async def load(self, env_ids: Sequence[str], *, whole: bool = False) -> list[Saved]:
        if not env_ids:
            return []
        env_ids = env_ids[:MAX_LOADED]
        if self._bundled.has_any_of(env_ids):
            await self._sort_out(self._bundled.name)
        sorted_out = [self._bundled.name]
        while True:
            arguments = [
                ENOUGH_LOADED_BYTES,
                self._keys.base,
                "1" if whole else "",
                " ".join(sorted_out),
                *env_ids,
            ]
            answer = await self._client.run(scripts.LOAD, [self._keys.generation], arguments)
            if answer[0] != "bundles":
                return [*map(_saved, answer)]
            sorted_out += await self._sort_out_all(answer[1:])

    async def env_ids(self, slots: Sequence[int]) -> list[str]:
        found: list[str] = []
        for start in range(0, len(slots), _SLOTS_AT_ONCE):
            keys = [self._keys.members(slot) for slot in slots[start : start + _SLOTS_AT_ONCE]]
            found += await self._client.run(scripts.MEMBERS, keys, [])
        return found

    async def results(self, run: str, cursor: str = "0") -> ResultPage:
        following, fields = await self._client.run(
            scripts.RESULTS, [self._keys.results(run)], [cursor, TASKS_PER_PAGE]
        )
        statistics = [_statistics(task, text) for task, text in zip(fields[::2], fields[1::2], strict=True)]
        return ResultPage(statistics, None if following == "0" else following)

    async def results_of(self, run: str, tasks: Sequence[str]) -> list[TaskStatistics]:
        found = await self._client.run(scripts.RESULTS_OF, [self._keys.results(run)], [*tasks])
        return [_statistics(task, text) for task, text in zip(tasks, found, strict=True) if text is not None]

    async def aclose(self) -> None:
        if not self._bundled.is_empty:
            # Whoever reads sorts them out. But a version without bundles may come next.
            with contextlib.suppress(StoreUnavailableError):
                await self._sort_out(self._bundled.name)
        await self._client.aclose()

    # --- steps that go together -----------------------------------------------------------------------------

    async def _bundle_of(self, tokens: Mapping[int, str], writes: Sequence[Write]) -> Bundle | None:
        """Bundle the steps among the writes, if all workers can read them so."""
        if self._bundled.number is None or not any(write.kind == "append" for write in writes):
            return None
        if self._map is None and time.monotonic() >= self._look_at:
            keys = self._keys
            version, can_all, logs = await self._client.run(
                scripts.READERS, [keys.version, keys.names], [keys.lease_prefix, keys.base]
            )
            if can_all:
                self._map = version
            else:
                # One of an earlier version has joined: what is there must be where it looks.
                await self._sort_out_all(logs)
                self._look_at = time.monotonic() + _LOOK_S
        return None if self._map is None else self._bundled.split(tokens, writes)

    async def _make(
        self, generation: str, tokens: Mapping[int, str], writes: Sequence[Write], bundle: Bundle
    ) -> Any:
        """Make writes, after bundles that they depend on were sorted out; returns what the script gives."""
        if tokens is not self._tokens:
            self._tokens, self._held = tokens, set(tokens.values())
        keys, held, known = self._keys, self._held, self._bundled
        steps, needed = bundle.to_bytes(), known.needed
        others: list[Any] = []
        for position in bundle.others:
            write = writes[position]
            kind, entries = write.kind, write.entries
            data = write.data if kind != "extend" else len(entries)
            others += (_KINDS[kind], write.env_id, write.episode, write.seq, data)
            if kind == "put":
                others.append(len(entries))
            if entries:
                others += entries
        sorted_out: list[str] = []
        while True:
            arguments = [
                *(generation, keys.base, _CLOSED_MS, known.name, known.number or "", self._map or ""),
                *(" ".join(sorted_out), steps, needed, len(held), len(bundle.slots)),
                *held,
                *(self._keys.field(slot) for slot in bundle.slots),
                *others,
            ]
            answer = await self._client.run(
                scripts.COMMIT, [keys.generation, keys.owners, keys.version], arguments
            )
            if answer[0] == "generation":
                raise GenerationChangedError(generation, answer[1])
            if answer[0] != "bundles":
                if steps and answer[0] == "ok":
                    known.note_removed(needed)
                return answer
            sorted_out += await self._sort_out_all(answer[1:])

    def _taken(
        self, tokens: Mapping[int, str], writes: Sequence[Write], bundle: Bundle, answer: Any
    ) -> list[Refusal]:
        """Note what a call did; returns what it refused."""
        _, number, grown, *refused = answer
        if number:
            self._bundled.note_call(int(number))
        refusals = [
            Refusal(bundle.others[index], reason)
            for index, reason in zip(refused[::2], refused[1::2], strict=True)
        ]
        not_made = {refusal.position for refusal in refusals}
        made = [writes[position] for position in bundle.others if position not in not_made]
        self._bundled.note_journals(tokens, made, grown)
        self._bundled.forget([writes[position].env_id for position in not_made])
        return refusals

    def _note_untaken(self, bundle: Bundle, reason: str) -> None:
        """Note that a bundle was not taken, and why: its steps are compared one by one now."""
        if reason == "number":
            # The store lost the end of its data, or an hour has gone by.
            self._bundled.doubt()
        elif reason == "map":
            self._map = None
        self._bundled.forget(bundle.steps[::4])

    async def _sort_out_all(self, logs: Sequence[str]) -> Sequence[str]:
        """Sort the bundles of several writers into the journals; returns their names."""
        for name in logs:
            await self._sort_out(name)
        return logs

    async def _sort_out(self, name: str, but_last: int = 0) -> None:
        """Sort those bundles of a writer into the journals that are there now; of its own ones, but for the last ones."""
        known = self._bundled
        bundles = known.count
        limits = _SORTED_STEPS, _SORTED_BYTES, but_last
        done = there = 0
        while done == 0 or done < there:
            taken, left = await self._client.run(
                scripts.UNBUNDLE, [self._keys.generation], [name, self._keys.base, *limits]
            )
            there = there or taken + left
            if taken <= 0:
                break
            done += taken
        if name == known.name:
            known.note_sorted_out(bundles - but_last)


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
