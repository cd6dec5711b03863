"""What the system has no more of: files that a process may open, room for the log."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.conftest import ServerProcess
from tests.ports import free_ports
from tests.waiting import HANG_S, eventually
from verl_agent_env.server.http.logs import configure_logging

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
    # One line in a minute, however many are refused.
    assert sum("too many connections" in line for line in server.lines) == 1


def _is_healthy(server: ServerProcess) -> bool:
    try:
        return httpx.get(f"{server.url}/healthz", timeout=HANG_S).status_code == 200
    except httpx.TransportError:
        return False


NOISY = """
import sys
from verl_agent_env.cli import main
sys.argv[1:] = ["serve", "--host", "127.0.0.1", "--access-log", "--log-level", "debug", "--port", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize("options", [[], ["--workers", "2"]])
def test_a_server_whose_log_is_on_a_full_disk_goes_on_and_ends_in_good_order(options: list[str]) -> None:
    # The workers of a pool take the ports that follow.
    port = free_ports(3)[0]
    command = [sys.executable, "-c", NOISY, str(port), *options]
    with Path("/dev/full").open("w") as full:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=full, stderr=full)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=HANG_S) as client:
            eventually(lambda: process.poll() is not None or _answers(client))
            assert process.poll() is None
            made = client.post("/api/environment/initialize", json={"env_name": "frozen_lake", "seed": 1})
            step = f"/api/environment/{made.json()['env_id']}/step"
            for seq in range(5):
                assert client.post(step, json={"action": "up", "seq": seq}).status_code == 200
                # What is refused is logged as well.
                assert client.post(step, json={"action": "up", "seq": 99}).status_code == 409
    finally:
        process.terminate()
        ended = process.wait(HANG_S)
    assert ended == 0


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
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
