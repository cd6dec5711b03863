"""Calls of environments' code that are under way, in memory that a process outside can read after the worker's end.

The supervisor of a pool makes the memory before it starts the worker. A record has one entry for what the event loop
computes, which costs a step two writes and nothing else, and some for calls in threads and awaited ones.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from struct import Struct
from typing import NamedTuple, TypeVar

from verl_agent_env.wire.suspicions import CallId

T = TypeVar("T")

# Id, episode, seq, and last of all the byte that makes the entry count: half an entry is none.
_ENTRY = Struct("=40sqqB")
_ENTRY_BYTES = 64
_STATE = _ENTRY.size - 1
_COUNT = Struct("=Q")
_HEAD_BYTES = 64
_APART = 255
"""Entries for calls that do not run inline."""
RECORD_BYTES = _HEAD_BYTES + _ENTRY_BYTES * (1 + _APART)

current_call: ContextVar[CallId | None] = ContextVar("call", default=None)
"""The call on whose behalf the running task has environments' code run."""


@contextmanager
def calling(call: CallId) -> Iterator[None]:
    """Have environments' code run on behalf of ``call``."""
    before = current_call.set(call)
    try:
        yield
    finally:
        current_call.reset(before)


class UnderWay(NamedTuple):
    """Calls on a worker's record."""

    inline: CallId | None
    """What the event loop computes."""
    apart: tuple[CallId, ...]
    """What runs in threads or is awaited."""
    unseen: int
    """Further calls, for which there was no entry."""

    @property
    def calls(self) -> tuple[CallId, ...]:
        """All that are known."""
        return self.apart if self.inline is None else (self.inline, *self.apart)


class CallRecord:
    """Writes one worker's record, or nothing where nobody could read it."""

    def __init__(self, memory: memoryview | None = None) -> None:
        """Write into ``memory`` of :data:`RECORD_BYTES` from now on; nowhere without any."""
        self._memory = memory
        self.note_inline: Callable[[bytes, int, int, int], None] | None = None
        """Writes what the event loop begins to compute: id, episode, seq, 1. None where nothing is written."""
        self.inline_state: memoryview | bytearray = bytearray(1)
        """Set its first byte to 0 as soon as that is done."""
        self._free: list[int] = []
        self._unseen = 0
        self._lock = threading.Lock()
        if memory is not None:
            memory[:] = bytes(RECORD_BYTES)
            self.note_inline = partial(_ENTRY.pack_into, memory, _HEAD_BYTES)
            self.inline_state = memory[_HEAD_BYTES + _STATE : _HEAD_BYTES + _STATE + 1]
            self._free = [_HEAD_BYTES + _ENTRY_BYTES * (1 + number) for number in range(_APART)]

    @contextmanager
    def inline(self, call: CallId | None) -> Iterator[None]:
        """Have it known that the event loop computes for ``call``; steps and resets do the same by hand."""
        if self.note_inline is not None and call is not None:
            self.note_inline(call.env_id.encode(), call.episode, call.seq, 1)
        try:
            yield
        finally:
            self.inline_state[0] = 0

    @contextmanager
    def apart(self, call: CallId | None) -> Iterator[None]:
        """Have it known that ``call`` is under way, in any thread or awaited."""
        memory = self._memory
        if memory is None or call is None:
            yield
            return
        # Whoever comes when there is no entry is counted: nobody can be blamed for certain meanwhile.
        at = self._free.pop() if self._free else None
        if at is None:
            self._count_unseen(1)
        else:
            _ENTRY.pack_into(memory, at, call.env_id.encode(), call.episode, call.seq, 1)
        try:
            yield
        finally:
            if at is None:
                self._count_unseen(-1)
            else:
                memory[at + _STATE] = 0
                self._free.append(at)

    def noting(self, call: CallId | None, run: Callable[[], T]) -> Callable[[], T]:
        """Give a function that does as ``run``, in any thread, and has it known meanwhile."""
        if self._memory is None or call is None:
            return run

        def noted() -> T:
            with self.apart(call):
                return run()

        return noted

    def _count_unseen(self, change: int) -> None:
        with self._lock:
            self._unseen += change
            if self._memory is not None:
                _COUNT.pack_into(self._memory, 0, self._unseen)


def shared_records(count: int) -> list[memoryview]:
    """Memory for the records of so many workers, shared with all processes that are forked from this one."""
    memory = memoryview(mmap.mmap(-1, count * RECORD_BYTES))
    return [memory[start : start + RECORD_BYTES] for start in range(0, count * RECORD_BYTES, RECORD_BYTES)]


def read_record(memory: memoryview) -> UnderWay:
    """Read what a worker has written."""
    found = [_read_entry(memory, _HEAD_BYTES + _ENTRY_BYTES * number) for number in range(1 + _APART)]
    apart = tuple(call for call in found[1:] if call is not None)
    return UnderWay(found[0], apart, _COUNT.unpack_from(memory, 0)[0])


def clear_record(memory: memoryview) -> None:
    """Have nothing under way: the worker has ended."""
    memory[:] = bytes(RECORD_BYTES)


def _read_entry(memory: memoryview, at: int) -> CallId | None:
    env_id, episode, seq, state = _ENTRY.unpack_from(memory, at)
    if not state:
        return None
    return CallId(env_id.rstrip(b"\0").decode("utf-8", "replace"), episode, seq)
