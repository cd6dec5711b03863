"""Ports of this machine: free ones, and the process that holds one."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

_HOST = "127.0.0.1"
_LISTENING = "0A"
_PROCESSES = Path("/proc")
_MAX_COMMAND = 80
_LOWEST = 10_000
_GIVEN_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_DEFAULT_GIVEN = 32_768


def free_port(host: str = _HOST) -> int:
    """Find a port of an address of this machine that nothing listens on."""
    return consecutive_free_ports(1, host)[0]


def consecutive_free_ports(count: int, host: str = _HOST) -> list[int]:
    """Find ``count`` ports in a row of an address of this machine that nothing listens on.

    The system gives these ports to no program that asks for any port: none is taken before the intended program listens there.

    Raises:
        OSError: The address is not of this machine.
    """
    end = _first_given_port()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        # Not by `random`, whose state another process may share.
        first = _LOWEST + secrets.randbelow(end - _LOWEST - count)
        with contextlib.ExitStack() as stack:
            try:
                for offset in range(count):
                    stack.enter_context(socket.create_server((host, first + offset), family=family))
            except OSError as refused:
                if refused.errno == errno.EADDRINUSE:
                    continue
                raise
            return [first + offset for offset in range(count)]


def _first_given_port() -> int:
    """Return the first of the ports that the system gives away; Linux' default where it does not tell, or gives nearly all."""
    try:
        first = int(_GIVEN_PORTS.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return _DEFAULT_GIVEN
    return first if first > 2 * _LOWEST else _DEFAULT_GIVEN


def holder_of(port: int) -> str:
    """Name the process that listens on a port, as far as this user may know it.

    Returns:
        ``process 4711 (redis-server …)``; empty if nothing listens there, or nothing is known of it. Only Linux tells.
    """
    sockets = frozenset(_listening_on(port))
    if not sockets:
        return ""
    for process in _PROCESSES.iterdir():
        # Of others' processes the files cannot be listed; any process may end at any time.
        with contextlib.suppress(OSError):
            if process.name.isdigit() and not sockets.isdisjoint(_open_files(process)):
                words = (process / "cmdline").read_bytes().split(b"\0")
                command = b" ".join(words).decode("utf-8", "replace").strip()
                shown = command if len(command) <= _MAX_COMMAND else command[:_MAX_COMMAND] + "…"
                return f"process {process.name} ({shown})"
    return ""


def reason_of(refused: OSError, port: int) -> str:
    """Say why a port cannot be listened on: ``Address already in use, by process 4711 (nginx …)``."""
    # asyncio and socket add the address to the error's own text.
    reason = (
        os.strerror(refused.errno)
        if refused.errno and refused.errno > 0
        else str(refused.strerror or refused)
    )
    holder = holder_of(port) if refused.errno == errno.EADDRINUSE else ""
    return f"{reason}, by {holder}" if holder else reason


def _listening_on(port: int) -> Iterator[str]:
    """Inodes of the sockets that listen on a port, as links of open files name them."""
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (_PROCESSES / "net" / table).read_text("ascii").splitlines()[1:]:
                columns = line.split()
                if columns[3] == _LISTENING and int(columns[1].rpartition(":")[2], 16) == port:
                    yield f"socket:[{columns[9]}]"


def _open_files(process: Path) -> Iterator[str]:
    for link in (process / "fd").iterdir():
        with contextlib.suppress(OSError):
            yield str(link.readlink())
