"""Signals: a server outlives those of a closing terminal or of logrotate, and ends in order at SIGTERM and SIGQUIT."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable

_OUTLIVED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def outlive_signals(*numbers: signal.Signals) -> None:
    """Ignore signals that by default end the process without a message; SIGHUP, SIGUSR1 and SIGUSR2 where none are named."""
    for number in numbers or _OUTLIVED:
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


def exit_at_signals(*numbers: signal.Signals) -> None:
    """Exit with code 0 at these signals, but not at those that this process was started to ignore, as nohup does with SIGHUP."""
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: sys.exit(0))
