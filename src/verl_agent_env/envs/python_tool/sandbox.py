"""Sandboxes: Python in a process of its own, confined by bubblewrap and by what it gives up itself (:mod:`.inside`)."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import sys
import sysconfig
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

import orjson

from verl_agent_env.envs.processes import ChildProcess, LauncherClient, ProgramStartError
from verl_agent_env.envs.python_tool.inside import READY
from verl_agent_env.errors import OutsideCallError
from verl_agent_env.turns import Turns, limit_paused

MAX_SANDBOXES = max(2, os.cpu_count() or 1)
"""Sandboxes that run at a time in one worker; further calls take turns."""

RunEnd: TypeAlias = Literal["ended", "failed", "out_of_time", "too_long"]
"""How a program ended: by itself, with an exception or another status than 0, killed for its time, or for its output."""

_INSIDE = Path(__file__).with_name("inside.py")
_START_S = 20.0
"""Limit of the start of a sandbox, on a machine that is far too busy."""
_MAX_COMPLAINT_BYTES = 1000
_CHECK_MEMORY_BYTES = 256 << 20
# Each of these has to fail; what does not is printed.
_ESCAPES = """
import os, socket, threading
for name, escape in (
    ("start a process", os.fork),
    ("start a thread", threading.Thread(target=print).start),
    ("open a socket", socket.socket),
    ("write a file", lambda: open("/escaped", "w")),
    ("see other processes", lambda: open("/proc/1/status")),
):
    try:
        escape()
    except (OSError, RuntimeError):
        continue
    print(name)
"""


class RunResult(NamedTuple):
    """Outcome of one run."""

    end: RunEnd
    output: str
    """Text of standard output and error."""
    status: int = 0
    """Exit status; 128 and a signal's number if the signal ended it. 0 for one that was killed here."""


class SandboxLimits(NamedTuple):
    """Limits of one run."""

    time_s: float
    memory_bytes: int
    max_output_bytes: int


class Sandboxes:
    """Sandboxes of one event loop: a bounded number at a time, none of which outlives the worker."""

    def __init__(self, places: int = MAX_SANDBOXES) -> None:
        """Make room for ``places`` sandboxes at a time."""
        self._turns = Turns(places, "Python sandboxes at a time")
        self._launcher: LauncherClient | None = None
        self._is_checked = False
        self._checking = asyncio.Lock()

    @property
    def launcher_pid(self) -> int | None:
        """Pid of the process that runs the sandboxes; None without one."""
        return self._launcher.pid if self._launcher is not None and self._launcher.is_alive else None

    @contextlib.asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold the place of one sandbox; the time limit of the running call does not count the wait for it.

        Raises:
            AtCapacityError: Others have had all places for too long.
        """
        with limit_paused():
            caller = await self._turns.take()
        try:
            yield
        finally:
            self._turns.give_back(caller)

    async def require(self) -> None:
        """Make sure, once, that code can be confined on this machine.

        Raises:
            OutsideCallError: It cannot; the message says why.
        """
        async with self._checking:
            if self._is_checked:
                return
            async with self.place():
                result = await self.run(_ESCAPES, SandboxLimits(_START_S, _CHECK_MEMORY_BYTES, 1000))
            if result.end != "ended" or result.output:
                raise OutsideCallError(f"a sandbox does not confine: code in it can {result.output.strip()}")
            self._is_checked = True

    async def run(self, code: str, limits: SandboxLimits) -> RunResult:
        """Run code in a new sandbox, in a place that the caller holds.

        Raises:
            OutsideCallError: The sandbox could not be started.
        """
        command, paths = _command()
        head = {"memory_bytes": limits.memory_bytes, "cpu_s": int(limits.time_s) + 1, "paths": paths}
        try:
            process = await self._running_launcher().start(command, {}, "/")
        except ProgramStartError as refused:
            raise OutsideCallError(f"no sandbox could be started: {refused}") from None
        async with _Streams.of(process, limits.max_output_bytes) as streams:
            # Half a character is no text in any encoding.
            streams.send(orjson.dumps(head) + b"\n" + code.encode("utf-8", "replace"))
            await self._started(process, streams)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limits.time_s):
                    await streams.ended_or_full()
            if streams.is_full:
                return RunResult("too_long", streams.output(limits.max_output_bytes))
            if not process.exited.done():
                return RunResult("out_of_time", streams.output(limits.max_output_bytes))
            output = streams.output(limits.max_output_bytes)
            status = process.exited.result()
            return RunResult("failed" if status else "ended", output, status)

    async def aclose(self) -> None:
        """End the launcher, and with it every sandbox."""
        launcher, self._launcher = self._launcher, None
        if launcher is not None:
            await launcher.aclose()

    async def _started(self, process: ChildProcess, streams: _Streams) -> None:
        try:
            async with asyncio.timeout(_START_S):
                is_ready = await streams.ready()
        except TimeoutError:
            raise OutsideCallError(f"a sandbox did not start within {_START_S:g} s") from None
        if not is_ready:
            raise OutsideCallError(f"no sandbox could be started: {streams.complaint()}")

    def _running_launcher(self) -> LauncherClient:
        if self._launcher is None or not self._launcher.is_alive:
            self._launcher = LauncherClient()
        return self._launcher


class _Output(asyncio.Protocol):
    """Reader of one pipe, which keeps the beginning."""

    def __init__(self, max_bytes: int, changed: asyncio.Event) -> None:
        self.kept = bytearray()
        self.has_ended = False
        self.is_full = False
        self._max_bytes = max_bytes
        self._changed = changed

    def data_received(self, data: bytes) -> None:
        room = self._max_bytes - len(self.kept)
        self.kept += data[:room]
        self.is_full = self.is_full or len(data) > room
        self._changed.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.has_ended = True
        self._changed.set()


class _Streams:
    """Pipes of a sandbox."""

    def __init__(self, process: ChildProcess, max_output_bytes: int) -> None:
        self._process = process
        self._changed = asyncio.Event()
        self._output = _Output(max_output_bytes, self._changed)
        self._errors = _Output(_MAX_COMPLAINT_BYTES, self._changed)
        self._sent = _Output(0, self._changed)
        self._input: asyncio.WriteTransport | None = None
        self._outputs: list[asyncio.ReadTransport] = []
        process.exited.add_done_callback(lambda _: self._changed.set())

    @classmethod
    @contextlib.asynccontextmanager
    async def of(cls, process: ChildProcess, max_output_bytes: int) -> AsyncIterator[_Streams]:
        """Connect the pipes; in the end the process is killed, and has ended."""
        streams = cls(process, max_output_bytes)
        try:
            await streams._connect()
            yield streams
        finally:
            streams._close()
            await asyncio.shield(process.stop(0.0))

    async def _connect(self) -> None:
        loop, process = asyncio.get_running_loop(), self._process
        into, out, err = (
            os.fdopen(descriptor, mode, 0)
            for descriptor, mode in ((process.stdin, "wb"), (process.stdout, "rb"), (process.stderr, "rb"))
        )
        self._input, _ = await loop.connect_write_pipe(lambda: self._sent, into)
        for output, pipe in ((self._output, out), (self._errors, err)):
            self._outputs.append((await loop.connect_read_pipe(functools.partial(_same, output), pipe))[0])

    def send(self, data: bytes) -> None:
        """Send all of standard input."""
        if self._input is not None:
            self._input.write(data)
            self._input.close()

    def _close(self) -> None:
        if self._input is not None and not self._sent.has_ended:
            # Not close(): it would wait for a process that does not read.
            self._input.abort()
        for transport in self._outputs:
            transport.close()

    async def ready(self) -> bool:
        """Wait until everything is given up; return false if the process ends before."""
        while not self._errors.kept.startswith(READY):
            if self._errors.has_ended:
                return False
            await self._change()
        return True

    async def ended_or_full(self) -> None:
        """Wait until the process has ended and all its output was read, or there is too much of it."""
        while not (self._output.is_full or (self._process.exited.done() and self._output.has_ended)):
            await self._change()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    @property
    def is_full(self) -> bool:
        """True if there is more output than is kept."""
        return self._output.is_full

    def output(self, max_bytes: int) -> str:
        """Return what was written so far."""
        return bytes(self._output.kept[:max_bytes]).decode("utf-8", "replace")

    def complaint(self) -> str:
        """Return what a process that did not start has written, in one line."""
        text = bytes(self._errors.kept).decode("utf-8", "replace").strip()
        return text.splitlines()[-1] if text else "it ended at once"


def _same(protocol: _Output) -> _Output:
    return protocol


@functools.cache
def _command() -> tuple[Sequence[str], list[str]]:
    """Return the command of a sandbox, and the folders of installed packages that code in it can import.

    The root is made of nothing: the system's libraries and this Python, read-only, and two devices. There is no /proc, no
    /tmp, no home and no configuration.

    Raises:
        OutsideCallError: There is no bubblewrap.
    """
    program = shutil.which("bwrap")
    if program is None:
        raise OutsideCallError("there is no program 'bwrap' here; the package 'bubblewrap' has it")
    interpreter = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    paths = list(dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib")))
    shown = ["/usr", sys.base_prefix, *paths]
    mounts: list[str] = []
    for path in ("/lib", "/lib64", "/lib32"):
        if Path(path).is_symlink():
            mounts += ["--symlink", str(Path(path).readlink()), path]
        elif Path(path).is_dir():
            shown.append(path)
    mounts += [part for path in dict.fromkeys(shown) for part in ("--ro-bind", path, path)]
    mounts += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    mounts += [
        part for name in ("null", "urandom") for part in ("--dev-bind", f"/dev/{name}", f"/dev/{name}")
    ]
    variables = {
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    confined = [
        *(program, "--unshare-all", "--uid", "65534", "--gid", "65534", "--cap-drop", "ALL"),
        *("--die-with-parent", "--new-session", "--clearenv"),
        *(part for name, value in variables.items() for part in ("--setenv", name, value)),
        *(*mounts, "--remount-ro", "/", "--chdir", "/"),
    ]
    # Without the folders of users and of packages, whose start-up files would run; without writing compiled files.
    return [*confined, "--", str(interpreter), "-s", "-S", "-B", "-c", _INSIDE.read_text("utf-8")], paths


_sandboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, Sandboxes] = WeakKeyDictionary()


def sandboxes_here() -> Sandboxes:
    """Return the sandboxes of the running event loop."""
    loop = asyncio.get_running_loop()
    found = _sandboxes.get(loop)
    if found is None:
        found = _sandboxes[loop] = Sandboxes()
    return found
