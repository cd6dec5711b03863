"""Ray's actors that run servers: as long as an actor lives its programs do, and the other way round."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import orjson
import ray
from ray.util.placement_group import get_placement_group, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from verl_agent_env.addresses import url_host
from verl_agent_env.cluster.ports import consecutive_free_ports, free_port
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
    program,
    redis_command,
    serve_command,
)
from verl_agent_env.config import variable_of
from verl_agent_env.integrations.errors import TrainingSetupError

_PLACES_S = 60.0
"""Seconds that Ray may take to find machines for all nodes."""
_NODE_S = 300.0
"""Seconds for the start of all nodes."""
_POLL_S = 0.25


@dataclass(frozen=True)
class Size:
    """Number of nodes, and of workers on each."""

    nodes: int
    workers_per_node: int


def name_in_job() -> str:
    """Return the name of the servers: each job has its own, also where several share a namespace."""
    return f"verl-agent-env-{ray.get_runtime_context().get_job_id()}"


def result_of(reference: Any, timeout_s: float | None = None) -> Any:
    """Return what a call of an actor gave.

    Raises:
        TrainingSetupError: The servers do not start, or not in time; says why.
        ray.exceptions.ActorDiedError: The actor has ended.
    """
    try:
        return ray.get(reference, timeout=timeout_s)
    except ray.exceptions.RayTaskError as failed:
        if isinstance(failed.cause, TrainingSetupError):
            raise failed.cause from None
        raise
    except (ray.exceptions.ActorUnavailableError, ray.exceptions.GetTimeoutError) as late:
        raise TrainingSetupError(f"The servers are not ready: {late}") from late


class _Programs:
    """Programs on the machine of an actor."""

    def __init__(self) -> None:
        self.host = str(ray.util.get_node_ip_address())
        self.folder = Path(tempfile.mkdtemp(prefix="verl-agent-env-ray-"))
        self._orphans = OrphanWatch(self.folder)
        self._started: list[Program] = []
        self._stopping = False

    def start(
        self,
        name: str,
        command: Sequence[str],
        is_up: Callable[[], bool],
        settings: dict[str, str] | None = None,
    ) -> None:
        """Start a program and wait until it is up.

        Args:
            name: Its name.
            command: Its command.
            is_up: Tells whether it is up.
            settings: Settings of the server that are not for all to see on a command line.

        Raises:
            click.ClickException: It ended, or is not up in time; says what it printed.
        """
        secret = {variable_of(setting): value for setting, value in (settings or {}).items() if value}
        started = Program(name, command, self.folder, clean_environment() | secret, self._orphans)
        self._started.append(started)
        started.start()
        await_program(started, is_up)

    def watch(self) -> None:
        """End this process, the actor, as soon as one of the programs ends by itself."""
        threading.Thread(target=self._end_with_the_first, args=(tuple(self._started),), daemon=True).start()

    def stop(self) -> None:
        """End all programs, the last one first, and remove their files."""
        self._stopping = True
        while self._started:
            self._started.pop().stop()
        self._orphans.close()

    def _end_with_the_first(self, programs: tuple[Program, ...]) -> None:
        while all(one.is_running for one in programs):
            time.sleep(_POLL_S)
        if not self._stopping:
            os._exit(1)


class ServersActor:
    """Redis, nginx and the actors of the nodes. Ray ends this actor with the process that made it, and the nodes with this actor."""

    def __init__(self) -> None:
        self._running: tuple[str, Size] | None = None
        self._programs: _Programs | None = None
        self._nodes: list[Any] = []
        self._group: Any = None

    def start(
        self, size: Size, machines: int, cpus: float, token: str, serve_options: tuple[str, ...]
    ) -> tuple[str, Size]:
        """Start everything, unless it runs.

        Returns:
            The URL for clients, and the size.

        Raises:
            TrainingSetupError: Something does not start; nothing is left running.
        """
        if self._running is None:
            if not 0 < size.nodes <= machines or size.workers_per_node < 1:
                raise TrainingSetupError(
                    f"{size.nodes} nodes of {size.workers_per_node} workers cannot be started: "
                    f"Ray has {machines} machines with {cpus:g} CPUs."
                )
            try:
                self._running = self._start(size, cpus, token, serve_options), size
            except click.ClickException as failed:
                self.stop()
                raise TrainingSetupError(f"The servers did not start: {failed.message}") from None
            except BaseException:
                self.stop()
                raise
        return self._running

    def stop(self) -> None:
        """End everything, in the order in which nothing is missed."""
        self._running = None
        nodes, self._nodes = self._nodes, []
        stopped = [node.stop.remote() for node in nodes]
        if stopped:
            # A node whose machine is lost does not answer.
            ray.wait(stopped, num_returns=len(stopped), timeout=_PLACES_S)
        for node in nodes:
            ray.kill(node)
        if self._group is not None:
            remove_placement_group(self._group)
            self._group = None
        if self._programs is not None:
            self._programs.stop()
            self._programs = None

    def _start(self, size: Size, cpus: float, token: str, serve_options: tuple[str, ...]) -> str:
        programs = self._programs = _Programs()
        host, port, password = programs.host, free_port(programs.host), secrets.token_hex(16)
        command = redis_command(host, port, programs.folder, password)
        programs.start("redis", command, functools.partial(accepts, host, port))
        redis = f"redis://:{password}@{url_host(host)}:{port}/0"
        self._start_nodes(size, cpus, serve_options, {"redis": redis, "auth_tokens": token})
        port = free_port(host)
        self._start_nginx(programs, port, redis)
        nginx = functools.partial(_have_slots, host, port, size.nodes * size.workers_per_node, token)
        programs.start("nginx", nginx_command(programs.folder / "nginx.conf"), nginx)
        programs.watch()
        return f"http://{url_host(host)}:{port}"

    def _start_nodes(
        self, size: Size, cpus: float, serve_options: tuple[str, ...], settings: dict[str, str]
    ) -> None:
        name = name_in_job()
        # Servers that crashed keep their places until the end of the job.
        with contextlib.suppress(ValueError):
            remove_placement_group(get_placement_group(name))
        self._group = placement_group([{"CPU": cpus}] * size.nodes, strategy="STRICT_SPREAD", name=name)
        if not self._group.wait(_PLACES_S):
            raise TrainingSetupError(
                f"Ray has no {size.nodes} machines with {cpus:g} free CPUs: ask for fewer nodes, or set cpus_per_node."
            )
        make = ray.remote(num_cpus=cpus, max_restarts=-1, max_task_retries=-1)(NodeActor)
        for number in range(size.nodes):
            place = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=number)
            actor = make.options(scheduling_strategy=place).remote(number, size, serve_options, settings)
            self._nodes.append(actor)
        result_of([node.ready.remote() for node in self._nodes], _NODE_S)

    def _start_nginx(self, programs: _Programs, port: int, redis: str) -> None:
        config = programs.folder / "nginx.conf"
        command = [
            *(sys.executable, "-m", "verl_agent_env.cli", "nginx-config", "--watch", "--out", str(config)),
            *("--host", programs.host, "--port", str(port), "--user", nginx_user()),
            *("--nginx-pid", str(programs.folder / "nginx.pid")),
        ]
        # Before nginx is installed nothing need be written for it.
        program("nginx")
        programs.start("nginx-config", command, config.exists, {"redis": redis})


class NodeActor:
    """A node of the servers. Ray starts it again where its machine or one of its programs is lost."""

    def __init__(
        self, number: int, size: Size, serve_options: tuple[str, ...], settings: dict[str, str]
    ) -> None:
        self._programs = _Programs()
        self._fault: TrainingSetupError | None = None
        host = self._programs.host
        ports = consecutive_free_ports(1 + size.workers_per_node, host)
        # Started again it is another node, which must not wait until the lease of the one before has expired.
        name = f"ray-{number}-{secrets.token_hex(4)}"
        command = [*serve_command(name, host, ports, size.nodes), *serve_options]
        try:
            self._programs.start("serve", command, functools.partial(is_ready, host, ports[0]), settings)
        except click.ClickException as failed:
            self._programs.stop()
            if ray.get_runtime_context().was_current_actor_reconstructed:
                # Ray starts it again. An error of the constructor would end it for good.
                os._exit(1)
            self._fault = TrainingSetupError(f"The servers did not start: {failed.message}")
        else:
            self._programs.watch()

    def ready(self) -> None:
        """Return once the node is ready.

        Raises:
            TrainingSetupError: It did not start.
        """
        if self._fault is not None:
            raise self._fault

    def stop(self) -> None:
        """End the node, which hands its environments over to the others."""
        self._programs.stop()


def _have_slots(host: str, port: int, workers: int, token: str) -> bool:
    """Tell whether so many workers are ready and have slots; a worker is ready before it has any."""
    nodes = orjson.loads(get(host, port, "/api/cluster", token=token))["nodes"]
    found = [worker for node in nodes for worker in node["workers"]]
    return len([worker for worker in found if worker["state"] == "ready" and worker["slots"]]) == workers
