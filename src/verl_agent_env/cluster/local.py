"""A whole cluster as processes of this machine: Redis, nodes, nginx."""

from __future__ import annotations

import contextlib
import functools
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
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import click
import orjson

from verl_agent_env.cluster.nginx.config import NginxSettings, write_nginx_config
from verl_agent_env.cluster.ports import consecutive_free_ports, free_port, reason_of
from verl_agent_env.cluster.ring import Ring
from verl_agent_env.config import ENVIRONMENT_PREFIX, variable_of

_HOST = "127.0.0.1"
_START_S = 120.0
_STOP_S = 20.0
_POLL_S = 0.05
_ORPHANS = Path(__file__).with_name("orphans.py")


@dataclass(frozen=True)
class Machine:
    """Machine on which a program runs."""

    host: str = _HOST
    """Its address."""
    enter: tuple[str, ...] = ()
    """Prefix of a command that runs it there."""


@dataclass(frozen=True)
class ClusterTls:
    """Certificates of nginx and all workers."""

    cert: Path
    """File with the certificate of all of them, for their addresses and ``localhost``."""
    key: Path
    """File with its private key."""
    ca: Path
    """File with the CA that signed it."""

    def serve_options(self) -> list[str]:
        """Return the options of ``serve`` for a node."""
        return [f"--tls-cert={self.cert}", f"--tls-key={self.key}", f"--tls-peer-ca={self.ca}"]

    def nginx_settings(self) -> dict[str, Any]:
        """Return the settings of nginx, which asks all workers for a certificate of one name."""
        return {
            "tls_cert": str(self.cert),
            "tls_key": str(self.key),
            "worker_ca": str(self.ca),
            "worker_name": "localhost",
        }

    def client_context(self) -> ssl.SSLContext:
        """Return the context for calling nodes and nginx."""
        return ssl.create_default_context(cafile=str(self.ca))


class _OrphanWatch:
    """A process that ends the programs of this one, should this one die without ending them."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def started(self, pid: int) -> None:
        """Note the start of a program that leads a process group."""
        if self._process is None:
            self._process = subprocess.Popen(  # noqa: S603 - our own script
                [sys.executable, "-S", "-E", str(_ORPHANS)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )
        self._write(f"+{pid}\n")

    def ended(self, pid: int) -> None:
        """Note the end of a program: its number may be another process's soon."""
        self._write(f"-{pid}\n")

    def close(self) -> None:
        """End the watch, and whatever is still running."""
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
            process.wait()

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
        orphans: _OrphanWatch,
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
            self._orphans.ended(self._process.pid)
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
        if self._process is None:
            return
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
        else:
            self._orphans.ended(self._process.pid)

    def kill(self) -> None:
        """Kill it and all its children at once, as a power failure would."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._orphans.ended(self._process.pid)

    def tail(self, lines: int = 10) -> str:
        """Return the last lines of its output."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-lines:])


class Node(Program):
    """A node: a supervisor and its workers."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        orphans: _OrphanWatch,
        host: str,
        port: int,
        addresses: list[str],
    ) -> None:
        super().__init__(name, command, folder, environment, orphans)
        self.host = host
        """Address of its machine."""
        self.port = port
        """Port that all of its workers share."""
        self.addresses = addresses
        """Addresses of its workers, one for each."""


class LocalCluster:
    """Redis, nodes of several workers each, and nginx in front of them."""

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int = 2,
        workers: int = 2,
        port: int = 0,
        planned_nodes: int = 0,
        redis: str = "",
        serve_options: Sequence[str] = (),
        machines: Mapping[str, Machine] | None = None,
        tls: ClusterTls | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Create a cluster without starting it.

        Args:
            folder: For logs, nginx's files and Redis' data.
            nodes: How many nodes.
            workers: How many workers each of them has.
            port: Where nginx listens; 0 takes a free one.
            planned_nodes: How many more nodes nginx knows of, which are not started.
            redis: URL of a Redis that runs already; one of its own when not given.
            serve_options: What else the nodes are given on their command line.
            machines: Where programs run, by name (``redis``, ``nginx``, ``node-1`` …), if not on the loopback.
            tls: What nginx and the workers speak TLS with; None for plain HTTP.
            say: Called with the name of each part before it starts.

        Raises:
            click.ClickException: A program is not installed, or the port is in use.
        """
        self.folder = folder
        self._machines = machines or {}
        self._tls = tls
        self.tls_context = None if tls is None else tls.client_context()
        """Context for calling nginx and the nodes; None for plain HTTP."""
        self.port = port or free_port()
        self.host = self._machine("nginx").host
        """Address on which nginx listens."""
        if not self._machines:
            require_free(self.port)
        self._say = say
        self._workers = workers
        self._nodes = nodes
        self._serve_options = tuple(serve_options)
        self._environment = _clean(os.environ)
        self._orphans = _OrphanWatch()
        self._own_redis = not redis
        redis_port = free_port()
        redis_host = self._machine("redis").host
        self.redis_url = redis or f"redis://{redis_host}:{redis_port}/0"
        self._redis_address = (redis_host, redis_port)
        options = _redis_options(redis_host, redis_port, folder)
        self.redis = self._program("redis", [program("redis-server"), *options])
        self.nodes = [self._node(f"node-{number + 1}") for number in range(nodes)]
        self.planned = [self._node(f"node-{nodes + number + 1}") for number in range(planned_nodes)]
        self._config = folder / "nginx.conf"
        command = [program("nginx"), "-c", str(self._config), "-p", str(folder), "-e", "stderr"]
        self.nginx = self._program("nginx", command)

    @property
    def url(self) -> str:
        """URL for clients."""
        return f"{'http' if self._tls is None else 'https'}://{self.host}:{self.port}"

    @property
    def addresses(self) -> list[str]:
        """Addresses of all workers of all nodes, without planned nodes."""
        return [address for node in self.nodes for address in node.addresses]

    def start(self) -> None:
        """Start everything, and return when all workers are ready and every slot is where the ring assigns it.

        Raises:
            click.ClickException: Something did not start; says what it printed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._own_redis:
            self._say("Redis")
            self.redis.start()
            self._await(self.redis, functools.partial(_accepts, self._redis_address))
        for node in self.nodes:
            self._say(node.name)
            node.start()
        for node in self.nodes:
            self._await(node, functools.partial(is_ready, node.host, node.port, self.tls_context))
        self._say("nginx")
        self.configure_nginx()
        self.nginx.start()
        self._await(self.nginx, functools.partial(is_ready, self.host, self.port, self.tls_context))
        self._say("slots")
        self._await(self.nginx, self.is_settled)

    def start_node(self, node: Node) -> None:
        """Start a node, and return when it is ready.

        Raises:
            click.ClickException: It did not start.
        """
        node.start()
        self._await(node, functools.partial(is_ready, node.host, node.port, self.tls_context))

    def configure_nginx(self) -> None:
        """Write nginx's configuration, and reload nginx if it runs."""
        settings = NginxSettings(
            addresses=(*self.addresses, *(a for node in self.planned for a in node.addresses)),
            port=self.port,
            host=self.host,
            folder=self.folder,
            # Started by root, nginx would run as nobody, who cannot write in the folder.
            user=getpass.getuser() if os.geteuid() == 0 else "",
            **({} if self._tls is None else self._tls.nginx_settings()),
        )
        write_nginx_config(settings, self._config)
        self.nginx.signal(signal.SIGHUP)

    def describe(self) -> dict[str, Any]:
        """Return the response of ``GET /api/cluster``."""
        answer: dict[str, Any] = orjson.loads(get(self.host, self.port, "/api/cluster", self.tls_context))
        return answer

    def is_settled(self) -> bool:
        """Tell whether the workers of all running nodes are ready, and every slot is where the ring assigns it."""
        workers = [worker for node in self.describe()["nodes"] for worker in node["workers"]]
        running = [node for node in (*self.nodes, *self.planned) if node.is_running]
        expected = [address for node in running for address in node.addresses]
        if {worker["address"] for worker in workers} != set(expected):
            return False
        slots = {worker["address"]: worker["slots"] for worker in workers if worker["state"] == "ready"}
        return slots == dict(Counter(Ring(sorted(expected)).assignments))

    def failed(self) -> Program | None:
        """Return an ended program without which the cluster cannot work, if there is one."""
        needed = [self.nginx, *([self.redis] if self._own_redis else [])]
        return next((part for part in needed if part.exit_code is not None), None)

    def stop(self) -> None:
        """End everything, in the order in which nothing is missed."""
        self.nginx.stop()
        for node in (*self.nodes, *self.planned):
            node.signal(signal.SIGTERM)
        for node in (*self.nodes, *self.planned):
            node.stop()
        self.redis.stop()
        self._orphans.close()

    def __enter__(self) -> Self:
        """Start everything; ended again if that fails."""
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End everything."""
        self.stop()

    def kill(self) -> None:
        """End everything at once."""
        for part in (self.nginx, *self.nodes, *self.planned, self.redis):
            part.kill()
        self._orphans.close()

    def _node(self, name: str) -> Node:
        ports, machine = consecutive_free_ports(1 + self._workers), self._machine(name)
        command = [
            *machine.enter,
            *(sys.executable, "-m", "verl_agent_env.cli", "serve"),
            *("--host", machine.host, "--port", str(ports[0]), "--worker-port", str(ports[1])),
            *("--node", name, "--advertise", machine.host, "--workers", str(self._workers)),
            *("--expected-nodes", str(self._nodes)),
            *(() if self._tls is None else self._tls.serve_options()),
            *self._serve_options,
        ]
        # Through the environment: a command line is for all to see, and the URL may hold a password.
        environment = self._environment | {variable_of("redis"): self.redis_url}
        addresses = [f"{machine.host}:{port}" for port in ports[1:]]
        return Node(name, command, self.folder, environment, self._orphans, machine.host, ports[0], addresses)

    def _program(self, name: str, command: Sequence[str]) -> Program:
        command = [*self._machine(name).enter, *command]
        return Program(name, command, self.folder, self._environment, self._orphans)

    def _machine(self, name: str) -> Machine:
        return self._machines.get(name, Machine())

    def _await(self, part: Program, is_done: Callable[[], bool]) -> None:
        end = time.monotonic() + _START_S
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                if is_done():
                    return
            if part.exit_code is not None or time.monotonic() > end:
                what = "ended" if part.exit_code is not None else f"is not ready after {_START_S:g} s"
                raise click.ClickException(f"{part.name} {what}. It says:\n{part.tail()}")
            time.sleep(_POLL_S)


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


def require_free(port: int) -> None:
    """Check that the port can be listened on.

    Raises:
        click.ClickException: It cannot.
    """
    try:
        socket.create_server((_HOST, port)).close()
    except OSError as refused:
        raise click.ClickException(
            f"Cannot listen on {_HOST}:{port}: {reason_of(refused, port)}. Choose another --port."
        ) from None


def get(host: str, port: int, path: str, tls: ssl.SSLContext | None = None) -> bytes:
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
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
    if answer.status != 200:
        raise ValueError(f"{path} is answered with status {answer.status}")
    return body


def is_ready(host: str, port: int, tls: ssl.SSLContext | None = None) -> bool:
    """Tell whether the server at this port accepts work."""
    get(host, port, "/readyz", tls)
    return True


def _accepts(address: tuple[str, int]) -> bool:
    with socket.create_connection(address, timeout=1):
        return True


def _redis_options(host: str, port: int, folder: Path) -> list[str]:
    return [
        *("--bind", host, "--port", str(port), "--dir", str(folder)),
        # Redis without a password otherwise refuses connections from other machines.
        *(() if host == _HOST else ("--protected-mode", "no")),
        *("--save", "", "--appendonly", "yes", "--appendfsync", "everysec", "--daemonize", "no"),
    ]


def _clean(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without settings of the server, which the nodes get on their command lines."""
    return {name: value for name, value in environment.items() if not name.startswith(ENVIRONMENT_PREFIX)}
