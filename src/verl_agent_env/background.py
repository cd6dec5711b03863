"""Background tasks that restart after a failure, with an error in the log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

PAUSE_S = 1.0
"""Seconds between the end of a background task and its next start."""


def start(name: str, run: Callable[[], Awaitable[None]], *, pause_s: float = PAUSE_S) -> asyncio.Task[None]:
    """Start :func:`keep_running` as a task of the running event loop."""
    return asyncio.get_running_loop().create_task(keep_running(name, run, pause_s=pause_s), name=name)


async def keep_running(name: str, run: Callable[[], Awaitable[None]], *, pause_s: float = PAUSE_S) -> None:
    """Await ``run()`` again and again until cancelled; each end of it is logged as an error.

    A ``CancelledError`` counts as such an end unless this task itself is being cancelled: a future that ``run()`` awaited
    may have been cancelled by others. ``SystemExit`` and ``KeyboardInterrupt`` are raised.

    Args:
        name: Name of the task in the log.
        run: Does the work; state that has to survive a restart is kept outside of it.
        pause_s: Seconds until the next start.
    """
    while True:
        reason: BaseException | None = None
        try:
            await run()
        except asyncio.CancelledError as cancelled:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            reason = cancelled
        except Exception as raised:  # noqa: BLE001 - it is logged below
            reason = raised
        logger.error(
            "background task ended; restarting it in %g s",
            pause_s,
            exc_info=reason,
            extra={"task": name},
        )
        await asyncio.sleep(pause_s)
