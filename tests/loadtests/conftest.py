"""A server for the load tests, and a way to run them as their users do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from loadtests.play_batch import read_metrics
from loadtests.processes import ServerProcess, serving
from tests.children import forked_python
from tests.waiting import HANG_S


@dataclass(frozen=True)
class Ran:
    """A load test that has ended."""

    exit_code: int
    printed: str
    out: Path
    created: int
    """What the server counted meanwhile."""
    closed: int
    live: int

    @property
    def summary(self) -> dict[str, Any]:
        """Its own figures."""
        summary: dict[str, Any] = orjson.loads((self.out / "summary.json").read_bytes())
        return summary


RunLoadTest = Callable[..., Ran]


@pytest.fixture(scope="module")
def load_server() -> Iterator[ServerProcess]:
    """A server for all load tests of a module."""
    with serving() as server:
        yield server


@pytest.fixture
def run_load_test(load_server: ServerProcess, tmp_path: Path) -> RunLoadTest:
    """A function that runs ``python -m loadtests.run`` with these arguments."""

    # Not in this process: locust replaces much of the standard library's blocking calls when it is imported.
    def run(*arguments: str) -> Ran:
        url = f"http://127.0.0.1:{load_server.port}"
        command = ["-m", "loadtests.run", *arguments, "--host", url, "--out", str(tmp_path)]
        with httpx.Client(base_url=url, timeout=HANG_S) as client:
            before = read_metrics(client)
            ended = forked_python(*command)
            after = read_metrics(client)

        def counted(what: str) -> int:
            return sum(count - before[key] for key, count in after.items() if key[0] == what)

        return Ran(
            ended.returncode,
            ended.stdout + ended.stderr,
            tmp_path,
            counted("created"),
            counted("closed"),
            counted("live"),
        )

    return run
