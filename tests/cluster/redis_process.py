"""A Redis of one's own: on a free port of the loopback, nothing on disk, ended by its process id."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
from pathlib import Path

from tests.ports import free_port
from tests.waiting import HANG_S, eventually


def binary(name: str) -> str:
    """The path of a program that the tests cannot do without."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/usr/local/bin")
    if found is None:
        raise RuntimeError(f"'{name}' is not installed: apt-get install redis-server nginx")
    return found


class RedisProcess:
    """``redis-server``; :meth:`stop` and :meth:`start` keep the port and lose the data."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder = folder
        self._options = options
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [
            binary("redis-server"),
            *("--bind", "127.0.0.1"),
            *("--port", str(self.port)),
            *("--save", ""),
            *("--appendonly", "no"),
            *("--dir", str(self._folder)),
            *self._options,
        ]
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        process = self._process
        try:
            eventually(lambda: self._answers() or process.poll() is not None, what="redis-server")
            if process.poll() is not None:
                said = (self._folder / "redis.log").read_text("utf-8")
                raise RuntimeError(f"redis-server did not start:\n{said}")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Kill it, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Let it hang: connections stand, nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """End :meth:`pause`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def flush(self) -> None:
        """Lose all data, as ``FLUSHALL`` by mistake would."""
        self._tell(b"FLUSHALL")

    def fill(self, is_full: bool = True) -> None:
        """Have more in it than it may hold, or no limit again."""
        self._tell(b"CONFIG SET maxmemory %d" % is_full)

    def _tell(self, command: bytes) -> None:
        with socket.create_connection(("127.0.0.1", self.port), HANG_S) as connection:
            connection.sendall(command + b"\r\n")
            assert connection.recv(64).startswith(b"+OK")

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), HANG_S) as connection:
                connection.sendall(b"PING\r\n")
                # "-NOAUTH …" is an answer, too.
                return connection.recv(64)[:1] in (b"+", b"-")
        except OSError:
            return False
