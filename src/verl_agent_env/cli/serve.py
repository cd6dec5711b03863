"""``verl-agent-env serve``: one server process with everything in memory."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import signal
import socket
import sys
from typing import Any

import click

from verl_agent_env.cli.options import merge_options, settings_options
from verl_agent_env.config import settings_from_environment

_BACKLOG = 16_384


@click.command()
@settings_options
def serve(**given: Any) -> None:
    """Serve environments over HTTP: one process, everything in memory, no other software."""
    try:
        settings = merge_options(settings_from_environment(os.environ), given)
    except ValueError as unfit:
        raise click.UsageError(str(unfit)) from None
    import uvicorn

    from verl_agent_env.server import create_app
    from verl_agent_env.server.logs import configure_logging

    configure_logging(settings.log_level, settings.log_format)
    raise_file_limit()
    listener = listen(settings.host, settings.port)
    host, port = listener.getsockname()[:2]
    settings = dataclasses.replace(settings, port=port)
    config = uvicorn.Config(
        create_app(settings),
        loop="uvloop",
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
        # Given to listen() once more: the default of 2048 would take the place of ours.
        backlog=_BACKLOG,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=settings.shutdown_grace_s,
        server_header=False,
        date_header=False,
    )
    shown = f"[{host}]" if ":" in host else host
    click.echo(f"Serving on http://{shown}:{port} (API: http://{shown}:{port}/docs). Ctrl-C stops.", err=True)
    # uvicorn stops in good order on either signal, and then raises it again for those who were there before: us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        sys.exit(0)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        click.ClickException: The address cannot be used; says why in one sentence.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as refused:
        reason = getattr(refused, "strerror", None) or refused
        raise click.ClickException(
            f"Cannot listen on {host}:{port}: {reason}. Choose another with --host and --port."
        ) from None
    listener.setblocking(False)
    return listener


def raise_file_limit() -> None:
    """Let this process open as many files as it may: each connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Some systems name no limit but refuse to be asked for it.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
