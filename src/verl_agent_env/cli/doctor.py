"""``verl-agent-env doctor``: faults of this machine or of a server, and the commands that repair them."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import platform
import re
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import click
from rich.table import Table
from rich.text import Text

from verl_agent_env import __version__
from verl_agent_env.cli.api import call
from verl_agent_env.cli.json_output import json_option, print_json
from verl_agent_env.cli.terminal import plain_console, print_table
from verl_agent_env.cluster.ports import reason_of
from verl_agent_env.cluster.programs import find_program
from verl_agent_env.config import variable_of
from verl_agent_env.wire.catalogue_responses import ClusterResponse, StatusResponse

_PACKAGE = "verl-agent-env"
_MIN_FILES = 4096
_COMMAND_S = 10.0
_CONNECT_S = 2.0
_MARKS = {"ok": Text("ok", "green"), "note": Text("note", "yellow"), "fault": Text("FAULT", "red")}


@dataclass(frozen=True)
class Finding:
    """Result of one check."""

    subject: str
    """For example ``redis-server``."""
    state: Literal["ok", "note", "fault"]
    """``note``: a part that is missing and optional, or a setting that may lose data."""
    detail: str
    """Sentence that describes the result."""
    remedy: str = ""
    """Command or sentence that repairs the fault; empty if there is none."""


@click.command()
@click.option("--url", default="", help="Also check the running server at this URL.")
@click.option("--redis", default="", envvar=variable_of("redis"), help="Also check this Redis, as a node would use it.")  # fmt: skip
@click.option("--redis-log", "redis_logs", multiple=True, help="Also check this Redis, which keeps steps of environments; one option for each of them.")  # fmt: skip
@click.option(
    "--port",
    type=click.IntRange(1, 65_535),
    default=8000,
    show_default=True,
    help="Port that a server would listen on.",
)
@click.option(
    "--token", envvar="VERL_AGENT_ENV_TOKEN", default="", help="Bearer token, if the server asks for one."
)
@json_option("Print the findings as JSON.")
def doctor(url: str, redis: str, redis_logs: tuple[str, ...], port: int, token: str, as_json: bool) -> None:
    """Check what a server or a cluster needs on this machine, and print how to repair faults.

    Exit code 1 if there is a fault.
    """
    with plain_console(stderr=True).status("Checking this machine") as status:
        findings = list(_machine())
        if not url:
            findings.append(_port(port))
        if redis:
            status.update("Checking Redis")
            findings += asyncio.run(_redis(redis, redis_logs))
        if url:
            status.update("Checking the server and its workers")
            findings += _server(url, token)
    if as_json:
        print_json(findings)
    else:
        _print(findings)
    sys.exit(1 if any(finding.state == "fault" for finding in findings) else 0)


def _print(findings: list[Finding]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    for _ in range(3):
        table.add_column(overflow="fold", min_width=5)
    for finding in findings:
        remedy = f"\n→ {finding.remedy}" if finding.remedy else ""
        table.add_row(_MARKS[finding.state], finding.subject, f"{finding.detail}{remedy}")
    print_table(table)


# --- this machine -------------------------------------------------------------------------------------------


def _machine() -> Iterator[Finding]:
    version = platform.python_version()
    fits = sys.version_info >= (3, 11)
    yield Finding(
        "Python",
        "ok" if fits else "fault",
        f"{version} at {sys.executable}",
        "" if fits else "install Python 3.11 or newer, and this package with it",
    )
    yield Finding(_PACKAGE, "ok", __version__)
    yield _packages()
    yield _program(
        "redis-server", "--version", "needed for 'cluster', unless --redis names a Redis that runs"
    )
    yield _program("nginx", "-v", "needed for 'cluster', and before nodes of several machines")
    yield _files()


def _packages() -> Finding:
    """Check that all required packages are installed in matching versions."""
    from packaging.requirements import Requirement

    missing = []
    for text in importlib.metadata.requires(_PACKAGE) or []:
        needed = Requirement(text)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(needed.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(f"{needed.name} is missing")
            continue
        if not needed.specifier.contains(version, prereleases=True):
            missing.append(f"{needed.name} is {version}, not {needed.specifier}")
    if missing:
        return Finding("packages", "fault", f"{'; '.join(missing)}.", f"pip install --upgrade {_PACKAGE}")
    return Finding("packages", "ok", "all that are needed, in versions that fit")


def _program(name: str, version_option: str, purpose: str) -> Finding:
    found = find_program(name)
    if found is None:
        return Finding(name, "note", f"not installed; {purpose}", f"apt-get install {name}")
    try:
        done = subprocess.run(  # noqa: S603 - a program of the system
            [found, version_option], capture_output=True, text=True, timeout=_COMMAND_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as broken:
        return Finding(
            name, "fault", f"{found} cannot be run: {broken}", f"apt-get install --reinstall {name}"
        )
    version = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
    return Finding(name, "ok", f"{version.group() if version else 'of an unknown version'} at {found}")


def _files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < _MIN_FILES:
        return Finding(
            "open files",
            "fault",
            f"at most {hard} for a process: each connection needs one",
            f"raise the hard limit: 'ulimit -Hn {_MIN_FILES}' as root, LimitNOFILE= of systemd, --ulimit of docker run",
        )
    limit = "without a limit" if hard == resource.RLIM_INFINITY else f"{hard} for a process"
    return Finding("open files", "ok", f"{limit}; 'serve' raises its own limit of {soft} to that")


def _port(port: int) -> Finding:
    """Check that a server could listen on its port."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as refused:
        return Finding(
            f"port {port}",
            "fault",
            reason_of(refused, port),
            "end that process, or choose another with --port",
        )
    return Finding(f"port {port}", "ok", "free")


# --- Redis and a server -------------------------------------------------------------------------------------


async def _redis(url: str, logs: Sequence[str]) -> list[Finding]:
    from verl_agent_env.cluster.backends import BackendOptions, open_backend
    from verl_agent_env.errors import StoreUnavailableError

    try:
        backend = open_backend(url, BackendOptions(logs=logs or None))
    except ValueError as unfit:
        return [Finding("Redis", "fault", f"{unfit}.", "redis://HOST:6379/0")]
    try:
        risks = await backend.rehearse()
        workers = len((await backend.store.read_map()).workers)
    except StoreUnavailableError as away:
        return [
            Finding("Redis", "fault", away.detail, "start it there, or correct the URL, user and password")
        ]
    finally:
        await backend.aclose()
    return [
        Finding("Redis", "ok", f"answers; {workers} workers have registered"),
        *(Finding(f"event log {where}", "ok", "answers") for where in backend.places),
        *(Finding("Redis", "note", risk) for risk in risks),
    ]


def _server(url: str, token: str) -> list[Finding]:
    """Check a server, and that each of its workers can be reached from here."""
    try:
        call(url, "/healthz", StatusResponse, token=token)
        ready = call(url, "/readyz", StatusResponse, token=token)
        cluster = call(url, "/api/cluster", ClusterResponse, token=token)
    except click.ClickException as away:
        return [Finding("server", "fault", away.message, f"{_PACKAGE} serve; or correct --url and --token")]
    findings = [Finding("server", "ok", f"{url} is {ready['status']}")]
    workers = [worker for node in cluster["nodes"] for worker in node["workers"]]
    for worker in workers:
        findings.append(_worker(worker))
    without = sum(worker["slots"] == 0 and worker["state"] == "ready" for worker in workers)
    if without:
        findings.append(
            Finding("slots", "note", f"{without} ready workers own no slot: slots are being moved")
        )
    return findings


def _worker(worker: dict[str, Any]) -> Finding:
    name, address = f"worker {worker['name']}", str(worker["address"])
    place = urlsplit(f"//{address}")
    reason = "it has no port"
    with contextlib.suppress(ValueError):
        if place.hostname is not None and place.port is not None:
            try:
                socket.create_connection((place.hostname, place.port), timeout=_CONNECT_S).close()
            except OSError as refused:
                reason = str(refused.strerror or refused)
            else:
                return Finding(name, "ok", f"{address}, {worker['state']}, {worker['slots']} slots")
    return Finding(
        name,
        "note",
        f"cannot be reached from here at {address}: {reason}",
        "no fault if only the other nodes can reach it; else give the node --advertise with a name that others know",
    )
