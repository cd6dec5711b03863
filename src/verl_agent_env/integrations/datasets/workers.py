"""A process pool whose results are in the order of the items."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.connection import Connection
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")

_CHUNK = 32
"""Items in one task of a process."""
_CHUNKS_AHEAD = 3
"""Pending tasks per process."""


class Workers:
    """Some processes, or this one alone; the results do not depend on their number."""

    def __init__(self, count: int, begin: Callable[..., None], *arguments: object) -> None:
        """Create a pool without starting processes.

        Args:
            count: Number of processes; with 1, this process does everything.
            begin: Initializer, called with ``arguments`` in this process, then in each that is started.
        """
        self._count = count
        self._begin, self._arguments = begin, arguments
        self._pool: ProcessPoolExecutor | None = None
        self._held: Connection | None = None
        """Pipe that no one writes to: the processes end when this one lets go of it, in whatever way."""

    def __enter__(self) -> Workers:
        """Start the processes, after ``begin`` has succeeded in this one."""
        self._begin(*self._arguments)
        if self._count > 1:
            # Not forked: forking a process with threads (such as a test runner) is unsafe.
            context = multiprocessing.get_context("spawn")
            watched, self._held = context.Pipe(duplex=False)
            arguments = (watched, self._begin, self._arguments)
            self._pool = ProcessPoolExecutor(self._count, context, _begin_watching, arguments)
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        if self._pool is None or self._held is None:
            return
        if failure is not None:
            # Nobody waits for what they are at.
            self._held.close()
        self._pool.shutdown(cancel_futures=True)
        self._held.close()

    def map(self, work: Callable[[Item], Made], items: Iterable[Item]) -> Generator[Made, None, None]:
        """Apply ``work``, a module-level function or a :func:`functools.partial` of one, to each item, in order.

        The items may be infinitely many: only a few are processed ahead.
        """
        if self._pool is None:
            yield from map(work, items)
            return
        left = iter(items)
        ahead: deque[Future[list[Made]]] = deque()
        try:
            while True:
                while len(ahead) < _CHUNKS_AHEAD * self._count:
                    chunk = list(itertools.islice(left, _CHUNK))
                    if not chunk:
                        break
                    ahead.append(_submit(self._pool, work, chunk))
                if not ahead:
                    return
                yield from ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _submit(pool: ProcessPoolExecutor, work: Callable[[Item], Made], chunk: list[Item]) -> Future[list[Made]]:
    # A process that is started now inherits the mask: Ctrl-C reaches all processes, and one answers it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(_made_of, work, chunk)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_watching(held: Connection, begin: Callable[..., None], arguments: tuple[object, ...]) -> None:
    """Initialize a process that ends with the one that started it, which may be killed."""
    threading.Thread(target=_end_with, args=(held,), daemon=True).start()
    begin(*arguments)


def _end_with(held: Connection) -> None:
    held.poll(None)
    os._exit(1)


def _made_of(work: Callable[[Item], Made], chunk: list[Item]) -> list[Made]:
    return [work(item) for item in chunk]
