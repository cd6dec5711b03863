"""Servers and commands of tests that start at once: forked from a process that has loaded the package, which takes two seconds.

That process runs ``forking.py``. What it starts is its child, not ours: it tells the exit code through a pipe.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.waiting import HANG_S

_ROOT = Path(__file__).parents[1]


class Preloaded:
    """A process that has loaded the package, and what plugins there are on its path."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, str(_ROOT / "tests" / "forking.py")]
            self._process = subprocess.Popen(
                command, cwd=_ROOT, env=dict(variables), stdin=theirs.fileno(), stdout=subprocess.DEVNULL
            )

    def start(
        self,
        arguments: Sequence[str],
        variables: Mapping[str, str],
        stderr: int,
        stdout: int | None = None,
        *,
        folder: Path = _ROOT,
        is_python: bool = False,
    ) -> ForkedProcess:
        """Run ``verl-agent-env`` with these arguments, with nothing to read.

        Args:
            arguments: Of the command line.
            variables: The whole environment. Those of Python itself are as they were for this process.
            stderr: Descriptor of its standard error.
            stdout: Descriptor of its standard output; None for nowhere.
            folder: Where it runs.
            is_python: Run Python with these arguments instead. What the package consists of is imported already.
        """
        reading, writing = os.pipe()
        try:
            request = json.dumps(
                {
                    "arguments": list(arguments),
                    "variables": dict(variables),
                    "folder": str(folder),
                    "is_python": is_python,
                }
            ).encode()
            with Path(os.devnull).open("wb") as nowhere:
                outputs = [nowhere.fileno() if stdout is None else stdout, stderr]
                socket.send_fds(self._socket, [request], [*outputs, writing])
        finally:
            os.close(writing)
        return ForkedProcess(reading)

    def stop(self) -> None:
        """End the process; what it started goes on."""
        self._socket.close()
        self._process.wait(HANG_S)


class ForkedProcess:
    """What :class:`Preloaded` started, with those methods of ``subprocess.Popen`` that tests use."""

    def __init__(self, told: int) -> None:
        # The process id on a line, and the exit code on a second one when there is one.
        self._told = os.fdopen(told, "rb", buffering=0)
        self.returncode: int | None = None
        try:
            self.pid = self._read()
        except RuntimeError:
            self._told.close()
            raise

    def poll(self) -> int | None:
        """The exit code, or ``None`` as long as it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and give the exit code, which is minus the signal that ended it.

        Raises:
            subprocess.TimeoutExpired: It still runs.
        """
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._told, selectors.EVENT_READ)
                if not selector.select(timeout):
                    raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            self.returncode = self._read()
            self._told.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """As ``send_signal(SIGTERM)``."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """As ``send_signal(SIGKILL)``."""
        self.send_signal(signal.SIGKILL)

    def _read(self) -> int:
        line = self._told.readline()
        if not line:
            raise RuntimeError("the process that forks servers has ended")
        return int(line)


def preloaded(variables: Mapping[str, str]) -> Preloaded:
    """One that has these variables of Python itself: from when it is first needed to the end."""
    return _preloaded(tuple(sorted(item for item in variables.items() if item[0].startswith("PYTHON"))))


@functools.cache
def _preloaded(of_python: tuple[tuple[str, str], ...]) -> Preloaded:
    others = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    made = Preloaded({**others, **dict(of_python)})
    atexit.register(made.stop)
    return made
