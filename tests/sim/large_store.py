"""The store of a large simulated cluster: counts what passes, and finds environments by slot."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from tests.sim.virtual_loop import VirtualLoop
from tests.sim.wires import SimulatedStore, at_once
from verl_agent_env.cluster.memory.fence import MemoryFence
from verl_agent_env.cluster.memory.log import MemoryEventLog
from verl_agent_env.cluster.memory.store import MemoryStore
from verl_agent_env.cluster.store import ClusterMap, MapChanges
from verl_agent_env.engine.group_commit.packing import CallLimits
from verl_agent_env.types import slot_text
from verl_agent_env.wire.records import RefusalReason, Saved, Write

_COMPARED_IN = 997
"""One read in so many is compared with the whole map."""


class LargeStore(SimulatedStore):
    """Counts since :meth:`begin`."""

    def __init__(
        self,
        loop: VirtualLoop,
        shards: int,
        num_slots: int,
        call_limits: CallLimits,
        *,
        as_before: bool = False,
    ) -> None:
        super().__init__(loop, shards, num_slots, call_limits)
        self.store: MemoryStore = _WatchedStore(self, loop, num_slots, as_before=as_before)
        for shard in self.shards:
            if not shards:
                shard.fence = self.store
            shard.log = _IndexedLog(self, shard.fence)
        self._num_slots = num_slots
        self._as_before = as_before
        self._reads = 0
        self._whole_at = (-1, 0)
        self.begin()

    @property
    def count_kept(self) -> int:
        """Number of environments that the logs have."""
        return sum(len(shard.log._kept) for shard in self.shards)

    def begin(self) -> None:
        """Count from now on."""
        self.calls: Counter[str] = Counter()
        self.moves: Counter[int] = Counter()
        """How often each slot got another owner."""
        self.versions = self.map_bytes = self.whole_bytes = self.loaded = 0
        self.entered = 0
        """Environments that were written of which the log had nothing."""

    def read_map(self, sender: str, known: ClusterMap | None = None) -> ClusterMap:
        """Give a worker the map, and count what Redis would send."""
        store = self.store
        if self._as_before:
            known = None
        self._reads += 1
        if self._reads % _COMPARED_IN == 0:
            read = super().read_map(sender, known)
        else:
            read = at_once(store.read_map(known))
        changes = None if known is None else store.changes_since(known.generation, known.version)
        if self._whole_at[0] != read.version:
            self._whole_at = read.version, self._size_of(store.whole())
        self.whole_bytes += self._whole_at[1]
        self.map_bytes += self._whole_at[1] if changes is None else self._size_of(changes)
        return read

    def _size_of(self, changes: MapChanges) -> int:
        """The bytes of a map's answer in Redis' protocol."""
        digits = len(slot_text(0, self._num_slots))
        owners = [part for slots, token in changes.owners for part in (len(token), digits * len(slots))]
        records = [32 if record is None else len(record.to_json()) for record in changes.workers.values()]
        texts = [32, len(str(changes.version)), *owners, *records, len(str(self._num_slots))]
        # Eight elements of the answer, of which four are lists and one is a number.
        return sum(len(f"${size}\r\n") + size + 2 for size in texts) + len(
            "*8\r\n*0\r\n*0\r\n*0\r\n*0\r\n:1\r\n"
        )


class _WatchedStore(MemoryStore):
    """Counts versions, and slots that change hands."""

    def __init__(self, counts: LargeStore, loop: VirtualLoop, num_slots: int, *, as_before: bool) -> None:
        self._counts = counts
        self._as_before = as_before
        numbers = iter(range(1, 1 << 62))
        super().__init__(loop.time, lambda: f"{next(numbers):032x}", num_slots)

    async def hand_off(self, moves: Mapping[str, Mapping[int, str]]) -> dict[int, str]:
        """Hand slots over, and count them."""
        if self._as_before:
            parts = [await super(_WatchedStore, self).hand_off({who: slots}) for who, slots in moves.items()]
            moved = {slot: token for part in parts for slot, token in part.items()}
        else:
            moved = await super().hand_off(moves)
        self._counts.moves.update(moved.keys())
        return moved

    async def claim(self, incarnation: str, slots: Any, *, generation: str | None = None) -> dict[int, str]:
        """Claim slots, and count those that had another owner."""
        before = {slot: self._tokens.get(slot) for slot in slots}
        claimed = await super().claim(incarnation, slots, generation=generation)
        self._counts.moves.update(
            slot for slot, token in claimed.items() if before[slot] not in (None, token)
        )
        return claimed

    def _bump(self, change: Any) -> None:
        self._counts.versions += 1
        super()._bump(change)


class _IndexedLog(MemoryEventLog):
    """Finds the environments of a slot without looking at all."""

    def __init__(self, counts: LargeStore, fence: MemoryStore | MemoryFence) -> None:
        super().__init__(fence)
        self._counts = counts
        self._ids: defaultdict[int, dict[str, None]] = defaultdict(dict)

    def clear(self) -> None:
        """Lose everything."""
        super().clear()
        self._ids.clear()

    async def env_ids(self, slots: Sequence[int]) -> list[str]:
        """As :meth:`MemoryEventLog.env_ids`."""
        return [env_id for slot in slots for env_id in self._ids.get(slot, ())]

    async def load(self, env_ids: Sequence[str], *, whole: bool = False) -> list[Saved]:
        """As :meth:`MemoryEventLog.load`."""
        loaded = await super().load(env_ids, whole=whole)
        self._counts.loaded += len(loaded)
        return loaded

    def _make(self, write: Write) -> RefusalReason | None:
        # A copy: behind what orjson has written stays a hole of kilobytes, as long as it lives.
        write = replace(write, data=bytes(memoryview(write.data)))
        was_kept = write.env_id in self._kept
        reason = super()._make(write)
        if write.env_id in self._kept:
            self._counts.entered += not was_kept
            self._ids[write.slot][write.env_id] = None
        else:
            self._ids[write.slot].pop(write.env_id, None)
        return reason
