"""Cuts writes into calls of the log that are neither too long nor too large."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from verl_agent_env.wire.records import Write


@dataclass(frozen=True)
class CallLimits:
    """Limits of one call of the log: the store answers nobody else while it makes the writes."""

    writes: int = 1024
    entries: int = 16_384
    """Entries of journals, but for those that are a write of their own."""
    size: int = 4 * 1024 * 1024
    """Bytes; a single entry or state that is larger is a call of its own."""


LIMITS = CallLimits()


def pack(writes: Iterable[Write], limits: CallLimits = LIMITS) -> Iterator[list[Write]]:
    """Calls of the log that make these writes, in their order.

    A ``put`` with more entries than one call carries becomes a shorter ``put`` and ``extend`` writes. What is in the store
    meanwhile is a beginning of the same history, or more of it if more was there.
    """
    call: list[Write] = []
    entries = size = 0
    for write in _cut(writes, limits):
        length = size_of(write)
        if call and (
            len(call) == limits.writes
            or entries + len(write.entries) > limits.entries
            or size + length > limits.size
        ):
            yield call
            call, entries, size = [], 0, 0
        call.append(write)
        entries += len(write.entries)
        size += length
    if call:
        yield call


def size_of(write: Write) -> int:
    """Bytes of what a write carries."""
    return len(write.data) + sum(map(len, write.entries))


def _cut(writes: Iterable[Write], limits: CallLimits) -> Iterator[Write]:
    for write in writes:
        kept = _fitting(write.entries, 0, limits.entries, limits.size - len(write.data))
        if kept == len(write.entries):
            yield write
            continue
        # Of the steps before the entries only the number is kept.
        first = write.seq - len(write.entries)
        yield replace(write, seq=first + kept, entries=write.entries[:kept])
        while kept < len(write.entries):
            # At least one, however large it is.
            count = max(1, _fitting(write.entries, kept, limits.entries, limits.size))
            part = write.entries[kept : kept + count]
            yield replace(write, kind="extend", seq=first + kept, data=b"", entries=part)
            kept += count


def _fitting(entries: Sequence[bytes], start: int, max_entries: int, max_bytes: int) -> int:
    """Count the entries from ``start`` on that fit."""
    size = 0
    for count in range(min(max_entries, len(entries) - start)):
        size += len(entries[start + count])
        if size > max_bytes:
            return count
    return min(max_entries, len(entries) - start)
