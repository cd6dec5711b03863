"""Servers under test: started on a free port of the loopback, watched through ``/proc``, ended by their id."""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from verl_agent_env.cluster.ports import free_port

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_START_TIMEOUT_S = 180.0


@dataclass(frozen=True)
class ServerProcess:
    """A running server."""

    pid: int
    port: int

    def cpu_s(self) -> float:
        """Seconds of CPU used so far, user and system."""
        # clock_getcpuclockid(3), which Python has of the own process alone: to the nanosecond, where /proc counts ticks.
        return time.clock_gettime((~self.pid << 3) | 2)

    def rss_bytes(self) -> int:
        """Resident memory."""
        return rss_of(self.pid)


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[ServerProcess]:
    """``verl-agent-env serve`` with these options, ready to answer."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "verl_agent_env.cli",
        "serve",
        "--port",
        str(port),
        "--log-level",
        "warning",
    ]
    with _running([*command, *arguments], port) as server:
        yield server


@contextlib.contextmanager
def serving_app(app: str, python: str | None = None) -> Iterator[ServerProcess]:
    """An ASGI application under uvicorn, set as the server sets it; by another ``python`` than this one, if it is given."""
    port = free_port()
    options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    headers = ["--no-server-header", "--no-date-header"]
    command = [python or sys.executable, "-m", "uvicorn", app, "--port", str(port), *options, *headers]
    # The reference server of ORS takes its level from there, and would write two lines for each call.
    with _running(command, port, LOG_LEVEL="WARNING") as server:
        yield server


@contextlib.contextmanager
def _running(command: list[str], port: int, **variables: str) -> Iterator[ServerProcess]:
    # In a session of its own, as the nodes of a cluster are: Linux shares the CPU among sessions, and in that of its clients a server's
    # answers would cost less.
    process = subprocess.Popen(command, env={**os.environ, **variables}, start_new_session=True)
    try:
        _await_answer(process, port)
        yield ServerProcess(process.pid, port)
    finally:
        _end(process)


def _await_answer(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with exit code {process.returncode}")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        try:
            connection.request("GET", "/healthz")
            connection.getresponse().read()
            return
        except OSError:
            time.sleep(0.05)
        finally:
            connection.close()
    raise TimeoutError(f"the server did not answer within {_START_TIMEOUT_S:g} s")


def rss_of(pid: int) -> int:
    """Bytes of resident memory of a process.

    Raises:
        OSError: There is no such process.
    """
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def pss_of(pid: int) -> int:
    """Bytes of memory of a process; of what it shares with others, its part.

    Raises:
        OSError: There is no such process, or it is another user's.
    """
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return 1024 * next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))


def cpu_of_tree(pid: int) -> float:
    """Seconds of CPU that a process and all its descendants have used so far, those included that have ended.

    Raises:
        ProcessLookupError: There is no such process.
    """
    # Its own, user and system, and that of its children that it has waited for.
    return sum(sum(map(int, fields[11:15])) for fields in _tree(pid).values()) / _TICKS_PER_S


def descendants(pid: int) -> list[int]:
    """The ids of a process' children, of theirs, and so on.

    Raises:
        ProcessLookupError: There is no such process.
    """
    return [found for found in _tree(pid) if found != pid]


def _tree(pid: int) -> dict[int, list[str]]:
    """What the system says of a process and all its descendants, from the third field of ``/proc/<pid>/stat`` on."""
    stats: dict[int, list[str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            # A process may end while it is looked at.
            with contextlib.suppress(OSError):
                stats[int(entry.name)] = (entry / "stat").read_text().rsplit(")", 1)[1].split()
    if pid not in stats:
        raise ProcessLookupError(f"no process {pid}")
    children: dict[int, list[int]] = {}
    for child, fields in stats.items():
        children.setdefault(int(fields[1]), []).append(child)
    found, waiting = {}, [pid]
    while waiting:
        current = waiting.pop()
        found[current] = stats[current]
        waiting += children.get(current, [])
    return found


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
