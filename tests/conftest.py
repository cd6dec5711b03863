"""A real server process for tests that need one."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

ROOT = Path(__file__).parents[1]
_START_S = 120.0


class ServerProcess:
    """``verl-agent-env serve`` on a free port of its own, ended by its process id."""

    def __init__(
        self, arguments: list[str], variables: dict[str, str], command: list[str] | None = None
    ) -> None:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("VERL_AGENT_ENV_")}
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.lines: list[str] = []
        """What it wrote to standard error, so far."""
        self.process = subprocess.Popen(
            command or [sys.executable, "-m", "verl_agent_env.cli", "serve", "--port", "0", *arguments],
            cwd=ROOT,
            env={**inherited, **variables},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        line = self.wait_for_line(r"http://(?:[\d.]+|\[[\d:]+\]):(\d+)", _START_S)
        self.port = int(line[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def wait_for_line(self, pattern: str, timeout_s: float = 15.0) -> re.Match[str]:
        """The first match among the lines written from now on (and those not looked at yet)."""
        end = time.monotonic() + timeout_s
        while True:
            try:
                line = self._lines.get(timeout=max(0.01, end - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError(f"no line like {pattern!r} among:\n{''.join(self.lines)}")
            found = re.search(pattern, line)
            if found is not None:
                return found

    def records(self) -> list[dict[str, Any]]:
        """The log lines that are JSON; complete after :meth:`stop`."""
        return [orjson.loads(line) for line in self.lines if line.startswith("{")]

    def stop(self, signal_number: int = signal.SIGTERM, timeout_s: float = 25.0) -> int:
        """End the process and give its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = 25.0) -> int:
        """Wait for its end."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)
            raise
        finally:
            self._reader.join(5)
            # While a child that outlived it may still write, the reader holds it, and closing would wait for ever.
            if self.process.stderr is not None and not self._reader.is_alive():
                self.process.stderr.close()
        return code

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            self._lines.put(line)
        self._lines.put(None)


StartServer = Callable[..., ServerProcess]


@pytest.fixture(scope="session")
def plugin_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A ``PYTHONPATH`` on which a package is installed that registers ``slow/gated-v0``."""
    site = tmp_path_factory.mktemp("site")
    info = site / "slow_envs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: slow-envs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[verl_agent_env.envs]\nslow/gated-v0 = tests.server.slow_env:GatedEnv\n"
    )
    return f"{site}{os.pathsep}{ROOT}"


@pytest.fixture
def start_server(plugin_path: str) -> Iterator[StartServer]:
    """A function that starts a server with these options (and variables); all are ended after the test."""
    started: list[ServerProcess] = []

    def start(*arguments: str, command: list[str] | None = None, **variables: str) -> ServerProcess:
        started.append(ServerProcess(list(arguments), {"PYTHONPATH": plugin_path, **variables}, command))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def server(plugin_path: str) -> Iterator[ServerProcess]:
    """A server with default settings, shared by all tests of a process: look only at what you made yourself."""
    process = ServerProcess([], {"PYTHONPATH": plugin_path})
    yield process
    process.stop()
