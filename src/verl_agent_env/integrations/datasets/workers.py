"""Work that is spread over processes, and comes back in the order in which it was handed out."""

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
"""Items that a process works on in one go."""
_CHUNKS_AHEAD = 3
"""Chunks that are under way for each process."""


class Workers:
    """Some processes, or this one alone; what they make is the same, whatever their number."""

    def __init__(self, count: int, begin: Callable[..., None], *arguments: object) -> None:
        """Start none yet.

        Args:
            count: Processes; with 1, this process does everything.
            begin: Called with ``arguments`` before anything else: in this process, and in each that is started.
        """
        self._count = count
        self._begin, self._arguments = begin, arguments
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        """Start them; what ``begin`` raises comes before any process is there."""
        self._begin(*self._arguments)
        if self._count > 1:
            # Not forked: a process that has threads, a test runner say, cannot be forked safely.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._count, context, self._begin, self._arguments)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, work: Callable[[Item], Made], items: Iterable[Item]) -> Generator[Made, None, None]:
        """What ``work``, a function of a module or a :func:`functools.partial` of one, makes of each item, in order.

        There may be endlessly many: no more than a few are worked on before their turn.
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
