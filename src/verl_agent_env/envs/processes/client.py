"""Child processes of one event loop, started and ended through a launcher (:mod:`.launcher`)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

INHERITED = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER")
"""Variables of the worker that a program inherits; no others are passed on."""

_LAUNCHER = Path(__file__).with_name("launcher.py")
_LAUNCHER_FD = 3
_END_S = 5.0
_POLL_S = 0.005


class ProgramStartError(RuntimeError):
    """A program could not be started; the message gives the reason, but neither the command nor its environment."""


class ChildProcess:
    """Running program; the caller that started it owns its three descriptors."""

    def __init__(
        self, launch_id: int, pid: int, streams: tuple[int, int, int], launcher: LauncherClient
    ) -> None:
        self.pid = pid
        self.stdin, self.stdout, self.stderr = streams
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """Exit code, set when the program and its process group have ended."""
        self._launch_id = launch_id
        self._launcher = launcher

    async def stop(self, grace_s: float) -> None:
        """Wait for its end: by itself within ``grace_s``, by SIGTERM within as long again, else by SIGKILL."""
        if not self.exited.done():
            await self._launcher.send({"id": self._launch_id, "stop": grace_s})
            await asyncio.wait([self.exited], timeout=2 * grace_s + _END_S)


class LauncherClient:
    """Launcher process of one event loop, and the requests to it."""

    def __init__(self) -> None:
        """Start the launcher."""
        self._loop = asyncio.get_running_loop()
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        with theirs:
            # posix_spawn, not subprocess.Popen, which warns when a worker ends without waiting for it.
            self._pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", "-S", str(_LAUNCHER), str(_LAUNCHER_FD)],
                {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ},
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), _LAUNCHER_FD)],
                setsid=True,
            )
        self._ids = itertools.count(1)
        self._asked: dict[int, asyncio.Future[int]] = {}
        self._running: dict[int, ChildProcess] = {}
        self._sending = asyncio.Lock()
        self.is_alive = True
        """True while requests can be sent."""
        self._reader = self._loop.create_task(self._read(), name="launcher")

    @property
    def pid(self) -> int:
        """Pid of the launcher."""
        return self._pid

    async def start(self, argv: Sequence[str], env: Mapping[str, str], cwd: str | None) -> ChildProcess:
        """Start a program in its own session; cancelling the caller ends it.

        Raises:
            ProgramStartError: The program cannot be run; the message gives the reason but not the command.
        """
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        launch_id = next(self._ids)
        ours, theirs = _pipes()
        answer = self._asked[launch_id] = self._loop.create_future()
        process: ChildProcess | None = None
        try:
            request = {"id": launch_id, "argv": list(argv), "env": {**inherited, **env}, "cwd": cwd}
            await self.send(request, theirs)
            pid = await answer
            process = self._running[launch_id] = ChildProcess(launch_id, pid, ours, self)
            return process
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                self._forget(answer.result())
            raise
        finally:
            self._asked.pop(launch_id, None)
            for descriptor in theirs if process is not None else (*theirs, *ours):
                os.close(descriptor)

    async def send(self, request: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send a request; a request other than a start is ignored if the launcher is gone."""
        data = orjson.dumps(request) + b"\n"
        async with self._sending:
            while self.is_alive:
                try:
                    sent = socket.send_fds(self._socket, [data], descriptors)
                except BlockingIOError:
                    await asyncio.sleep(_POLL_S)
                    continue
                except OSError:
                    break
                with contextlib.suppress(OSError):
                    await self._loop.sock_sendall(self._socket, data[sent:])
                return
        if "argv" in request:
            raise ProgramStartError("the launcher of programs is gone")

    async def aclose(self) -> None:
        """End the launcher, and with it every program that it started."""
        self._reader.cancel()
        await asyncio.wait([self._reader])

    async def _read(self) -> None:
        buffer = b""
        try:
            while data := await self._loop.sock_recv(self._socket, 65_536):
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    self._heard(orjson.loads(line))
        except OSError:
            pass
        finally:
            await self._end()

    def _heard(self, message: dict[str, Any]) -> None:
        launch_id = message["id"]
        if "exited" in message:
            process = self._running.pop(launch_id, None)
            if process is not None and not process.exited.done():
                process.exited.set_result(message["exited"])
            return
        answer = self._asked.get(launch_id)
        if answer is None or answer.done():
            # The caller was cancelled: the started program must not stay.
            if "pid" in message:
                self._forget(message["pid"])
        elif "pid" in message:
            answer.set_result(message["pid"])
        else:
            answer.set_exception(ProgramStartError(f"its program cannot be run: {message['error']}"))

    async def _end(self) -> None:
        """Close the socket, which ends the launcher and all programs; kill the programs here if the launcher is dead."""
        self.is_alive = False
        self._socket.close()
        end = self._loop.time() + _END_S
        while _is_running(self._pid) and self._loop.time() < end:  # noqa: ASYNC110 - nothing tells of its end
            await asyncio.sleep(_POLL_S)
        for process in self._running.values():
            self._forget(process.pid)
            if not process.exited.done():
                process.exited.set_result(-signal.SIGKILL)
        self._running.clear()
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(ProgramStartError("the launcher of programs ended"))

    def _forget(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def _is_running(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG) == (0, 0)
    except ChildProcessError:
        return False


def _pipes() -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Open pipes for standard input, output and error; return our ends and the program's."""
    opened: list[int] = []
    try:
        for _ in range(3):
            opened += os.pipe()
    except OSError as none_left:
        for descriptor in opened:
            os.close(descriptor)
        raise ProgramStartError(f"no pipe to it can be made: {none_left.strerror}") from None
    stdin, to_server, from_server, stdout, errors, stderr = opened
    return (to_server, from_server, errors), (stdin, stdout, stderr)
