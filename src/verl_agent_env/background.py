"""Tasks that run as long as their process does: one that fails is heard of, and starts again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

PAUSE_S = 1.0
"""Between the end of a background task and its next start."""


def start(name: str, run: Callable[[], Awaitable[None]], *, pause_s: float = PAUSE_S) -> asyncio.Task[None]:
    """Start a task that keeps ``run`` running until it is cancelled; see :func:`keep_running`."""
    return asyncio.get_running_loop().create_task(keep_running(name, run, pause_s=pause_s), name=name)


async def keep_running(name: str, run: Callable[[], Awaitable[None]], *, pause_s: float = PAUSE_S) -> None:
    """Await ``run()`` until cancelled; whenever it comes to an end, log that as an error and begin again.

    It also ends when a future that it waited for was cancelled by somebody else, which looks like a cancellation of the
    task and is none. What is to end the process (``SystemExit``) does.

    Args:
        name: What to call it in the log.
        run: Begins the work; what it has to keep between two starts it keeps elsewhere.
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
            "a background task came to its end; it starts again in %g s",
            pause_s,
            exc_info=reason,
            extra={"task": name},
        )
        await asyncio.sleep(pause_s)
