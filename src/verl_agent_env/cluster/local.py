"""A whole cluster as processes of this machine: Redis, nodes, nginx."""

from __future__ import annotations

import functools
import signal
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import click
import orjson

from verl_agent_env.cluster.nginx.config import NginxSettings, write_nginx_config
from verl_agent_env.cluster.ports import consecutive_free_ports, free_port, reason_of
from verl_agent_env.cluster.programs import (
    OrphanWatch,
    Program,
    accepts,
    await_program,
    clean_environment,
    get,
    is_ready,
    nginx_command,
    nginx_user,
    redis_command,
    serve_command,
)
from verl_agent_env.cluster.ring import Ring
from verl_agent_env.config import NODE_TAKEN_EXIT_CODE, variable_of
from verl_agent_env.types import NUM_SLOTS

_HOST = "127.0.0.1"


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


class Node(Program):
    """A node: a supervisor and its workers."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        orphans: OrphanWatch,
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
        num_slots: int = NUM_SLOTS,
        redis: str = "",
        redis_logs: int = 0,
        serve_options: Sequence[str] = (),
        machines: Mapping[str, Machine] | None = None,
        tls: ClusterTls | None = None,
        is_temporary: bool = False,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Create a cluster without starting it.

        Args:
            folder: For logs, nginx's files and Redis' data.
            nodes: How many nodes.
            workers: How many workers each of them has.
            port: Where nginx listens; 0 takes a free one.
            planned_nodes: How many more nodes nginx knows of, which are not started.
            num_slots: Number of slots.
            redis: URL of a Redis that runs already; one of its own when not given.
            redis_logs: How many more Redis keep the steps of environments; without any, the one does.
            serve_options: What else the nodes are given on their command line.
            machines: Where programs run, by name (``redis``, ``nginx``, ``node-1`` …), if not on the loopback.
            tls: What nginx and the workers speak TLS with; None for plain HTTP.
            is_temporary: Whether the folder is removed in the end, also where this process is killed.
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
        self._num_slots = num_slots
        self._nodes = nodes
        self._serve_options = tuple(serve_options)
        self._environment = clean_environment()
        self._orphans = OrphanWatch(folder if is_temporary else None)
        self._own_redis = not redis
        redis_port = free_port()
        redis_host = self._machine("redis").host
        self.redis_url = redis or f"redis://{redis_host}:{redis_port}/0"
        self._redis_address = (redis_host, redis_port)
        self.redis = self._program("redis", redis_command(redis_host, redis_port, folder))
        self._log_addresses = [(redis_host, free_port()) for _ in range(redis_logs)]
        self.redis_logs = [self._redis_log(n + 1, *address) for n, address in enumerate(self._log_addresses)]
        """Those that keep the steps of environments, on Redis' machine; none if Redis itself does."""
        self.redis_log_urls = [f"redis://{host}:{port}/0" for host, port in self._log_addresses]
        self.nodes = [self._node(f"node-{number + 1}") for number in range(nodes)]
        self.planned = [self._node(f"node-{nodes + number + 1}") for number in range(planned_nodes)]
        self._config = folder / "nginx.conf"
        self.nginx = self._program("nginx", nginx_command(self._config))

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
            await_program(self.redis, functools.partial(accepts, *self._redis_address))
        for log, address in zip(self.redis_logs, self._log_addresses, strict=True):
            self._say(log.name)
            (self.folder / log.name).mkdir(exist_ok=True)
            log.start()
            await_program(log, functools.partial(accepts, *address))
        for node in self.nodes:
            self._say(node.name)
            node.start()
        for node in self.nodes:
            self._await_node(node)
        self._say("nginx")
        self.configure_nginx()
        self.nginx.start()
        await_program(self.nginx, functools.partial(is_ready, self.host, self.port, self.tls_context))
        self._say("slots")
        await_program(self.nginx, self.is_settled)

    def start_node(self, node: Node) -> None:
        """Start a node, and return when it is ready.

        Raises:
            click.ClickException: It did not start.
        """
        node.start()
        self._await_node(node)

    def configure_nginx(self) -> None:
        """Write nginx's configuration, and reload nginx if it runs."""
        settings = NginxSettings(
            addresses=(*self.addresses, *(a for node in self.planned for a in node.addresses)),
            port=self.port,
            host=self.host,
            folder=self.folder,
            user=nginx_user(),
            num_slots=self._num_slots,
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
        return slots == dict(Counter(Ring(sorted(expected), self._num_slots).assignments))

    def failed(self) -> Program | None:
        """Return an ended program without which the cluster cannot work, if there is one."""
        needed = [self.nginx, *([self.redis] if self._own_redis else []), *self.redis_logs]
        return next((part for part in needed if part.exit_code is not None), None)

    def stop(self) -> None:
        """End everything, in the order in which nothing is missed."""
        self.nginx.stop()
        for node in (*self.nodes, *self.planned):
            node.signal(signal.SIGTERM)
        for node in (*self.nodes, *self.planned):
            node.stop()
        for part in (self.redis, *self.redis_logs):
            part.stop()
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
        for part in (self.nginx, *self.nodes, *self.planned, self.redis, *self.redis_logs):
            part.kill()
        self._orphans.close()

    def _await_node(self, node: Node) -> None:
        try:
            await_program(node, functools.partial(is_ready, node.host, node.port, self.tls_context))
        except click.ClickException as failed:
            if node.exit_code != NODE_TAKEN_EXIT_CODE:
                raise
            raise click.ClickException(
                "Another cluster with the same names of nodes uses this Redis. Stop that one, or give this one another "
                "database (--redis redis://HOST:PORT/1) or a namespace of its own (--namespace NAME). "
                f"{failed.message}"
            ) from None

    def _node(self, name: str) -> Node:
        ports, machine = consecutive_free_ports(1 + self._workers), self._machine(name)
        command = [
            *machine.enter,
            *serve_command(name, machine.host, ports, self._nodes),
            *(() if self._tls is None else self._tls.serve_options()),
            f"--slots={self._num_slots}",
            *self._serve_options,
        ]
        # Through the environment: a command line is for all to see, and the URL may hold a password.
        environment = self._environment | {
            variable_of("redis"): self.redis_url,
            variable_of("redis_logs"): ",".join(self.redis_log_urls),
        }
        addresses = [f"{machine.host}:{port}" for port in ports[1:]]
        return Node(name, command, self.folder, environment, self._orphans, machine.host, ports[0], addresses)

    def _redis_log(self, number: int, host: str, port: int) -> Program:
        name = f"redis-log-{number}"
        return self._program(name, redis_command(host, port, self.folder / name))

    def _program(self, name: str, command: Sequence[str]) -> Program:
        command = [*self._machine(name).enter, *command]
        return Program(name, command, self.folder, self._environment, self._orphans)

    def _machine(self, name: str) -> Machine:
        return self._machines.get("redis" if name.startswith("redis-log") else name, Machine())


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
