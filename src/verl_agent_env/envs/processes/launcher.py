"""Launcher: a small process beside a worker that starts programs and ends all of them with the worker.

It runs as a script, with the standard library only. The worker has the other end of its socket; when that closes,
on request or because the worker was killed, the launcher kills all programs with all their descendants. If the launcher
itself is killed, the kernel kills the programs that it started (``PR_SET_PDEATHSIG``).

Starting them here, not in the worker, also avoids forks of the worker's whole memory, and SIGCHLD in the worker.

Both directions are lines of JSON. In: ``{"id", "argv", "env", "cwd"}`` with three descriptors (standard input, output and
error), or ``{"id", "stop": grace_s}``. Out: ``{"id", "pid"}`` or ``{"id", "error"}``, and ``{"id", "exited": code}``.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MARK = "VERL_AGENT_ENV_LAUNCH"
"""Variable that a program and all its descendants inherit, unless they remove it."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LAST_SWEEPS = 200
_SWEEP_S = 0.01
_libc = ctypes.CDLL(None)


class Child:
    """Process of a program, and the signals scheduled to end it."""

    def __init__(self, launch_id: int, process: subprocess.Popen[bytes], mark: str) -> None:
        self.launch_id = launch_id
        self.process = process
        self.mark = mark
        self.signals: deque[tuple[float, int]] = deque()
        """Times and signals to be sent to its process group."""


class LauncherProcess:
    """Launcher of one worker, until the worker is gone."""

    def __init__(self, worker: socket.socket) -> None:
        self._worker = worker
        self._children: dict[int, Child] = {}
        self._descriptors: deque[int] = deque()
        self._buffer = b""
        self._ours = f"{os.getpid()}-{time.monotonic_ns()}"

    def run(self) -> None:
        """Serve requests; when the worker is gone, kill all remaining programs."""
        listened = self._worker.fileno()
        wake, woken = os.pipe()
        os.set_blocking(woken, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        # Handled, not ignored: the programs would inherit ignored signals.
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        try:
            while True:
                heard, _, _ = select.select([listened, wake], [], [], self._until_next_signal())
                if wake in heard:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake, 4096)
                if listened in heard and not self._receive():
                    return
                self._reap()
                self._send_due_signals()
        except (BrokenPipeError, ConnectionResetError):
            return
        finally:
            self._kill_all()

    # --- requests of the worker -----------------------------------------------------------------------------

    def _receive(self) -> bool:
        """Read and carry out requests; return false at the end of the stream."""
        data, descriptors, _, _ = socket.recv_fds(self._worker, 65_536, 64)
        self._descriptors.extend(descriptors)
        if not data:
            return False
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            request = json.loads(line)
            if "argv" in request:
                self._start(request)
            else:
                self._stop(request["id"], request["stop"])
        return True

    def _start(self, request: dict[str, Any]) -> None:
        streams = [self._descriptors.popleft() for _ in range(3)]
        launch_id = request["id"]
        mark = f"{self._ours}-{launch_id}"
        try:
            process = subprocess.Popen(  # noqa: S603 - the operator's own command
                request["argv"],
                stdin=streams[0],
                stdout=streams[1],
                stderr=streams[2],
                env={**request["env"], MARK: mark},
                cwd=request["cwd"],
                start_new_session=True,
                preexec_fn=_die_with(os.getpid()),
            )
        except (OSError, subprocess.SubprocessError, ValueError) as refused:
            # Without file names: the command is the operator's secret.
            number = refused.errno if isinstance(refused, OSError) else None
            reason = os.strerror(number) if number else type(refused).__name__
            self._say({"id": launch_id, "error": reason})
            return
        finally:
            for stream in streams:
                os.close(stream)
        self._children[process.pid] = Child(launch_id, process, mark)
        self._say({"id": launch_id, "pid": process.pid})

    def _stop(self, launch_id: int, grace_s: float) -> None:
        for child in self._children.values():
            if child.launch_id == launch_id and not child.signals:
                now = time.monotonic()
                child.signals.append((now + grace_s, signal.SIGTERM))
                child.signals.append((now + 2 * grace_s, signal.SIGKILL))

    def _say(self, message: dict[str, Any]) -> None:
        self._worker.sendall(json.dumps(message).encode() + b"\n")

    # --- ends -----------------------------------------------------------------------------------------------

    def _until_next_signal(self) -> float | None:
        due = [child.signals[0][0] for child in self._children.values() if child.signals]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _send_due_signals(self) -> None:
        now = time.monotonic()
        for pid, child in self._children.items():
            while child.signals and child.signals[0][0] <= now:
                _signal_group(pid, child.signals.popleft()[1])

    def _reap(self) -> None:
        """Collect ended programs, and kill the processes that they leave behind."""
        while (pid := _ended_child()) is not None:
            child = self._children.pop(pid, None)
            if child is None:
                # An orphan that was reparented to this process.
                os.waitpid(pid, 0)
                continue
            # Before waitpid: until then the number of its process group cannot be reused.
            _signal_group(pid, signal.SIGKILL)
            code = child.process.wait()
            for orphan in self._orphans():
                if _has_mark(orphan, child.mark):
                    _kill(orphan)
            self._say({"id": child.launch_id, "exited": code})

    def _orphans(self) -> Iterator[int]:
        return (pid for pid in _children_of_this_process() if pid not in self._children)

    def _kill_all(self) -> None:
        for pid in self._children:
            _signal_group(pid, signal.SIGKILL)
        # The children of a killed process are reparented to this one (subreaper), so in the end all are its own.
        for _ in range(_LAST_SWEEPS):
            for pid in _children_of_this_process():
                _kill(pid)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
            time.sleep(_SWEEP_S)


def _die_with(parent: int) -> Any:
    def prepare() -> None:
        # Also signals that the worker's parent made it ignore, as nohup and a shell's & do.
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        _control(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            # The parent died before prctl.
            os._exit(1)

    return prepare


def _control(option: int, value: int) -> None:
    """Call ``prctl``, where the system has it."""
    with contextlib.suppress(AttributeError):
        _libc.prctl(option, value, 0, 0, 0)


def _ended_child() -> int | None:
    """Return the pid of a child that has ended and was not waited for yet."""
    try:
        info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if info is None else info.si_pid


def _children_of_this_process() -> list[int]:
    try:
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    except OSError:
        return []


def _has_mark(pid: int, mark: str) -> bool:
    try:
        return f"{MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    _control(_PR_SET_CHILD_SUBREAPER, 1)
    LauncherProcess(socket.socket(fileno=int(sys.argv[1]))).run()
