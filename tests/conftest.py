"""How tests are run, and a real server process for those that need one."""

from __future__ import annotations

import gc
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests import depth, surroundings
from tests.children import ROOT
from tests.distribution import in_shares
from tests.preloaded import ForkedProcess, preloaded
from tests.sim.virtual_loop import VirtualLoop
from tests.steered import SteeredLoop
from tests.waiting import HANG_S


def pytest_addoption(parser: pytest.Parser) -> None:
    """Say how thoroughly the tests look."""
    parser.addoption(
        "--depth",
        type=int,
        default=1,
        metavar="TIMES",
        help="try so many times as much where faults are looked for at random; above 1, run the longest tests, too",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Before any test is looked at: the same surroundings for all, and the depth that was asked for."""
    config.addinivalue_line("markers", "virtual_time: waits for nothing but timers, which are due at once")
    config.addinivalue_line("markers", "deep: so long that it runs with a --depth above 1 only (make deep)")
    surroundings.settle_variables(os.environ)
    # Decided when Python started, by a variable that is gone now.
    sys.dont_write_bytecode = False
    depth.choose(config.getoption("--depth"))
    # Nothing of what is collected is garbage, and the more there is, the longer each look at all of it takes.
    gc.disable()


def pytest_collection_finish() -> None:
    """Look for garbage again, but not among the tests, which stay."""
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    """Look for garbage once more: pytest would do it five times, each time among all tests if a server in here unfroze them."""
    gc.collect()
    gc.freeze()


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], AbstractEventLoop]]:
    """Have coroutines be tested in a loop whose clock can be put forward, or one that never waits."""
    return {"virtual": VirtualLoop} if item.get_closest_marker("virtual_time") else {"steered": SteeredLoop}


_PROCESSES = frozenset(("start_server", "cluster", "hosts", "installed", "run_load_test"))
"""Fixtures that start processes."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what is too long for every day; begin with the longest, so that nobody waits for one of them in the end."""
    shares: int = getattr(config, "workerinput", {}).get("workercount", 1)
    items[:] = in_shares(
        items,
        shares,
        lambda item: not _PROCESSES.isdisjoint(getattr(item, "fixturenames", ())),
        lambda item: item.path,
    )
    for item in items:
        if depth.is_shallow() and "deep" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="make deep runs it"))


@pytest.fixture(scope="session", autouse=True)
def _signals() -> None:
    # Not in pytest_configure: what distributes the tests must let its children, who run them, survive a hang-up, too.
    surroundings.handle_ignored_signals()


class ServerProcess:
    """``verl-agent-env serve`` on a free port of its own, ended by its process id.

    Forked from a process that has loaded the package (see :mod:`tests.preloaded`), unless a command is given.
    """

    def __init__(
        self, arguments: list[str], variables: dict[str, str], command: list[str] | None = None
    ) -> None:
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.lines: list[str] = []
        """What it wrote to standard error, so far."""
        reading, writing = os.pipe()
        self._stderr = os.fdopen(reading)
        environment = {**os.environ, **variables}
        self.process: subprocess.Popen[bytes] | ForkedProcess
        try:
            if command is None:
                words = ["serve", "--port", "0", *arguments]
                self.process = preloaded(environment).start(words, environment, writing)
            else:
                self.process = subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=writing,
                )
        except BaseException:
            self._stderr.close()
            raise
        finally:
            os.close(writing)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            line = self.wait_for_line(r"(https?)://(?:[\d.]+|\[[\d:]+\]):(\d+)")
        except BaseException:
            self.process.kill()
            self.wait()
            raise
        self.port = int(line[2])
        self.url = f"{line[1]}://127.0.0.1:{self.port}"

    def wait_for_line(self, pattern: str, timeout_s: float = HANG_S) -> re.Match[str]:
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

    def stop(self, signal_number: int = signal.SIGTERM, timeout_s: float = HANG_S) -> int:
        """End the process and give its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = HANG_S) -> int:
        """Wait for its end."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            # Its workers end soon after it. While one may still write, the reader holds the pipe, and closing it would
            # wait for ever.
            self._reader.join(HANG_S)
            if not self._reader.is_alive():
                self._stderr.close()
        return code

    def _read(self) -> None:
        for line in self._stderr:
            self.lines.append(line)
            self._lines.put(line)
        self._lines.put(None)


StartServer = Callable[..., ServerProcess]


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this test run have in common; see :func:`tests.once.once`."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def plugin_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A ``PYTHONPATH`` on which a package is installed that registers environments that block until they are told, or
    end their process."""
    site = tmp_path_factory.mktemp("site")
    info = site / "slow_envs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: slow-envs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[verl_agent_env.envs]\n"
        "slow/gated-v0 = tests.server.slow_env:GatedEnv\n"
        "slow/gated_replayed-v0 = tests.server.slow_env:ReplayedGatedEnv\n"
        "deadly/inline-v0 = tests.server.deadly_env:DeadlyEnv\n"
        "deadly/thread-v0 = tests.server.deadly_env:ThreadedDeadlyEnv\n"
    )
    return f"{site}{os.pathsep}{ROOT}"


@pytest.fixture
def start_server(plugin_path: str) -> Iterator[StartServer]:
    """A function that starts a server with these options (and variables); all are ended after the test."""
    with ExitStack() as stack:

        def start(*arguments: str, command: list[str] | None = None, **variables: str) -> ServerProcess:
            server = ServerProcess(list(arguments), {"PYTHONPATH": plugin_path, **variables}, command)
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture(scope="session")
def server(plugin_path: str) -> Iterator[ServerProcess]:
    """A server with default settings, shared by all tests of a process: look only at what you made yourself."""
    process = ServerProcess([], {"PYTHONPATH": plugin_path})
    yield process
    process.stop()
