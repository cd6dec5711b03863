"""``verl-agent-env serve``: one server process with everything in memory, or a node of several workers."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import logging
import os
import resource
import secrets
import signal
import socket
import sys
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from verl_agent_env.addresses import bare_host, url_host
from verl_agent_env.cli.options import merge_options, settings_options
from verl_agent_env.cli.signals import exit_at_signals, log_outlived_signals, outlive_signals
from verl_agent_env.config import (
    LISTEN_BACKLOG,
    NODE_TAKEN_EXIT_CODE,
    ServerSettings,
    settings_from_environment,
)

if TYPE_CHECKING:
    from verl_agent_env.cluster.store import WorkerRecord

_RETRY_S = 0.25
_MIN_FILES = 20
# Addresses at which a process that listens on all addresses reaches itself.
_OWN_ADDRESSES = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104

logger = logging.getLogger(__name__)


class _NodeTakenError(click.ClickException):
    """Another node has this node's name or addresses; whoever starts nodes can tell by the exit code."""

    exit_code = NODE_TAKEN_EXIT_CODE


@click.command()
@settings_options
def serve(**given: Any) -> None:
    """Serve environments over HTTP.

    By default one process with everything in memory and no other software. With --workers several processes of this
    machine share the work; with --node and --redis they are one node of a cluster.
    """
    try:
        settings = merge_options(settings_from_environment(os.environ), given)
        settings.cluster.require_whole()
        if settings.auth_file:
            # Checked here for a message of one sentence; each worker reads the file again.
            from verl_agent_env.server.http.tokens import read_token_file

            read_token_file(settings.auth_file)
        if settings.tasks:
            from verl_agent_env.envs.registry import default_registry
            from verl_agent_env.envs.task_files import read_task_files

            read_task_files(default_registry(), settings.tasks)
        if settings.keep_trajectories:
            from verl_agent_env.cluster.backends import open_episodes

            cluster = settings.cluster
            open_episodes(
                settings.keep_trajectories, settings.keep_trajectories_bytes, cluster.redis, cluster.namespace
            )
        if settings.mcp_config:
            from verl_agent_env.server.http.commands import mcp_configuration

            mcp_configuration(settings)
        if settings.model_endpoints:
            from verl_agent_env.envs.model_endpoints import read_endpoints

            read_endpoints(Path(settings.model_endpoints), os.environ)
        if settings.tls.tls_cert:
            from verl_agent_env.server.http.tls import peer_context, server_context

            server_context(settings.tls)
            peer_context(settings.tls)
    except ValueError as unfit:
        raise click.UsageError(str(unfit)) from None
    from verl_agent_env.server.http.logs import configure_logging

    configure_logging(settings.log_level, settings.log_format, settings.max_log_lines_per_s)
    raise_file_limit()
    listener = listen(settings.host, settings.port)
    host, port = listener.getsockname()[:2]
    # With port 0 the workers take free ports as well, else the ports that follow.
    first_worker_port = settings.cluster.worker_port or (settings.port and settings.port + 1)
    settings = dataclasses.replace(settings, port=port)
    # uvicorn and gunicorn stop gracefully at a signal; uvicorn then raises it again for the handler set before.
    exit_at_signals(signal.SIGTERM, signal.SIGQUIT)
    outlive_signals()
    url = f"{'https' if settings.tls.tls_cert else 'http'}://{url_host(host)}:{port}"
    announcement = f"Serving on {url} (API: {url}/docs)"
    try:
        if settings.cluster.is_pool:
            _serve_pool(settings, listener, first_worker_port, announcement)
        else:
            _serve_alone(settings, listener, announcement)
    except KeyboardInterrupt:
        sys.exit(0)


def announce(sentence: str) -> None:
    """Print a sentence to the standard error; a full disk or a reader that is gone is no error, as for the log."""
    with contextlib.suppress(OSError):
        click.echo(sentence, err=True)


def _serve_alone(settings: ServerSettings, listener: socket.socket, announcement: str) -> None:
    import uvicorn

    from verl_agent_env.server import create_app
    from verl_agent_env.server.http.tls import server_context
    from verl_agent_env.server.process.pool import UVICORN_OPTIONS

    config = uvicorn.Config(
        create_app(settings),
        # uvicorn calls listen() again, and its default of 2048 would replace this backlog.
        backlog=LISTEN_BACKLOG,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=settings.shutdown_grace_s,
        **UVICORN_OPTIONS,
    )
    config.load()
    # uvicorn's own context would allow older ciphers.
    config.ssl = server_context(settings.tls)
    announce(f"{announcement}. Ctrl-C stops.")

    class LoneServer(uvicorn.Server):
        """uvicorn's server that also logs the signals it ignores."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            """Start to serve."""
            log_outlived_signals(logger.warning)
            # uvicorn has no handler for SIGQUIT.
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGQUIT, self.handle_exit, signal.SIGTERM, None)
            await super().startup(sockets)

    LoneServer(config).run(sockets=[listener])


def _serve_pool(
    settings: ServerSettings, listener: socket.socket, first_worker_port: int, announcement: str
) -> None:
    # Imported before the fork: the workers share its memory, and a new one starts in milliseconds.
    import uvloop  # noqa: F401

    from verl_agent_env.envs.base import ChatEnv
    from verl_agent_env.envs.fingerprint import fingerprint_of
    from verl_agent_env.envs.mcp_chat import configuration  # noqa: F401
    from verl_agent_env.server import create_app
    from verl_agent_env.server.cluster import http_peers  # noqa: F401
    from verl_agent_env.server.cluster.identity import WorkerIdentity
    from verl_agent_env.server.process.pool import WorkerPool, WorkerStart

    cluster = settings.cluster
    listeners = _listen_for_workers(settings.host, first_worker_port, cluster.workers)
    ports = [own.getsockname()[1] for own in listeners]
    here = _OWN_ADDRESSES.get(bare_host(settings.host), settings.host)
    reached_at = url_host(cluster.advertise or cluster.node or here)
    pool = tuple(f"{reached_at}:{port}" for port in ports)
    supervisor = secrets.token_hex(16)
    if cluster.is_shared:
        _require_place(settings, supervisor, pool)

    def make_app(start: WorkerStart) -> Any:
        identity = WorkerIdentity(
            pool[start.index], pool, supervisor, start.is_restart, start.record, start.suspicions
        )
        return create_app(settings, identity=identity)

    announce(f"{announcement}, {len(pool)} workers: {', '.join(pool)}. Ctrl-C stops.")
    # A worker that is started again runs what is loaded here, whatever is in the files by then.
    fingerprint_of(ChatEnv)
    gc.collect()
    gc.freeze()
    WorkerPool(settings, [listener, *listeners], make_app).run()


def _listen_for_workers(host: str, first_port: int, workers: int) -> list[socket.socket]:
    """Open a listening socket for each worker, on consecutive ports; on free ports if ``first_port`` is 0."""
    if first_port + workers - 1 > 65_535:
        raise click.ClickException(
            f"There are no {workers} ports from {first_port}. Choose another --worker-port."
        )
    return [listen(host, first_port and first_port + index, "--worker-port") for index in range(workers)]


def _require_place(settings: ServerSettings, supervisor: str, pool: Collection[str]) -> None:
    """Check that the store responds and that no other node has this node's name or addresses.

    Raises:
        _NodeTakenError: Another node has the name or one of the addresses.
        click.ClickException: The cluster has another number of slots. The store does not respond, or cannot be used.
    """
    from verl_agent_env.cluster.backends import BackendOptions, open_backend
    from verl_agent_env.cluster.timing import Timing
    from verl_agent_env.errors import SlotsDifferError, StoreUnavailableError, VerlAgentEnvError

    async def wait_for_place() -> None:
        cluster = settings.cluster
        keeps_episodes = settings.keep_trajectories == "redis"
        backend = open_backend(
            cluster.redis,
            BackendOptions(
                cluster.namespace,
                num_slots=cluster.slots,
                logs=cluster.redis_logs,
                keeps_episodes=keeps_episodes,
            ),
        )
        # A node that crashed and restarts still finds its own former leases.
        end = time.monotonic() + Timing(cluster.lease_s).rejoin_s
        try:
            for risk in await backend.rehearse():
                click.echo(f"Warning: {risk}", err=True)
            while True:
                cluster_map = await backend.store.read_map()
                if cluster_map.num_slots not in (0, cluster.slots):
                    raise SlotsDifferError(cluster.slots, cluster_map.num_slots)
                others = [
                    worker for worker in cluster_map.workers.values() if worker.supervisor != supervisor
                ]
                problem = _conflict(others, cluster.node, pool)
                if not problem:
                    return
                if time.monotonic() > end:
                    raise _NodeTakenError(problem)
                await asyncio.sleep(_RETRY_S)
        finally:
            await backend.aclose()

    try:
        asyncio.run(wait_for_place())
    except (ValueError, SlotsDifferError, StoreUnavailableError) as unfit:
        text = unfit.detail if isinstance(unfit, VerlAgentEnvError) else str(unfit)
        raise click.ClickException(text) from None


def _conflict(others: Iterable[WorkerRecord], node: str, pool: Collection[str]) -> str:
    """Describe the conflict of this node with another one; empty if there is none."""
    for other in others:
        if other.node == node:
            return (
                f"The worker '{other.name}' is alive already, at {other.address}: two nodes cannot have the name "
                f"'{node}'. Choose another --node."
            )
        if other.address in pool:
            return (
                f"The worker '{other.name}' is reached at {other.address} already: two nodes cannot have one address. "
                "Choose another --advertise, under which the others reach this node."
            )
    return ""


def listen(host: str, port: int, option: str = "--port") -> socket.socket:
    """Open a listening socket.

    Args:
        host: Address to listen on; ``::`` listens on all addresses of IPv6 and IPv4, where the system can do that.
        port: Port to listen on; 0 takes a free one.
        option: Option that sets the port, for the message.

    Raises:
        click.ClickException: The address cannot be used; the message gives the reason.
    """
    try:
        bare = bare_host(host)
        family = socket.getaddrinfo(bare, port, type=socket.SOCK_STREAM)[0][0]
        is_dual = bare == "::" and socket.has_dualstack_ipv6()
        listener = socket.create_server(
            (bare, port), family=family, backlog=LISTEN_BACKLOG, dualstack_ipv6=is_dual
        )
    except (OSError, UnicodeError) as refused:
        from verl_agent_env.cluster.ports import reason_of

        if isinstance(refused, UnicodeError):
            reason = str(refused)
        else:
            is_name = isinstance(refused, socket.gaierror)
            reason = (refused.strerror or str(refused)) if is_name else reason_of(refused, port)
        raise click.ClickException(
            f"Cannot listen on {host}:{port}: {reason}. Choose another with --host and {option}."
        ) from None
    listener.setblocking(False)
    return listener


def raise_file_limit() -> None:
    """Raise the limit of open files to the hard limit: each connection is one.

    Raises:
        click.ClickException: The hard limit is too low for any server.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < _MIN_FILES:
        raise click.ClickException(
            f"This process may open {hard} files; a server needs {_MIN_FILES} and one for each connection. "
            "Raise the hard limit (ulimit -Hn)."
        )
    # Some systems report no limit but refuse to set it.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
