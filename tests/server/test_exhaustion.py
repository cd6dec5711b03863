"""What the system has no more of: files that a process may open, room for the log."""

from __future__ import annotations

import logging
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.conftest import ServerProcess
from tests.waiting import HANG_S, eventually
from verl_agent_env.server.logs import configure_logging

FILES = 64
FEW_FILES = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, ({FILES}, {FILES}))
from verl_agent_env.cli import main
sys.argv[1:] = ["serve", "--port", "0"]
main()
"""


def processor_s(pid: int) -> float:
    """Seconds that a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_more_connections_than_files_end_no_server_and_keep_none_busy() -> None:
    server = ServerProcess([], {}, [sys.executable, "-c", FEW_FILES])
    try:
        with httpx.Client(base_url=server.url, timeout=HANG_S) as early, ExitStack() as stack:
            assert early.get("/healthz").status_code == 200
            for _ in range(3 * FILES):
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=HANG_S))
            before = processor_s(server.process.pid)
            # Who is in, stays in, and the others are not waited for in a circle.
            for _ in range(50):
                assert early.get("/healthz").status_code == 200
            assert processor_s(server.process.pid) - before < 10
        eventually(lambda: _is_healthy(server))
    finally:
        assert server.stop() == 0
    assert any("too many connections" in line for line in server.lines)


def _is_healthy(server: ServerProcess) -> bool:
    try:
        return httpx.get(f"{server.url}/healthz", timeout=HANG_S).status_code == 200
    except httpx.TransportError:
        return False


def test_a_full_disk_of_the_log_raises_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    full = Path("/dev/full").open("w", buffering=1)  # noqa: SIM115
    try:
        monkeypatch.setattr(sys, "stderr", full)
        configure_logging("info", "json", 20.0)
        for _ in range(3):
            logging.getLogger("anything").warning("no room for this")
            logging.getLogger("anything").info("nor for this")
    finally:
        monkeypatch.undo()
        root.handlers[:] = handlers
        root.setLevel(level)
        try:
            full.close()
        except OSError:
            assert full.closed
