"""The event log of a single process, beside its :class:`~verl_agent_env.cluster.memory.store.MemoryStore`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from verl_agent_env.cluster.memory.fence import MemoryFence
from verl_agent_env.cluster.memory.store import MemoryStore
from verl_agent_env.errors import GenerationChangedError
from verl_agent_env.wire.event_log import ENOUGH_LOADED_BYTES, MAX_LOADED
from verl_agent_env.wire.records import Refusal, RefusalReason, Saved, Write
from verl_agent_env.wire.task_results import ResultPage, ResultTable, TaskResult, TaskStatistics


@dataclass(slots=True)
class _KeptEnvironment:
    slot: int
    episode: int
    header: bytes
    entries: list[bytes] = field(default_factory=list)
    snapshot: bytes | None = None
    snapshot_seq: int = 0
    counted: int = -1
    """Last episode whose result was counted."""


class MemoryEventLog:
    """:class:`~verl_agent_env.wire.event_log.EventLog` in dictionaries; each write is atomic, for nothing awaits in between."""

    def __init__(self, store: MemoryStore | MemoryFence) -> None:
        self._store = store
        self._kept: dict[str, _KeptEnvironment] = {}
        self._closed: dict[str, str] = {}
        self._results = ResultTable()
        self.is_full = False
        """True to refuse all writes but the ends of environments, as a full Redis does."""

    def clear(self) -> None:
        """Lose all data, as after ``FLUSHALL`` in Redis."""
        self._kept.clear()
        self._closed.clear()
        self._results.clear()

    async def commit(
        self, generation: str, tokens: Mapping[int, str], writes: Sequence[Write]
    ) -> list[Refusal]:
        present = await self._store.generation()
        if generation != present:
            raise GenerationChangedError(generation, present)
        owned = self._store.owned_under(tokens)
        refusals = []
        for index, write in enumerate(writes):
            if write.slot not in owned:
                reason: RefusalReason | None = "moved"
            elif self.is_full and write.kind != "close":
                reason = "full"
            else:
                reason = self._make(write)
            if reason is not None:
                refusals.append(Refusal(index, reason))
        return refusals

    async def load(self, env_ids: Sequence[str], *, whole: bool = False) -> list[Saved]:
        loaded: list[Saved] = []
        size = 0
        for env_id in env_ids[:MAX_LOADED]:
            kept = self._kept.get(env_id)
            saved = Saved(None, [], None, self._closed.get(env_id)) if kept is None else _saved(kept, whole)
            loaded.append(saved)
            size += len(saved.header or b"") + len(saved.snapshot or b"") + sum(map(len, saved.entries))
            if size >= ENOUGH_LOADED_BYTES:
                break
        return loaded

    async def env_ids(self, slots: Sequence[int]) -> list[str]:
        wanted = set(slots)
        return [env_id for env_id, kept in self._kept.items() if kept.slot in wanted]

    async def results(self, run: str, cursor: str = "0") -> ResultPage:
        return self._results.page(run, cursor)

    async def results_of(self, run: str, tasks: Sequence[str]) -> list[TaskStatistics]:
        return self._results.of(run, tasks)

    async def aclose(self) -> None:
        """Implement :meth:`EventLog.aclose`."""

    def _make(self, write: Write) -> RefusalReason | None:
        kept = self._kept.get(write.env_id)
        if write.kind == "close":
            if kept is not None:
                del self._kept[write.env_id]
            self._closed[write.env_id] = write.data.decode()
            return None
        if write.env_id in self._closed:
            return "closed"
        if write.kind == "put":
            if kept is not None and kept.episode > write.episode:
                return "stale"
            if kept is not None and kept.episode == write.episode and _is_late(kept, write):
                return _compare(kept, write)
            self._kept[write.env_id] = _replacement(kept, write)
            return None
        if write.kind == "create":
            if kept is None:
                self._kept[write.env_id] = _KeptEnvironment(write.slot, write.episode, write.data)
            return None
        if kept is None:
            return "gone"
        if write.kind == "result":
            if kept.counted < write.episode:
                kept.counted = write.episode
                self._results.add(TaskResult.from_bytes(write.data))
            return None
        return _change(kept, write)


def _saved(kept: _KeptEnvironment, whole: bool) -> Saved:
    first = 0
    if kept.snapshot is not None and not whole and kept.snapshot_seq <= len(kept.entries):
        first = max(kept.snapshot_seq - 1, 0)
    return Saved(kept.header, kept.entries[first:], kept.snapshot, None, first)


def _change(kept: _KeptEnvironment, write: Write) -> RefusalReason | None:
    if write.kind == "begin":
        return _begin(kept, write)
    if kept.episode != write.episode:
        return "stale" if kept.episode > write.episode else "short"
    if write.kind == "save":
        # A late copy of an earlier save changes nothing.
        if kept.snapshot is None or write.seq >= kept.snapshot_seq:
            kept.snapshot, kept.snapshot_seq = write.data, write.seq
        return None
    entries = kept.entries
    if len(entries) < write.seq:
        return "short"
    news = write.entries if write.kind == "extend" else (write.data,)
    known = entries[write.seq : write.seq + len(news)]
    if not all(map(_is_same, known, news)):
        return "conflict"
    entries += news[len(known) :]
    return None


def _is_late(kept: _KeptEnvironment, write: Write) -> bool:
    """Tell whether a ``put`` has nothing new."""
    steps = len(kept.entries)
    return steps > write.seq or (steps == write.seq == len(write.entries))


def _replacement(kept: _KeptEnvironment | None, write: Write) -> _KeptEnvironment:
    """Return what a ``put`` leaves; a snapshot of a later step than the header's own state is kept."""
    first = write.seq - len(write.entries)
    made = _KeptEnvironment(write.slot, write.episode, write.data, [*[b""] * first, *write.entries])
    if kept is not None and first and kept.episode == write.episode and kept.snapshot_seq >= first:
        made.snapshot, made.snapshot_seq = kept.snapshot, kept.snapshot_seq
    if kept is not None:
        made.counted = kept.counted
    return made


def _compare(kept: _KeptEnvironment, write: Write) -> RefusalReason | None:
    """Compare a late copy of a ``put`` with what is kept; it removes nothing."""
    last = kept.entries[write.seq - 1] if write.entries else b""
    return None if not last or _is_same(last, write.entries[-1]) else "conflict"


def _is_same(one: bytes, other: bytes) -> bool:
    """Tell whether two entries record the same step; of re-persisted steps only the last one has its operation id.

    An empty entry stands for a step of which only the number is kept, and equals any entry.
    """
    if one == other or not one:
        return True
    (operation, _, result), (other_operation, _, other_result) = one.partition(b"\n"), other.partition(b"\n")
    return result == other_result and not (operation and other_operation)


def _begin(kept: _KeptEnvironment, write: Write) -> RefusalReason | None:
    if kept.episode == write.episode:
        return None if kept.header == write.data else "conflict"
    if kept.episode > write.episode:
        return "stale"
    if kept.episode < write.episode - 1:
        return "short"
    kept.episode, kept.header, kept.entries, kept.snapshot = write.episode, write.data, [], None
    return None
