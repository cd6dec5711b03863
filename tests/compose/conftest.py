"""The compose project, brought up once for all tests of this folder, and only when ``COMPOSE_TESTS=1`` asks for it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.children import run
from tests.pool_process import all_workers
from tests.ports import free_port
from tests.waiting import HANG_S, eventually

BUILD_S = 1500.0
READY_S = 120.0


class Project:
    """A compose project of its own name, on a free port."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._name = f"verlagentenvtest{os.getpid()}"
        self._command = [*_compose(), "--project-name", self._name]
        self._environment = {
            "VERL_AGENT_ENV_PORT": str(self.port),
            "VERL_AGENT_ENV_WORKERS": "2",
        }
        # A new connection each time: one that is kept would be reset by a reload of nginx.
        limits = httpx.Limits(max_keepalive_connections=0)
        self.client = httpx.Client(base_url=self.url, timeout=HANG_S, limits=limits)

    def run(self, *words: str, timeout_s: float = HANG_S) -> str:
        """What a compose command prints; it must succeed."""
        done = run(*self._command, *words, variables=self._environment, timeout_s=timeout_s)
        assert done.returncode == 0, f"{' '.join(words)}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def container(self, service: str) -> str:
        """The id of a service's container."""
        return self.run("ps", "-q", service).strip()

    def published(self) -> set[str]:
        """The ports of this machine that lead into a container."""
        command = ["docker", "ps", "--filter", f"label=com.docker.compose.project={self._name}"]
        done = run(*command, "--format", "{{.Ports}}")
        assert done.returncode == 0, done.stderr
        return set(re.findall(r":(\d+)->", done.stdout))

    def ready_workers(self) -> dict[str, dict[str, Any]]:
        """By address, as any worker behind nginx sees them."""
        try:
            workers = all_workers(self.client)
        except (httpx.TransportError, json.JSONDecodeError, KeyError):
            return {}
        return {worker["address"]: worker for worker in workers if worker["state"] == "ready"}

    def await_nodes(self, *names: str) -> None:
        """Wait until these nodes, each with two workers, share all slots."""
        expected = {f"{name}:{port}" for name in names for port in (8001, 8002)}

        def is_settled() -> bool:
            workers = self.ready_workers()
            slots = [worker["slots"] for worker in workers.values()]
            return set(workers) == expected and sum(slots) == 4096 and min(slots) > 0

        eventually(is_settled, READY_S, f"a cluster of {', '.join(names)}")

    def logs(self) -> str:
        """The last lines of all services."""
        return self.run("logs", "--no-color", "--tail", "40")


def _compose() -> list[str]:
    """The compose of this machine.

    Raises:
        RuntimeError: There is none.
    """
    for words in (["docker", "compose"], ["docker-compose"]):
        try:
            found = run(*words, "version")
        except FileNotFoundError:
            continue
        if found.returncode == 0:
            return words
    raise RuntimeError("neither 'docker compose' nor 'docker-compose' is installed")


@pytest.fixture(scope="session")
def project() -> Iterator[Project]:
    """Up, with two nodes."""
    made = Project()
    try:
        made.run("up", "--detach", "--build", timeout_s=BUILD_S)
        try:
            made.await_nodes("node-1", "node-2")
        except AssertionError as late:
            late.add_note(made.logs())
            raise
        yield made
    finally:
        made.client.close()
        made.run("--profile", "scale-out", "down", "--volumes", "--remove-orphans", "--timeout", "20")
    assert made.run("ps", "-q").strip() == ""
