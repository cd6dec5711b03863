"""Threads for environments that block, which can be given up when one of them never returns.

``concurrent.futures`` keeps a stuck thread for ever and counts it among its workers: as many hanging environments as
there are threads, and all others hang too. Here a stuck thread is replaced, and ends by itself should its call return.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from verl_agent_env.config import HostLimits
from verl_agent_env.envs.kind import EnvKind
from verl_agent_env.errors import AtCapacityError
from verl_agent_env.turns import Turns

logger = logging.getLogger(__name__)

T = TypeVar("T")


class CallTimeoutError(Exception):
    """A call did not return in time."""


class StuckCallError(CallTimeoutError):
    """A call did not return in time, and its thread, which may still be running it, was given up."""


class ForeignExitError(Exception):
    """A call raised what is not an error but a way out: of the process, of a task, of an iteration.

    It came from an environment's code, where it means nothing to the server: as a plain error it harms nobody else.
    """

    def __init__(self, raised: BaseException) -> None:
        super().__init__(type(raised).__name__)
        self.name = type(raised).__name__
        """Type of what was raised."""


class _Job(Generic[T]):
    """A call, and what became of it; all but the first two fields belong to the runner's lock."""

    __slots__ = ("abandoned", "call", "error", "finished", "late", "notify", "result", "started")

    def __init__(self, call: Callable[[], T], late: Callable[[T | None], None] | None) -> None:
        self.call = call
        self.late = late
        self.notify: Callable[[], None] | None = None
        self.result: T | None = None
        self.error: BaseException | None = None
        self.started = self.finished = self.abandoned = False

    def run(self) -> None:
        try:
            self.result = self.call()
        # Whatever an environment raises goes to its caller.
        except BaseException as raised:  # noqa: BLE001
            self.error = raised

    def run_late(self) -> None:
        if self.late is None:
            return
        try:
            self.late(self.result)
        except BaseException:
            logger.warning("cleanup after a timed-out call failed", exc_info=True)

    def outcome(self) -> T:
        error, self.error = self.error, None
        if error is None:
            return self.result  # type: ignore[return-value]
        try:
            # No coroutine can pass on a StopIteration; and what would end the server or a task is not for it here.
            if isinstance(error, Exception) and not isinstance(error, StopIteration):
                raise error
            raise ForeignExitError(error) from error
        finally:
            # Else the error's traceback, this frame and the error keep each other, and the environment, alive.
            del error


class ThreadRunner:
    """At most ``max_threads`` threads at work, started as they are needed; stuck ones are given up and replaced.

    Once ``max_stuck`` threads hang, nothing more is begun; those at work by then may come to hang as well.
    """

    def __init__(self, max_threads: int, max_stuck: int) -> None:
        self._max_threads = max_threads
        self._max_stuck = max_stuck
        self._turns = Turns(max_threads, "threads")
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._stuck = 0
        self._stopped = False

    @property
    def stuck(self) -> int:
        """Threads that were given up and still hang."""
        return self._stuck

    async def run(
        self, call: Callable[[], T], timeout_s: float, late: Callable[[T | None], None] | None = None
    ) -> T:
        """Run ``call`` in a thread, as soon as it is the caller's turn (:mod:`~verl_agent_env.turns`).

        Args:
            call: What to run.
            timeout_s: How long it may take, not counting the wait for a free thread.
            late: Takes what a call that was given up returns in the end (``None`` when it raises), in its thread.

        Raises:
            StuckCallError: It took longer than ``timeout_s``.
            AtCapacityError: Too many threads hang, or others have had them all for too long.
            ForeignExitError: It raised ``SystemExit`` or the like.
        """
        async with self._turns.place():
            # Only now does the time run: waiting for a free thread is not the environment's fault.
            if self._stuck >= self._max_stuck:
                raise AtCapacityError("stuck threads", self._max_stuck)
            return await self._run(_Job(call, late), timeout_s)

    def stop(self) -> None:
        """Let idle threads end; those at work end after their call."""
        with self._lock:
            self._stopped = True
            idle, self._idle = self._idle, 0
        for _ in range(idle):
            self._jobs.put(None)

    async def _run(self, job: _Job[T], timeout_s: float) -> T:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def notify() -> None:
            # The loop is gone when the server stopped meanwhile: then nobody waits any more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_wake, done)

        job.notify = notify
        self._submit(job)
        try:
            async with asyncio.timeout(timeout_s):
                await done
        except TimeoutError:
            # A call that came to its end in the same moment has its outcome all the same.
            if self._give_up(job):
                raise StuckCallError from None
        except asyncio.CancelledError:
            if not self._give_up(job):
                self._submit(_Job(job.run_late, None))
            raise
        return job.outcome()

    def _submit(self, job: _Job[Any]) -> None:
        with self._lock:
            start = self._idle == 0
            if not start:
                self._idle -= 1
        if start:
            try:
                threading.Thread(target=self._work, name="env-call", daemon=True).start()
            except RuntimeError:
                # The machine has no more.
                raise AtCapacityError("threads", self._max_threads) from None
        self._jobs.put(job)

    def _give_up(self, job: _Job[Any]) -> bool:
        """Tell whether the call is given up; ``False`` if it has ended."""
        with self._lock:
            if job.finished:
                return False
            job.abandoned = True
            if job.started:
                self._stuck += 1
            return True

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            with self._lock:
                job.started = not job.abandoned
            if not job.started:
                job.run_late()
                with self._lock:
                    last = self._stopped
                    self._idle += not last
                if last:
                    return
                del job
                continue
            job.run()
            with self._lock:
                job.finished = True
                given_up = job.abandoned
                last = self._stopped
                if not given_up and not last:
                    self._idle += 1
            if given_up:
                job.run_late()
                with self._lock:
                    self._stuck -= 1
                return
            if job.notify is not None:
                job.notify()
            del job
            if last:
                return


class Threads:
    """The threads of one host: many for environments that wait, a few for those that compute.

    All of them share the interpreter with the event loop: a computing thread takes time from everybody else's calls, a
    waiting one takes none.
    """

    def __init__(self, limits: HostLimits) -> None:
        self._waiting = ThreadRunner(limits.max_threads, limits.max_stuck_threads)
        self._computing = ThreadRunner(limits.max_compute_threads, limits.max_stuck_threads)

    def of(self, kind: EnvKind) -> ThreadRunner:
        """Return the runner of the threads for environments of a kind."""
        return self._computing if kind.execution == "compute" else self._waiting

    @property
    def stuck(self) -> int:
        """Threads that were given up and still hang."""
        return self._waiting.stuck + self._computing.stuck

    def stop(self) -> None:
        """Let idle threads end; those at work end after their call."""
        self._waiting.stop()
        self._computing.stop()


def _wake(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
