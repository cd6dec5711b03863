"""Signals that must not end a server: sent by a closing terminal, by logrotate, by habit."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

_OUTLIVED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def outlive_signals() -> None:
    """Ignore SIGHUP, SIGUSR1 and SIGUSR2, which by default end the process without a message."""
    for number in _OUTLIVED:
        # Handled, not ignored: what is ignored stays so in whatever this process starts.
        signal.signal(number, lambda *_: None)


def log_outlived_signals(say: Callable[[str], None]) -> None:
    """Report each signal of :func:`outlive_signals` instead of ending.

    Args:
        say: Called on the running event loop with a sentence for each signal.
    """
    loop = asyncio.get_running_loop()
    for number in _OUTLIVED:
        loop.add_signal_handler(
            number,
            say,
            f"{number.name} is ignored: logs go to standard error, there is no file to open again",
        )
