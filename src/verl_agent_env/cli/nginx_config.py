"""``verl-agent-env nginx-config``: write nginx's configuration, once or whenever the workers change."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from verl_agent_env.addresses import url_host
from verl_agent_env.cli.signals import log_outlived_signals
from verl_agent_env.cluster.backends import BackendOptions, open_backend
from verl_agent_env.cluster.nginx.config import NginxSettings, nginx_config, write_nginx_config
from verl_agent_env.cluster.nginx.watch import NginxWatch, ReloadError
from verl_agent_env.cluster.programs import program
from verl_agent_env.config import variable_of
from verl_agent_env.types import MANY_SLOTS, NUM_SLOTS

_COMMAND_S = 30.0
"""Time limit of nginx's check, and of the command that reloads it."""


@click.command("nginx-config")
@click.option("--worker", "workers", multiple=True, metavar="HOST:PORT", help="Address of a planned worker.")
@click.option("--node", "nodes", multiple=True, metavar="HOST:FIRST_PORT:COUNT", help="Addresses of a planned node's workers.")  # fmt: skip
@click.option("--port", type=int, default=8080, show_default=True, help="Port that nginx listens on.")
@click.option(
    "--host",
    default="*",
    show_default=True,
    help="Address that nginx listens on; * for all of IPv4, :: for all of both families.",
)
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), help="For nginx's process id and temporary files.  [default: where --out is, or here]")  # fmt: skip
@click.option(
    "--processes", type=int, default=0, help="Processes of nginx; one for each core when not given."
)
@click.option("--max-connections", type=int, default=16_384, show_default=True, help="Clients at one time.")
@click.option("--user", default="", metavar="USER[:GROUP]", help="Account of nginx's processes when root starts it.")  # fmt: skip
@click.option("--tls-cert", default="", metavar="FILE", help="nginx's certificate, PEM: then it speaks TLS.")
@click.option(
    "--tls-key", default="", metavar="FILE", help="The certificate's key, if it is not in the same file."
)
@click.option("--tls-client-ca", default="", metavar="FILE", help="CA of clients' certificates: then nobody gets in without one.")  # fmt: skip
@click.option(
    "--worker-ca", default="", metavar="FILE", help="CA of the workers' certificates, if they speak TLS."
)
@click.option(
    "--worker-name", default="", help="With --worker-ca: a name that the certificates of all workers have."
)
@click.option("--worker-cert", default="", metavar="FILE", help="Certificate and key that workers are shown.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="File to write; printed when not given."
)
@click.option("--front", "fronts", multiple=True, metavar="ADDRESS", help="Address or network of an nginx before this one.")  # fmt: skip
@click.option("--slots", "num_slots", type=click.Choice([str(NUM_SLOTS), str(MANY_SLOTS)]), default=str(NUM_SLOTS), envvar=variable_of("slots"), show_default=True, help="Slots of the cluster; with --watch and --redis those that it has.")  # fmt: skip
@click.option("--gzip", "compresses", is_flag=True, help="Compress large answers for clients that accept it.")
@click.option("--targets", type=click.Path(dir_okay=False, path_type=Path), help="With --watch: also list the workers for Prometheus, in this file.")  # fmt: skip
@click.option("--check", is_flag=True, help="Have nginx test the configuration first.")
@click.option(
    "--watch", is_flag=True, help="Go on: follow the hosts' addresses, and with --redis the live workers."
)
@click.option(
    "--redis", default="", envvar=variable_of("redis"), help="URL of the Redis in which the nodes meet."
)
@click.option("--namespace", default=BackendOptions.namespace, envvar=variable_of("namespace"), show_default=True, help="Prefix of all keys in Redis.")  # fmt: skip
@click.option("--reload", "reload_command", default="", metavar="COMMAND", help="Run after each change, such as 'nginx -s reload'.")  # fmt: skip
@click.option("--nginx-pid", type=click.Path(dir_okay=False, path_type=Path), help="File with the process id of nginx, which is told of each change.")  # fmt: skip
@click.option("--departed-after-s", type=click.FloatRange(min=0), default=60.0, show_default=True, help="Seconds that a worker that is not planned stays declared after its end.")  # fmt: skip
@click.option("--poll-s", type=click.FloatRange(min=0.01), default=1.0, show_default=True, help="Look at least so often.")  # fmt: skip
def nginx_config_command(
    workers: tuple[str, ...],
    nodes: tuple[str, ...],
    port: int,
    host: str,
    folder: Path | None,
    processes: int,
    max_connections: int,
    user: str,
    out: Path | None,
    targets: Path | None,
    check: bool,
    watch: bool,
    redis: str,
    namespace: str,
    reload_command: str,
    nginx_pid: Path | None,
    departed_after_s: float,
    poll_s: float,
    worker_name: str,
    fronts: tuple[str, ...],
    compresses: bool,
    num_slots: str,
    **tls_files: str,
) -> None:
    """Write the configuration of the nginx before all workers.

    Declare every worker that there will be, with --node or --worker. With --watch and --redis, workers that are alive
    without being declared are added as they come. Start nginx with 'nginx -e stderr -c FILE'; it stays in the
    foreground.
    """
    if reload_command and nginx_pid:
        raise click.UsageError("--reload and --nginx-pid both tell nginx; give one of them.")
    # nginx would look for them elsewhere.
    tls: dict[str, Any] = {
        name: str(Path(file).absolute()) if file else "" for name, file in tls_files.items()
    }
    try:
        settings = NginxSettings(
            addresses=tuple(
                sorted({*map(_address, workers), *itertools.chain.from_iterable(map(_addresses, nodes))})
            ),
            folder=(folder or (out.parent if out else Path())).absolute(),
            port=port,
            host=host,
            processes=processes,
            max_connections=max_connections,
            user=user,
            worker_name=worker_name,
            fronts=fronts,
            compresses=compresses,
            num_slots=int(num_slots),
            **tls,
        )
    except ValueError as unfit:
        raise click.UsageError(f"{unfit}.") from None
    if not watch:
        _write_once(settings, out, check)
        return
    if out is None:
        raise click.UsageError("--watch needs a file to write: --out FILE.")
    if not settings.addresses and not redis:
        raise click.UsageError("There is nothing to watch: give --redis, or workers with --node or --worker.")
    tell = _reloader(reload_command, nginx_pid)

    def reload() -> None:
        if check:
            _test_file(out)
        tell()

    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        asyncio.run(_watch(settings, out, targets, redis, namespace, reload, departed_after_s, poll_s))


def _write_once(settings: NginxSettings, out: Path | None, check: bool) -> None:
    if not settings.addresses:
        raise click.UsageError("There are no workers: give them with --node or --worker.")
    if check:
        with tempfile.TemporaryDirectory() as scratch:
            draft = Path(scratch) / "nginx.conf"
            try:
                write_nginx_config(settings, draft)
                _test_file(draft)
            except (OSError, ReloadError) as refused:
                raise click.ClickException(str(refused)) from None
    if out is None:
        click.echo(nginx_config(settings), nl=False)
        return
    try:
        write_nginx_config(settings, out)
    except OSError as refused:
        raise click.ClickException(f"Cannot write {out}: {refused.strerror}.") from None


async def _watch(
    settings: NginxSettings,
    out: Path,
    targets: Path | None,
    redis: str,
    namespace: str,
    reload: Callable[[], None],
    departed_after_s: float,
    poll_s: float,
) -> None:
    task = asyncio.current_task()
    if task is not None:
        for number in (signal.SIGTERM, signal.SIGQUIT):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    log_outlived_signals(lambda line: click.echo(line, err=True))
    try:
        settings.folder.mkdir(parents=True, exist_ok=True)
        backend = open_backend(redis, BackendOptions(namespace, logs=None)) if redis else None
    except ValueError as unfit:
        raise click.UsageError(f"{unfit}.") from None
    except OSError as refused:
        raise click.ClickException(f"Cannot make {settings.folder}: {refused.strerror}.") from None
    try:
        watch = NginxWatch(
            settings,
            out,
            members=None if backend is None else backend.store,
            targets=targets,
            reload=reload,
            departed_after_s=departed_after_s,
            poll_s=poll_s,
            say=lambda line: click.echo(line, err=True),
        )
        await watch.run()
    finally:
        if backend is not None:
            await backend.aclose()


def _address(worker: str) -> str:
    """Return ``HOST:PORT`` as the worker announces it, an IPv6 address in brackets."""
    host, colon, port = worker.rpartition(":")
    return f"{url_host(host)}{colon}{port}"


def _addresses(node: str) -> Iterable[str]:
    """Parse ``HOST:FIRST_PORT:COUNT`` into addresses.

    Raises:
        ValueError: The text has another form.
    """
    host, first, count = [*node.rsplit(":", 2), "", ""][:3]
    if not (host and first.isdecimal() and count.isdecimal() and int(count) > 0):
        raise ValueError(f"'{node}' is no node: write HOST:FIRST_PORT:COUNT")
    if int(first) + int(count) - 1 > 65_535:
        raise ValueError(f"there are no {count} ports from {first}")
    return [f"{url_host(host)}:{int(first) + index}" for index in range(int(count))]


def _reloader(command: str, pid_file: Path | None) -> Callable[[], None]:
    """Return the function that makes nginx reload its configuration; a no-op if neither is given."""
    words = shlex.split(command)
    if words:
        return lambda: _run(words, "it")
    if pid_file is not None:
        return lambda: _hang_up(pid_file)
    return lambda: None


def _hang_up(pid_file: Path) -> None:
    try:
        os.kill(int(pid_file.read_text("ascii")), signal.SIGHUP)
    except (OSError, ValueError):
        raise ReloadError(f"{pid_file} names no process; nginx does not run.") from None


def _test_file(path: Path) -> None:
    _run([program("nginx"), "-t", "-q", "-e", "stderr", "-c", str(path.absolute())], "nginx")


def _run(words: list[str], who: str) -> None:
    try:
        done = subprocess.run(  # noqa: S603
            words, capture_output=True, text=True, timeout=_COMMAND_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise ReloadError(f"'{words[0]}' took longer than {_COMMAND_S:g} s.") from None
    except OSError as refused:
        raise ReloadError(f"'{words[0]}' cannot be run: {refused.strerror}.") from None
    if done.returncode:
        # nginx tells the reason first.
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise ReloadError(f"{who} says: {said[0]}.")
