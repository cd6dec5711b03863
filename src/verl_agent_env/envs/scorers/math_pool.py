"""A few processes that compare expressions, so that no text can hold up or harm the process that asks.

A process that is at a comparison for too long ends by a signal of the kernel, and so does one that takes too much memory: what
it was asked is then too hard. A process that ends for another reason is replaced, and asked once more.
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
"""Comparisons after which a process is replaced: caches of SymPy grow."""
WAIT_S = 120.0
"""How long an answer may take in all, waiting included. Time of computing has its own, smaller limit."""

_SCRIPT = Path(__file__).with_name("math_worker.py")
# What a text that is too hard ends a process with: its time, its stack, its memory.
_TOO_HARD = frozenset({-signal.SIGPROF, -signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS})


class TooHardError(Exception):
    """The comparison takes more time or memory than it may."""


class PoolError(RuntimeError):
    """No process could answer: the machine is out of something, or far too busy."""


class MathPool:
    """Processes that are started as they are needed and kept for the next question; safe for threads."""

    def __init__(self, max_processes: int = MAX_PROCESSES) -> None:
        self._free = threading.BoundedSemaphore(max_processes)
        self._lock = threading.Lock()
        self._idle: list[_Process] = []
        self._closed = False

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to ``request`` (see :mod:`.math_worker`).

        Raises:
            TooHardError: It takes too much time or memory.
            PoolError: There is none, through no fault of the request.
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
        """End all processes that are idle; those at work end after their answer."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for process in idle:
            process.end()

    def _ask_one(self, request: dict[str, Any], deadline: float) -> dict[str, Any] | None:
        """The answer of one process; ``None`` when it ended without any fault of the request."""
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
    """One process, which has read its library already."""

    def __init__(self, deadline: float) -> None:
        # -P: the directory of the script holds modules with names of others.
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
        """The answer; ``None`` when the process ended for a reason that is not the request's.

        Raises:
            TooHardError, PoolError: As of :meth:`MathPool.ask`.
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
            # It may be what the process has kept that takes the memory.
            if self.comparisons == 1:
                raise TooHardError
            return None
        return answer

    def end(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        # Closes the pipes, and waits.
        self._process.communicate()

    def _receive(self, deadline: float) -> dict[str, Any] | None:
        """The next line; ``None`` when there is none any more."""
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
    """The pool of this process; one that was forked has its own."""
    with _pools_lock:
        pool = _pools.get(os.getpid())
        if pool is None:
            pool = _pools[os.getpid()] = MathPool()
            atexit.register(pool.close)
        return pool
