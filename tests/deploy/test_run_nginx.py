"""The script that runs nginx in a container, with a real nginx."""

from __future__ import annotations

import contextlib
import getpass
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.cluster.echo_servers import EchoServers
from tests.cluster.redis_process import binary
from tests.pool_process import is_running
from tests.ports import free_port
from tests.waiting import HANG_S, eventually
from verl_agent_env.cluster.nginx.config import NginxSettings, write_nginx_config


class Container:
    """The script as it runs in nginx's container, and two workers that echo."""

    def __init__(self, script: Path, folder: Path) -> None:
        self.workers = EchoServers(2)
        self.config = folder / "config" / "nginx.conf"
        self.folder = folder
        self.port = free_port()
        self.log = folder / "log"
        path = f"{Path(binary('nginx')).parent}:{os.environ['PATH']}"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["sh", str(script), str(self.config)],
                env={"PATH": path},
                stderr=log,
                stdout=log,
                start_new_session=True,
            )

    def write(self, *addresses: str) -> None:
        """Do what the watcher does."""
        user = getpass.getuser() if os.geteuid() == 0 else ""
        settings = NginxSettings(
            addresses, self.folder, port=self.port, host="127.0.0.1", user=user, processes=1
        )
        write_nginx_config(settings, self.config)

    def answers(self) -> set[str]:
        """The workers that answer a few calls."""
        url = f"http://127.0.0.1:{self.port}/healthz"
        try:
            return {httpx.get(url, timeout=HANG_S).json()["address"] for _ in range(4)}
        except httpx.TransportError:
            return set()

    @property
    def nginx_pid(self) -> int:
        """Of nginx's first process."""
        return int((self.folder / "nginx.pid").read_text())

    def stop(self) -> None:
        """End everything."""
        # The session outlives its first process when that was killed.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.workers.close()


@pytest.fixture
def container(deploy: Path, tmp_path: Path) -> Iterator[Container]:
    """Started before there is a configuration."""
    made = Container(deploy / "helm" / "run-nginx.sh", tmp_path)
    yield made
    made.stop()


def test_nginx_starts_with_the_file_and_reads_each_new_one_that_it_accepts(container: Container) -> None:
    first, second = container.workers.addresses
    container.write(first)
    eventually(lambda: container.answers() == {first})
    pid = container.nginx_pid
    container.config.write_text("no configuration\n")
    eventually(lambda: "unexpected end of file" in container.log.read_text())
    assert container.answers() == {first}
    container.write(second)
    eventually(lambda: container.answers() == {second})
    assert container.nginx_pid == pid


def test_a_host_without_an_address_is_waited_for(container: Container) -> None:
    first, _ = container.workers.addresses
    container.write("nobody.invalid:1")
    eventually(lambda: "host not found" in container.log.read_text())
    container.write(first)
    eventually(lambda: container.answers() == {first})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT, signal.SIGINT])
def test_a_signal_ends_nginx_in_good_order(container: Container, number: signal.Signals) -> None:
    container.write(*container.workers.addresses)
    eventually(lambda: container.answers() != set())
    pid = container.nginx_pid
    container.process.send_signal(number)
    assert container.process.wait(HANG_S) == 0
    assert not is_running(pid)


def test_a_signal_ends_the_wait_for_a_file(container: Container) -> None:
    eventually(lambda: container.process.poll() is None)
    container.process.send_signal(signal.SIGTERM)
    assert container.process.wait(HANG_S) in (0, -signal.SIGTERM)


def test_the_container_ends_with_nginx(container: Container) -> None:
    container.write(*container.workers.addresses)
    eventually(lambda: container.answers() != set())
    os.kill(container.nginx_pid, signal.SIGKILL)
    assert container.process.wait(HANG_S) != 0
