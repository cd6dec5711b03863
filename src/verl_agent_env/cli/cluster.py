"""``verl-agent-env cluster``: Redis, nodes and nginx on this machine, without Docker."""

from __future__ import annotations

import signal
import tempfile
import time
from pathlib import Path

import click

from verl_agent_env.cli.json_output import json_option, print_json
from verl_agent_env.cli.serve import announce, raise_file_limit
from verl_agent_env.cli.signals import exit_at_signals, outlive_signals
from verl_agent_env.cli.terminal import plain_console
from verl_agent_env.cluster.local import ClusterTls, LocalCluster
from verl_agent_env.cluster.programs import Program
from verl_agent_env.types import MANY_SLOTS, NUM_SLOTS

_POLL_S = 0.25
_ENDING = (signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)
_FILE = click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path)


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--nodes", type=click.IntRange(1, 64), default=2, show_default=True, help="How many nodes.")
@click.option(
    "--workers", type=click.IntRange(1, 64), default=2, show_default=True, help="Workers of each node."
)
@click.option("--port", type=click.IntRange(0, 65_535), default=8080, show_default=True, help="Port of nginx; 0 takes a free port.")  # fmt: skip
@click.option("--slots", type=click.Choice([str(NUM_SLOTS), str(MANY_SLOTS)]), default=str(NUM_SLOTS), show_default=True, help="Slots of the cluster.")  # fmt: skip
@click.option("--redis", default="", help="URL of a Redis that runs already; one is started when not given.")
@click.option("--redis-logs", type=click.IntRange(0, 16), default=0, show_default=True, help="How many more Redis to start, which keep the steps of environments in place of the first one.")  # fmt: skip
@click.option(
    "--folder", type=click.Path(file_okay=False, path_type=Path), help="For logs and data; a temporary one when not given."
)  # fmt: skip
@click.option("--tls-cert", type=_FILE, help="Certificate for 127.0.0.1 and localhost, PEM: then nginx and the workers speak TLS.")  # fmt: skip
@click.option("--tls-key", type=_FILE, help="The certificate's key, if it is not in the same file.")
@click.option("--tls-ca", type=_FILE, help="The CA that the certificate is of; needed with --tls-cert.")
@json_option("When the cluster is ready, print its URL, nodes and folder as JSON.")
@click.argument("serve_options", nargs=-1, type=click.UNPROCESSED)
def cluster(
    nodes: int,
    workers: int,
    port: int,
    slots: str,
    redis: str,
    redis_logs: int,
    folder: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_ca: Path | None,
    as_json: bool,
    serve_options: tuple[str, ...],
) -> None:
    """Run a whole cluster on this machine: Redis, nodes of several workers, nginx in front.

    Needs redis-server and nginx (Debian: apt-get install redis-server nginx). SERVE_OPTIONS go to every node's
    `serve`. Ctrl-C stops everything.
    """
    tls = _tls_of(tls_cert, tls_key, tls_ca)
    console = plain_console(stderr=True)
    raise_file_limit()
    outlive_signals(signal.SIGUSR1, signal.SIGUSR2)
    exit_at_signals(*_ENDING)
    with tempfile.TemporaryDirectory(prefix="verl-agent-env-") as temporary:
        with console.status("Starting") as status:
            parts = LocalCluster(
                folder or Path(temporary),
                is_temporary=folder is None,
                nodes=nodes,
                workers=workers,
                port=port,
                num_slots=int(slots),
                redis=redis,
                redis_logs=redis_logs,
                serve_options=serve_options,
                tls=tls,
                say=lambda part: status.update(f"Starting: {part}"),
            )
            try:
                parts.start()
            except BaseException:
                _end(parts)
                raise
        try:
            if as_json:
                print_json(
                    {
                        "url": parts.url,
                        "nodes": {node.name: node.addresses for node in parts.nodes},
                        "folder": str(parts.folder),
                    }
                )
            announce(_summary(parts))
            _watch(parts)
        except KeyboardInterrupt:
            pass
        finally:
            with console.status("Stopping: Ctrl-C kills what is left"):
                _end(parts)


def _end(parts: LocalCluster) -> None:
    """Stop all programs in order; at a second signal kill them."""
    try:
        parts.stop()
    except (KeyboardInterrupt, SystemExit):
        for number in (signal.SIGINT, *_ENDING):
            signal.signal(number, signal.SIG_IGN)
        parts.kill()


def _tls_of(cert: Path | None, key: Path | None, ca: Path | None) -> ClusterTls | None:
    if cert is not None and ca is not None:
        return ClusterTls(cert, key or cert, ca)
    if cert is not None or key is not None or ca is not None:
        raise click.UsageError(
            "TLS needs --tls-cert and --tls-ca, and --tls-key if the key has a file of its own."
        )
    return None


def _summary(parts: LocalCluster) -> str:
    lines = [f"  {node.name}: {', '.join(node.addresses)}" for node in parts.nodes]
    return "\n".join(
        [
            f"Serving on {parts.url} (API: {parts.url}/docs), {len(parts.addresses)} workers:",
            *lines,
            f"Logs: {parts.folder}. 'verl-agent-env status {parts.url}' shows the state of the workers. Ctrl-C stops.",
        ]
    )


def _watch(parts: LocalCluster) -> None:
    """Print each node that exits; never return.

    Raises:
        click.ClickException: Redis or nginx has exited; the cluster needs both.
    """
    gone: set[str] = set()
    while True:
        failed = parts.failed()
        if failed is not None:
            raise click.ClickException(f"{_exit_message(failed)}\n{failed.tail()}")
        for node in parts.nodes:
            if node.exit_code is not None and node.name not in gone:
                gone.add(node.name)
                announce(f"{_exit_message(node)} The other nodes are running.")
        time.sleep(_POLL_S)


def _exit_message(part: Program) -> str:
    return f"{part.name} has exited with code {part.exit_code}."
