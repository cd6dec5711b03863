"""Finds what holds up the event loop: while one callback runs, nobody else's call goes on.

A timer of the loop notes every few hundredths of a second that the loop has come round. A thread looks whether it did and,
if it has not for too long, at what the loop is doing: only so a callback that never returns is found, and the name of any.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType

logger = logging.getLogger(__name__)

MAX_HELD_UP_S = 0.1
"""How long one round of the loop may take."""
UNSEEN = "code that kept the interpreter to itself"
"""Name of what was over before any other thread could look: one long call of a function in C."""
_LOOK_S = 0.025


class LoopWatch:
    """Counts and logs what kept an event loop longer than allowed, by the name of the code.

    It counts what computed for so long, or slept. A loop that other processes kept from its core is at no fault.
    """

    def __init__(self, max_held_up_s: float = MAX_HELD_UP_S) -> None:
        """Watch nothing yet.

        Args:
            max_held_up_s: Above this it is counted.
        """
        self.held_up: Counter[str] = Counter()
        """How often code held the loop up, by its name."""
        self.longest_s = 0.0
        """The longest time that the loop's thread has computed in one round."""
        self._max_s = max_held_up_s
        self._rounds = 0
        self._round_at = 0.0
        self._computed_s = 0.0
        self._blamed = 0
        """The round for which a name was counted last."""

    async def run(self) -> None:
        """Watch the running loop until cancelled."""
        self._computed_s = time.thread_time()
        self._come_round()
        stopped = threading.Event()
        loop_thread = threading.current_thread()
        threading.Thread(
            target=self._watch, args=(loop_thread, stopped), name="loop-watch", daemon=True
        ).start()
        loop = asyncio.get_running_loop()
        # Without a task, which would cost an idle worker more.
        self._timer = loop.call_later(_LOOK_S, self._look, loop)
        try:
            await loop.create_future()
        finally:
            self._timer.cancel()
            stopped.set()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._come_round()
        self._timer = loop.call_later(_LOOK_S, self._look, loop)

    def _come_round(self) -> None:
        computed_s = time.thread_time()
        spent_s, self._computed_s = computed_s - self._computed_s, computed_s
        self.longest_s = max(self.longest_s, spent_s)
        if spent_s > self._max_s and self._blamed != self._rounds:
            self._blame(UNSEEN, time.monotonic() - self._round_at, spent_s)
        self._round_at = time.monotonic()
        self._rounds += 1

    def _watch(self, loop_thread: threading.Thread, stopped: threading.Event) -> None:
        thread_id = loop_thread.ident or 0
        clock = time.pthread_getcpuclockid(thread_id)
        pause_s = _LOOK_S
        while not stopped.wait(pause_s):
            rounds, late_s = self._rounds, time.monotonic() - self._round_at - _LOOK_S
            # Each look takes the interpreter away from the loop: there is none before the round could be too long.
            pause_s = max(_LOOK_S, self._max_s - late_s)
            if late_s <= self._max_s or self._blamed == rounds:
                continue
            frame = sys._current_frames().get(thread_id)  # noqa: SLF001 - documented, in spite of its name
            spent_s = time.clock_gettime(clock) - self._computed_s
            is_at_fault = spent_s > self._max_s or _is_asleep(loop_thread)
            if is_at_fault and self._rounds == rounds:
                self._blame(_name_of(frame), late_s, spent_s)

    def _blame(self, name: str, late_s: float, spent_s: float) -> None:
        self._blamed = self._rounds
        self.held_up[name] += 1
        logger.warning(
            "event loop was held up by %s",
            name,
            extra={"held_up_ms": round(late_s * 1000), "computed_ms": round(spent_s * 1000)},
        )


def _name_of(frame: FrameType | None) -> str:
    """The innermost function of a stack that is not Python's own."""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] not in sys.stdlib_module_names:
            return f"{module}.{frame.f_code.co_qualname}"
        frame = frame.f_back
    return UNSEEN


def _is_asleep(thread: threading.Thread) -> bool:
    """Tell whether a thread waits for anything but a core; ``False`` where the system does not say."""
    with contextlib.suppress(OSError, IndexError):
        # The name, which may hold anything, is in parentheses before the state (proc(5)).
        status = Path(f"/proc/self/task/{thread.native_id}/stat").read_text()
        return status.rpartition(")")[2].split()[0] in "SD"
    return False
