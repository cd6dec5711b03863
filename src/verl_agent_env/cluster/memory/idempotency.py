"""Idempotency records of a single process."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from verl_agent_env.cluster.idempotency import IdempotencyRecord

_RECORD_BYTES = 512
"""Bytes of memory that a record takes, with its name and its entry in the dictionary."""


class _KeptRecord(NamedTuple):
    record: IdempotencyRecord
    expires_at: float


class MemoryIdempotencyRecords:
    """:class:`~verl_agent_env.cluster.idempotency.IdempotencyRecords` in a dictionary; the oldest are dropped first."""

    def __init__(self, known_s: float, max_bytes: int, clock: Callable[[], float]) -> None:
        """Create an empty set of records.

        Args:
            known_s: Seconds for which a record is kept.
            max_bytes: Bytes that all records may take; at least one is kept.
            clock: Seconds.
        """
        self._known_s = known_s
        self._max_records = max(1, max_bytes // _RECORD_BYTES)
        self._clock = clock
        self._kept: dict[str, _KeptRecord] = {}

    async def claim(self, name: str, record: IdempotencyRecord) -> IdempotencyRecord:
        now = self._clock()
        # Oldest first: dictionaries keep the order of insertion, and all are kept equally long.
        while self._kept and next(iter(self._kept.values())).expires_at <= now:
            self._drop_oldest()
        kept = self._kept.get(name)
        if kept is not None:
            return kept.record
        if len(self._kept) >= self._max_records:
            self._drop_oldest()
        self._kept[name] = _KeptRecord(record, now + self._known_s)
        return record

    async def aclose(self) -> None:
        """Implement :meth:`IdempotencyRecords.aclose`."""

    def _drop_oldest(self) -> None:
        del self._kept[next(iter(self._kept))]
