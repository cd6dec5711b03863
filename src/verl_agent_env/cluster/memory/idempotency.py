"""Idempotency records of a single process."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from verl_agent_env.cluster.idempotency import IdempotencyRecord

_RECORD_BYTES = 512
"""What a record takes, with its name and its place."""


class _Kept(NamedTuple):
    record: IdempotencyRecord
    expires_at: float


class MemoryIdempotencyRecords:
    """:class:`~verl_agent_env.cluster.idempotency.IdempotencyRecords` in a dictionary, the oldest going first."""

    def __init__(self, known_s: float, max_bytes: int, clock: Callable[[], float]) -> None:
        """Make an empty one.

        Args:
            known_s: How long a record is kept.
            max_bytes: What all of them may take; one is kept in any case.
            clock: Seconds.
        """
        self._known_s = known_s
        self._max_records = max(1, max_bytes // _RECORD_BYTES)
        self._clock = clock
        self._kept: dict[str, _Kept] = {}

    async def claim(self, name: str, record: IdempotencyRecord) -> IdempotencyRecord:
        """See :meth:`IdempotencyRecords.claim`."""
        now = self._clock()
        # Oldest first: dictionaries keep the order of insertion, and all are kept equally long.
        while self._kept and next(iter(self._kept.values())).expires_at <= now:
            self._drop_oldest()
        kept = self._kept.get(name)
        if kept is not None:
            return kept.record
        if len(self._kept) >= self._max_records:
            self._drop_oldest()
        self._kept[name] = _Kept(record, now + self._known_s)
        return record

    async def aclose(self) -> None:
        """See :meth:`IdempotencyRecords.aclose`."""

    def _drop_oldest(self) -> None:
        del self._kept[next(iter(self._kept))]
