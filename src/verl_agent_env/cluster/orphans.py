"""Ends programs whose starter has died: a script of its own, so that it starts in a moment and outlives its starter.

It goes on as a child of nobody: whoever started it may be ended together with all its children.
Standard input says what the starter started: ``+PID`` for the leader of a process group, ``-PID`` once it has ended. At the end of the
input the starter is gone, however it died; what is left then gets SIGTERM, and SIGKILL after ``GRACE_S``. A folder that the command line names is removed in the end.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable

GRACE_S = 10.0
_POLL_S = 0.05


def watch(lines: Iterable[str]) -> None:
    """Follow the starter until its end, and end what it left."""
    groups: dict[int, None] = {}
    for line in lines:
        change, pid = line[:1], int(line[1:])
        if change == "+":
            groups[pid] = None
        else:
            groups.pop(pid, None)
    # In the order opposite to that of their starts: what came last needs what came first.
    for pid in reversed(groups):
        _send(pid, signal.SIGTERM)
    end = time.monotonic() + GRACE_S
    while any(map(_is_alive, groups)) and time.monotonic() < end:
        time.sleep(_POLL_S)
    for pid in groups:
        _send(pid, signal.SIGKILL)


def _is_alive(pid: int) -> bool:
    return _send(pid, 0)


def _send(pid: int, number: int) -> bool:
    """Send a signal to a process group; returns whether there is one."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
        return True
    return False


if __name__ == "__main__":
    # The terminal's signals go to the starter as well, which ends its programs in order.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    if os.fork():
        os._exit(0)
    watch(sys.stdin)
    for folder in sys.argv[1:]:
        shutil.rmtree(folder, ignore_errors=True)
