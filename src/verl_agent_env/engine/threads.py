"""Threads for environments that block, which can be given up when one of them never returns.

``concurrent.futures`` keeps a stuck thread for ever and counts it among its workers: as many hanging environments as
there are threads, and all others hang too. Here a stuck thread is replaced, and ends by itself should its call return.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from verl_agent_env.errors import AtCapacityError

T = TypeVar("T")


class StuckCallError(Exception):
    """A call did not return in time; its thread was given up."""


class _Job:
    __slots__ = ("abandoned", "call", "finish", "started")

    def __init__(self, call: Callable[[], Any], finish: Callable[[Any, BaseException | None], None]) -> None:
        self.call = call
        self.finish = finish
        self.started = False
        self.abandoned = False


class ThreadRunner:
    """At most ``max_threads`` threads at work, started as they are needed, and ``max_stuck`` given up."""

    def __init__(self, max_threads: int, max_stuck: int) -> None:
        self._max_stuck = max_stuck
        self._free = asyncio.Semaphore(max_threads)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = 0
        self._stuck = 0

    @property
    def stuck(self) -> int:
        """Threads that were given up and still hang."""
        return self._stuck

    async def run(self, call: Callable[[], T], timeout_s: float) -> T:
        """Run ``call`` in a thread, after those that came before it.

        Raises:
            StuckCallError: It took longer than ``timeout_s``. Should it return later, the outcome is dropped.
            AtCapacityError: So many threads hang that no more are given up.
        """
        async with self._free:
            # Only now does the time run: waiting for a free thread is not the environment's fault.
            if self._stuck >= self._max_stuck:
                raise AtCapacityError("stuck threads", self._max_stuck)
            return await self._run(call, timeout_s)

    def stop(self) -> None:
        """Let idle threads end; those at work end after their call."""
        with self._lock:
            count, self._threads, self._idle = self._threads, 0, 0
        for _ in range(count):
            self._jobs.put(None)

    async def _run(self, call: Callable[[], T], timeout_s: float) -> T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: Any, error: BaseException | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        def finish(result: Any, error: BaseException | None) -> None:
            # The loop is gone when the server stopped meanwhile: then nobody waits any more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(settle, result, error)

        job = _Job(call, finish)
        self._submit(job)
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            # The environment's own TimeoutError arrives through the future.
            if future.done() and not future.cancelled():
                raise
            self._give_up(job)
            raise StuckCallError from None
        except asyncio.CancelledError:
            self._give_up(job)
            raise

    def _submit(self, job: _Job) -> None:
        with self._lock:
            start = self._idle == 0
            if start:
                self._threads += 1
            else:
                self._idle -= 1
        self._jobs.put(job)
        if start:
            threading.Thread(target=self._work, name="env-call", daemon=True).start()

    def _give_up(self, job: _Job) -> None:
        with self._lock:
            job.abandoned = True
            if job.started:
                self._stuck += 1
                self._threads -= 1

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            with self._lock:
                if job.abandoned:
                    self._idle += 1
                    continue
                job.started = True
            result, error = None, None
            try:
                result = job.call()
            # Whatever an environment raises goes to its caller.
            except BaseException as raised:  # noqa: BLE001
                error = raised
            with self._lock:
                if job.abandoned:
                    self._stuck -= 1
                    return
                self._idle += 1
            job.finish(result, error)
            del job, result, error
