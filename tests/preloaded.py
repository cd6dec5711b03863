"""Servers of tests that start at once: forked from a process that has loaded the package, which takes two seconds.

``python -m tests.preloaded`` is that process; its standard input is the socket over which it is told what to start.
Whatever is started there is its child, so who asked is told the exit code through a pipe of its own.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tests.children import ROOT
from tests.waiting import HANG_S

_MAX_REQUEST_BYTES = 1 << 17


class Preloaded:
    """A process that has loaded the package, and what plugins there are on its path."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "tests.preloaded"]
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=dict(variables), stdin=theirs.fileno(), stdout=subprocess.DEVNULL
            )

    def start(self, arguments: Sequence[str], variables: Mapping[str, str], stderr: int) -> ForkedProcess:
        """Run ``verl-agent-env`` with these arguments at the root of the project, with nothing to read.

        Args:
            arguments: Of the command line.
            variables: The whole environment. Those of Python itself are as they were for this process.
            stderr: Descriptor that it writes its lines to.
        """
        reading, writing = os.pipe()
        try:
            request = json.dumps({"arguments": list(arguments), "variables": dict(variables)}).encode()
            socket.send_fds(self._socket, [request], [stderr, writing])
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
        self.pid = self._read()

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


def main() -> None:
    """Start what is asked for, until nobody is there who could ask."""
    import verl_agent_env.cli.serve
    import verl_agent_env.cluster.redis_store
    import verl_agent_env.server.pool  # noqa: F401

    gc.collect()
    gc.freeze()
    asked = _fork_until_nobody_asks()
    if asked is not None:
        _become(*asked)


def _fork_until_nobody_asks() -> tuple[int, dict[str, Any]] | None:
    """Fork for each request. In the child: the descriptor of its standard error, and the request."""
    with socket.socket(fileno=0) as requests, selectors.DefaultSelector() as selector:
        selector.register(requests, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is not requests:
                    selector.unregister(key.fileobj)
                    _tell_end(key.fd, *key.data)
                    continue
                request, descriptors, _, _ = socket.recv_fds(requests, _MAX_REQUEST_BYTES, 2)
                if not request:
                    return None
                stderr, telling = descriptors
                pid = os.fork()
                if pid == 0:
                    return stderr, json.loads(request)
                os.close(stderr)
                os.write(telling, b"%d\n" % pid)
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, telling))


def _tell_end(pidfd: int, pid: int, telling: int) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    # Whoever asked may be gone.
    with contextlib.suppress(BrokenPipeError):
        os.write(telling, b"%d\n" % code)
    os.close(telling)
    os.close(pidfd)


def _become(stderr: int, request: dict[str, Any]) -> None:
    """In the child: be as a process that was started with these arguments and variables, and run."""
    os.dup2(stderr, 2)
    # The socket was 0, and is closed.
    assert os.open(os.devnull, os.O_RDONLY) == 0
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.environ.clear()
    os.environ.update(request["variables"])
    sys.argv[1:] = request["arguments"]
    from verl_agent_env.cli import main as run

    run()


if __name__ == "__main__":
    main()
