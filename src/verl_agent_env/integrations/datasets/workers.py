"""A process pool whose results are in the order of the items."""

from __future__ import annotations

import itertools
import multiprocessing
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
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

    def __enter__(self) -> Workers:
        """Start the processes, after ``begin`` has succeeded in this one."""
        self._begin(*self._arguments)
        if self._count > 1:
            # Not forked: forking a process with threads (such as a test runner) is unsafe.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._count, context, self._begin, self._arguments)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

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
                    ahead.append(self._pool.submit(_made_of, work, chunk))
                if not ahead:
                    return
                yield from ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _made_of(work: Callable[[Item], Made], chunk: list[Item]) -> list[Made]:
    return [work(item) for item in chunk]
