"""An event loop whose time is made up: nobody waits, and one run is like the next.

Whatever runs in the context of a :class:`Process` can be stopped and woken, as by SIGSTOP and SIGCONT, or killed: its
callbacks are put aside while the clock goes on for all others.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import Any


class Process:
    """What stops, wakes and dies together."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_paused = False
        self.is_dead = False
        self.held: deque[asyncio.Handle] = deque()
        """Callbacks that were due while it did not run, in order."""
        self.context = copy_context()
        self.context.run(_PROCESS.set, self)


_PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


class VirtualLoop(asyncio.BaseEventLoop):
    """Timers are due as soon as nothing else is to do, in their order; there are no files and no threads."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.processes: list[Process] = []
        self.after_turn: Callable[[], None] = lambda: None
        """Called whenever all that was ready has run."""

    def time(self) -> float:
        """Seconds."""
        return self.now

    def process(self, name: str) -> Process:
        """A new process, which runs."""
        self.processes.append(Process(name))
        return self.processes[-1]

    def wake(self, process: Process) -> None:
        """Let a stopped process go on; what was due meanwhile comes first."""
        process.is_paused = False
        state: Any = self
        state._ready.extend(process.held)
        process.held.clear()

    def _run_once(self) -> None:
        state: Any = self
        ready, timers = state._ready, state._scheduled
        while timers and timers[0]._cancelled:
            heapq.heappop(timers)._scheduled = False
        if not ready:
            if not timers:
                raise RuntimeError("everybody waits for something that will never happen")
            self.now = max(self.now, timers[0]._when)
        while timers and timers[0]._when <= self.now:
            timer = heapq.heappop(timers)
            timer._scheduled = False
            ready.append(timer)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            process = handle._context.get(_PROCESS)
            if process is not None and (process.is_paused or process.is_dead):
                process.held.append(handle)
            else:
                handle._run()
        self.after_turn()

    def _process_events(self, event_list: Any) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody sleeps."""

    def end(self) -> None:
        """Cancel whatever is left, let it come to its end, and close."""
        for process in self.processes:
            process.is_dead = False
            self.wake(process)
        left = asyncio.all_tasks(self)
        for task in left:
            task.cancel()
        if left:
            self.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self.close()
