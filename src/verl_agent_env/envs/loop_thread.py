"""Event loop in a thread of its own, on which code that does not await waits for coroutines."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _LoopThread:
    """Event loop that runs forever in its own thread."""

    def __init__(self) -> None:
        self.process_id = os.getpid()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="async-envs", daemon=True)
        self.thread.start()


_lock = threading.Lock()
_running: list[_LoopThread] = []


def _loop_thread() -> _LoopThread:
    with _lock:
        # A forked process has the loop, but not the thread that runs it.
        if not _running or _running[-1].process_id != os.getpid():
            _running[:] = [_LoopThread()]
        return _running[-1]


def wait_for(call: Coroutine[Any, Any, T]) -> T:
    """Run ``call`` on the process's event loop for environments and return its result.

    Raises:
        RuntimeError: The caller runs on that event loop, and would wait forever.
    """
    runner = _loop_thread()
    if threading.current_thread() is runner.thread:
        call.close()
        raise RuntimeError(
            "an async environment uses another one through reset, step or close; await areset, astep, aclose"
        )
    future = asyncio.run_coroutine_threadsafe(_contained(call), runner.loop)
    try:
        outcome = future.result()
    except BaseException:
        future.cancel()
        raise
    if isinstance(outcome, _Leaving):
        raise outcome.raised
    return outcome


class _Leaving:
    def __init__(self, raised: BaseException) -> None:
        self.raised = raised


async def _contained(call: Coroutine[Any, Any, T]) -> T | _Leaving:
    try:
        return await call
    except (SystemExit, KeyboardInterrupt) as leaving:
        # Either would stop the event loop that all environments share.
        return _Leaving(leaving)
