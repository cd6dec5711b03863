"""Programs that run as long as their starter: where they are found, their ends, and whether they are ready."""

from __future__ import annotations

import contextlib
import getpass
import http.client
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click

from verl_agent_env.config import ENVIRONMENT_PREFIX

_START_S = 120.0
_STOP_S = 20.0
_POLL_S = 0.05
_HOST = "127.0.0.1"
_ORPHANS = Path(__file__).with_name("orphans.py")


class OrphanWatch:
    """A process that ends the programs of this one, should this one die without ending them."""

    def __init__(self, folder: Path | None = None) -> None:
        """Begin without programs; ``folder`` is removed after the end of all of them."""
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None

    def started(self, pid: int) -> None:
        """Note the start of a program that leads a process group."""
        if self._process is None:
            self._process = subprocess.Popen(  # noqa: S603 - our own script
                [sys.executable, "-S", "-E", str(_ORPHANS), *([str(self._folder)] if self._folder else [])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )
            # It goes on as nobody's child: Ray kills the children of a process that it ends.
            self._process.wait()
        self._write(f"+{pid}\n")

    def ended(self, pid: int) -> None:
        """Note the end of a program: its number may be another process's soon."""
        self._write(f"-{pid}\n")

    def close(self) -> None:
        """End the watch, and whatever is still running."""
        process, self._process = self._process, None
        if process is not None and process.stdin is not None and process.stdout is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
            with process.stdout as output:
                # Ends with the watch, which writes nothing.
                output.read()

    def _write(self, line: str) -> None:
        # Without the watch, programs run as well.
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.write(line)
                self._process.stdin.flush()


class Program:
    """A program that runs until it is stopped; its output goes to a file."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        orphans: OrphanWatch,
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._command = list(command)
        self._environment = environment
        self._orphans = orphans
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, or start it again after its end."""
        with self.log.open("ab") as log:
            # In a session of its own: Ctrl-C reaches this program alone, which ends the others in order.
            self._process = subprocess.Popen(  # noqa: S603 - our own programs
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )
        self._orphans.started(self._process.pid)

    @property
    def pid(self) -> int:
        """Id of the process."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Exit code; None while it runs."""
        if self._process is None:
            return None
        was_known, code = self._process.returncode, self._process.poll()
        if was_known is None and code is not None:
            self._note_end(self._process.pid)
        return code

    @property
    def is_running(self) -> bool:
        """True if it was started and has not ended."""
        return self._process is not None and self.exit_code is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self._process is not None and self.is_running:
            self._process.send_signal(number)

    def stop(self, timeout_s: float = _STOP_S) -> None:
        """Terminate it; kill it if it has not ended after ``timeout_s``."""
        self.signal(signal.SIGTERM)
        if self._process is None or self.exit_code is not None:
            return
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
        else:
            self._note_end(self._process.pid)

    def kill(self) -> None:
        """Kill it and all its children at once, as a power failure would."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._orphans.ended(self._process.pid)

    def _note_end(self, pid: int) -> None:
        # Its children may outlive it: nginx' workers hold the port after the death of their master.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGTERM)
        self._orphans.ended(pid)

    def tail(self, lines: int = 10) -> str:
        """Return the last lines of its output."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-lines:])


def find_program(name: str) -> str | None:
    """Find an installed program; None if there is none."""
    # Debian keeps nginx where only root's PATH leads.
    return shutil.which(name) or shutil.which(
        name, path="/usr/sbin:/usr/local/sbin:/usr/local/bin:/opt/homebrew/bin"
    )


def program(name: str) -> str:
    """Find an installed program that is needed.

    Raises:
        click.ClickException: It is not installed; says how to.
    """
    found = find_program(name)
    if found is None:
        raise click.ClickException(f"'{name}' is not installed: apt-get install redis-server nginx")
    return found


def get(host: str, port: int, path: str, tls: ssl.SSLContext | None = None, token: str = "") -> bytes:
    """Return the body of the server's response.

    Raises:
        OSError, http.client.HTTPException: It does not.
        ValueError: It refuses.
    """
    connection = (
        http.client.HTTPConnection(host, port, timeout=5)
        if tls is None
        else http.client.HTTPSConnection(host, port, timeout=5, context=tls)
    )
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        answer = connection.getresponse()
        body = answer.read()
    if answer.status != 200:
        raise ValueError(f"{path} is answered with status {answer.status}")
    return body


def is_ready(host: str, port: int, tls: ssl.SSLContext | None = None) -> bool:
    """Tell whether the server at this port accepts work."""
    get(host, port, "/readyz", tls)
    return True


def accepts(host: str, port: int) -> bool:
    """Tell whether something listens there.

    Raises:
        OSError: Nothing does.
    """
    with socket.create_connection((host, port), timeout=1):
        return True


def await_program(part: Program, is_done: Callable[[], bool]) -> None:
    """Wait until ``is_done``; that it raises what a server gives that is not up yet counts as false.

    Raises:
        click.ClickException: The program has ended, or it takes too long; says what the program printed.
    """
    end = time.monotonic() + _START_S
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            if is_done():
                return
        if part.exit_code is not None or time.monotonic() > end:
            what = "ended" if part.exit_code is not None else f"is not ready after {_START_S:g} s"
            raise click.ClickException(f"{part.name} {what}. It says:\n{part.tail()}")
        time.sleep(_POLL_S)


def redis_command(host: str, port: int, folder: Path, password: str = "") -> list[str]:
    """Return the command of a Redis with its data in ``folder``; a password goes into a file there."""
    command = [program("redis-server")]
    if password:
        # Not on the command line, which is for all to see.
        file = folder / "redis.conf"
        file.touch(mode=0o600)
        file.write_text(f"requirepass {password}\n")
        command.append(str(file))
    return [
        *command,
        *("--bind", host, "--port", str(port), "--dir", str(folder)),
        # Redis without a password otherwise refuses connections from other machines.
        *(() if host == _HOST or password else ("--protected-mode", "no")),
        *("--save", "", "--appendonly", "yes", "--appendfsync", "everysec", "--daemonize", "no"),
        # Steps make its file grow fast. With Redis' own 64 MB it is written anew every few seconds.
        *("--auto-aof-rewrite-min-size", "256mb"),
    ]


def serve_command(name: str, host: str, ports: Sequence[int], expected_nodes: int) -> list[str]:
    """Return the command of a node: the port of all its workers, then a port for each of them."""
    return [
        *(sys.executable, "-m", "verl_agent_env.cli", "serve"),
        *("--host", host, "--port", str(ports[0]), "--worker-port", str(ports[1])),
        *("--node", name, "--advertise", host, "--workers", str(len(ports) - 1)),
        *("--expected-nodes", str(expected_nodes)),
    ]


def nginx_command(config: Path) -> list[str]:
    """Return the command of an nginx, whose files lie beside its configuration."""
    return [program("nginx"), "-c", str(config), "-p", str(config.parent), "-e", "stderr"]


def nginx_user() -> str:
    """Return the account for nginx's processes; empty where nginx runs as whoever starts it."""
    # Started by root, nginx would run as nobody, who cannot write in the folder.
    return getpass.getuser() if os.geteuid() == 0 else ""


def clean_environment() -> dict[str, str]:
    """Return this process's environment without settings of the server, which nodes get on their command lines."""
    return {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
