"""Pool of processes that compare expressions, so that no text can block or crash the calling process.

The kernel ends a process whose comparison takes too much time or memory: the comparison is then too hard. A process that
ends for another reason is replaced, and the comparison is retried once.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

MAX_PROCESSES = 4
MAX_COMPARISONS = 1_000
"""Comparisons after which a process is replaced, because SymPy's caches grow."""
WAIT_S = 120.0
"""Time limit of a response, queueing included. Computation has its own, smaller limit."""

_SCRIPT = Path(__file__).with_name("math_worker.py")
# Signals that end a process for its time, its stack or its memory.
_TOO_HARD = frozenset({-signal.SIGPROF, -signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS})


class TooHardError(Exception):
    """The comparison exceeds its time or memory."""


class PoolError(RuntimeError):
    """No process could respond: the machine lacks a resource, or is far too busy."""


class MathPool:
    """Thread-safe pool of processes, started on demand and reused."""

    def __init__(self, max_processes: int = MAX_PROCESSES) -> None:
        self._free = threading.BoundedSemaphore(max_processes)
        self._lock = threading.Lock()
        self._idle: list[_Process] = []
        self._closed = False

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the response to ``request`` (see :mod:`.math_worker`).

        Raises:
            TooHardError: The comparison exceeds its time or memory.
            PoolError: No process could respond.
        """
        deadline = time.monotonic() + WAIT_S
        if not self._free.acquire(timeout=WAIT_S):
            raise PoolError("all processes that compare expressions are busy")
        try:
            for _ in range(2):
                answer = self._ask_one(request, deadline)
                if answer is not None:
                    return answer
        finally:
            self._free.release()
        raise PoolError("a process that compares expressions ended again and again")

    def close(self) -> None:
        """End all idle processes; busy ones end after their response."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for process in idle:
            process.end()

    def _ask_one(self, request: dict[str, Any], deadline: float) -> dict[str, Any] | None:
        """Return the response of one process; ``None`` if it ended through no fault of the request."""
        with self._lock:
            process = self._idle.pop() if self._idle else None
        process = process or _Process(deadline)
        try:
            answer = process.ask(request, deadline)
        except BaseException:
            process.end()
            raise
        if answer is None:
            process.end()
            return None
        with self._lock:
            is_kept = not self._closed and process.comparisons < MAX_COMPARISONS
            if is_kept:
                self._idle.append(process)
        if not is_kept:
            process.end()
        return answer


class _Process:
    """One process with its libraries loaded."""

    def __init__(self, deadline: float) -> None:
        # -P: modules in the script's directory would shadow others.
        command = [sys.executable, "-P", str(_SCRIPT)]
        try:
            self._process = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise PoolError(f"no process can be started to compare expressions: {error.strerror}") from None
        self.comparisons = 0
        self._buffer = b""
        try:
            is_ready = self._receive(deadline) is not None
        except PoolError:
            self.end()
            raise
        if not is_ready:
            self.end()
            raise PoolError(
                "the process that compares expressions does not start; is the extra 'math' whole?"
            )

    def ask(self, request: dict[str, Any], deadline: float) -> dict[str, Any] | None:
        """Return the response; ``None`` if the process ended for a reason other than the request.

        Raises:
            TooHardError, PoolError: In the cases of :meth:`MathPool.ask`.
        """
        self.comparisons += 1
        try:
            os.write(_fileno(self._process.stdin), json.dumps(request).encode() + b"\n")
        except BrokenPipeError:
            return None
        answer = self._receive(deadline)
        if answer is None and self._process.wait(timeout=WAIT_S) in _TOO_HARD:
            raise TooHardError
        if answer is not None and answer.get("too_large"):
            # Caches of earlier comparisons may be what takes the memory.
            if self.comparisons == 1:
                raise TooHardError
            return None
        return answer

    def end(self) -> None:
        """Kill the process."""
        self._process.kill()
        # Closes the pipes, and waits.
        self._process.communicate()

    def _receive(self, deadline: float) -> dict[str, Any] | None:
        """Return the next line; ``None`` at the end of the stream."""
        source = _fileno(self._process.stdout)
        poll = select.poll()
        poll.register(source, select.POLLIN)
        while b"\n" not in self._buffer:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise PoolError("a process that compares expressions did not answer in time")
            piece = os.read(source, 65_536)
            if not piece:
                return None
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _fileno(pipe: IO[bytes] | None) -> int:
    if pipe is None:
        raise PoolError("a process that compares expressions has no pipe")
    return pipe.fileno()


_pools: dict[int, MathPool] = {}
_pools_lock = threading.Lock()


def math_pool() -> MathPool:
    """Return the pool of this process; a forked process gets its own."""
    with _pools_lock:
        pool = _pools.get(os.getpid())
        if pool is None:
            pool = _pools[os.getpid()] = MathPool()
            atexit.register(pool.close)
        return pool
