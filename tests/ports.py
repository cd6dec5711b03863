"""Ports for programs that have to be told theirs: nobody else gets them while this process lives.

A socket that is bound and does not listen keeps its port from being given to others, while a program that sets
``SO_REUSEADDR``, as servers do, can listen on it, stop, and listen again. Until one does, connections are refused.
"""

from __future__ import annotations

import socket

_HOST = "127.0.0.1"
_TRIES = 1000


def free_port() -> int:
    """A port of the loopback."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """So many ports of the loopback in a row.

    Raises:
        RuntimeError: There are none.
    """
    for _ in range(_TRIES):
        row: list[socket.socket] = []
        try:
            for nth in range(count):
                row.append(_bound(row[0].getsockname()[1] + nth if row else 0))
        except (OSError, OverflowError):
            # One of the row is somebody's, or there are none that high.
            for held in row:
                held.close()
        else:
            ports = [held.getsockname()[1] for held in row]
            for held in row:
                # A descriptor without an object stays open to the end of the process, and nothing warns of it.
                held.detach()
            return ports
    raise RuntimeError(f"no {count} free ports in a row")


def _bound(port: int) -> socket.socket:
    made = socket.socket()
    try:
        made.bind((_HOST, port))
    except (OSError, OverflowError):
        made.close()
        raise
    # Afterwards: a port that another process holds in this way must not be taken for a free one.
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return made
