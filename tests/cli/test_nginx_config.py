"""``verl-agent-env nginx-config`` as a person and as a container run it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.children import end
from tests.cluster.redis_process import RedisProcess
from tests.preloaded import preloaded
from tests.waiting import eventually
from verl_agent_env.cli import cli
from verl_agent_env.cluster.redis.store import RedisStore
from verl_agent_env.cluster.store import WorkerRecord


@pytest.fixture
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """A Redis that the test may stop."""
    process = RedisProcess(tmp_path_factory.mktemp("redis"))
    yield process
    process.stop()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["nginx-config", *arguments])


def servers(text: str) -> list[str]:
    group = text.partition("upstream env_any_worker")[0]
    return [line.split()[1] for line in group.splitlines() if line.strip().startswith("server ")]


class Watcher:
    """``nginx-config --watch`` as a process; its reload command adds a line to a file."""

    def __init__(self, folder: Path, redis_url: str, *arguments: str) -> None:
        self.out = folder / "nginx.conf"
        self._reloads = folder / "reloads"
        self.said: list[str] = []
        note = f"sh -c 'echo reload >> {self._reloads}'"
        words = ["nginx-config", "--watch", "--out", str(self.out), "--redis", redis_url, "--reload", note]
        reading, writing = os.pipe()
        self._stderr = os.fdopen(reading)
        try:
            self.process = preloaded(os.environ).start(
                [*words, "--poll-s", "0.05", *arguments], os.environ, writing
            )
        finally:
            os.close(writing)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def reloads(self) -> int:
        """How often nginx was told."""
        return len(self._reloads.read_text().splitlines()) if self._reloads.exists() else 0

    def declares(self, *addresses: str) -> bool:
        """Whether the file has these workers, and nginx was told of it."""
        return self.out.exists() and servers(self.out.read_text("utf-8")) == list(addresses)

    def has_said(self, count: int) -> bool:
        """Whether there are so many lines by now."""
        return len(self.said) >= count

    def stop(self) -> int:
        """End it and give its exit code."""
        try:
            return end(self.process)
        finally:
            self._reader.join()
            self._stderr.close()

    def _read(self) -> None:
        for line in self._stderr:
            self.said.append(line)


def record(address: str) -> WorkerRecord:
    return WorkerRecord(uuid.uuid4().hex, address, "node", "pool", address, 1, "ready")


def test_the_text_is_printed_with_all_workers_of_nodes_and_alone() -> None:
    result = run("--node", "node-1:8001:2", "--node", "[::1]:9001:1", "--worker", "other:7", "--port", "8181")
    assert result.exit_code == 0
    assert servers(result.output) == ["[::1]:9001", "node-1:8001", "node-1:8002", "other:7"]
    assert "listen *:8181 " in result.output


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_ipv6_address_has_two_spellings(host: str) -> None:
    done = run("--node", f"{host}:8001:2", "--worker", f"{host}:9001", "--host", host)
    assert done.exit_code == 0, done.output
    assert sorted(servers(done.output)) == ["[::1]:8001", "[::1]:8002", "[::1]:9001"]
    assert "listen [::1]:8080 default_server" in done.output
    assert "listen [::]:8080 ipv6only=off " in run("--worker", "a:1", "--host", "::").output


def test_the_file_is_written_and_nginx_has_tested_it(tmp_path: Path) -> None:
    out = tmp_path / "nginx.conf"
    result = run("--node", "127.0.0.1:8001:2", "--out", str(out), "--check", "--processes", "2")
    assert (result.exit_code, result.output) == (0, "")
    assert servers(out.read_text("utf-8")) == ["127.0.0.1:8001", "127.0.0.1:8002"]
    assert f"pid {tmp_path}/nginx.pid;" in out.read_text("utf-8")


def test_check_leaves_the_old_file_when_nginx_refuses_the_new_one(tmp_path: Path) -> None:
    out = tmp_path / "nginx.conf"
    out.write_text("old")
    result = run("--worker", "nobody.invalid:1", "--out", str(out), "--check")
    assert result.exit_code == 1
    assert "host not found" in result.output
    assert out.read_text() == "old"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--node"),
        (["--node", "a"], "HOST:FIRST_PORT:COUNT"),
        (["--node", "a:1:0"], "HOST:FIRST_PORT:COUNT"),
        (["--node", "a:x:1"], "HOST:FIRST_PORT:COUNT"),
        (["--node", "a:65535:2"], "65535"),
        (["--worker", "a"], "host:port"),
        (["--worker", "a;:1"], "host:port"),
        (["--worker", "a:1", "--port", "0"], "port"),
        (["--worker", "a:1", "--watch"], "--out"),
        (["--watch", "--out", "x"], "--redis"),
        (["--worker", "a:1", "--watch", "--out", "x", "--redis", "http://a"], "redis://"),
        (["--worker", "a:1", "--reload", "a", "--nginx-pid", "b"], "one of them"),
    ],
)
def test_bad_arguments_are_usage_errors(arguments: list[str], named: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert named in result.output
    assert "Traceback" not in result.output


async def test_a_new_worker_gets_into_the_file_and_nginx_is_told(tmp_path: Path, redis: RedisProcess) -> None:
    watcher = Watcher(tmp_path, redis.url, "--node", "127.0.0.1:8001:2", "--departed-after-s", "0.3")
    store = RedisStore(redis.url)
    planned = ("127.0.0.1:8001", "127.0.0.1:8002")
    try:
        eventually(lambda: watcher.declares(*planned) and watcher.reloads == 1)
        joined = record("127.0.0.1:9001")
        await store.heartbeat(record(planned[0]), 30.0)
        await store.heartbeat(joined, 30.0)
        eventually(lambda: watcher.declares(*planned, "127.0.0.1:9001") and watcher.reloads == 2)
        await store.leave(joined.incarnation)
        eventually(lambda: watcher.declares(*planned) and watcher.reloads == 3)
    finally:
        await store.aclose()
        assert watcher.stop() == 0
    assert watcher.reloads == 3


async def test_the_watcher_outlives_redis_and_says_so_once(tmp_path: Path, redis: RedisProcess) -> None:
    watcher = Watcher(tmp_path, redis.url, "--worker", "127.0.0.1:8001")
    try:
        eventually(lambda: watcher.declares("127.0.0.1:8001") and watcher.has_said(1))
        redis.stop()
        eventually(lambda: watcher.has_said(2))
        redis.start()
        eventually(lambda: watcher.has_said(3))
        store = RedisStore(redis.url)
        await store.heartbeat(record("127.0.0.1:9001"), 30.0)
        await store.aclose()
        eventually(lambda: watcher.declares("127.0.0.1:8001", "127.0.0.1:9001") and watcher.has_said(4))
    finally:
        assert watcher.stop() == 0
    wrote, away, back, again = watcher.said
    assert "Wrote" in wrote
    assert redis.url in away
    assert "available again" in back
    assert "Wrote" in again


def test_nginx_itself_is_told_by_its_process_id(tmp_path: Path, redis: RedisProcess) -> None:
    heard = tmp_path / "heard"
    script = f"trap 'touch {heard}' HUP; echo $$ > {tmp_path}/nginx.pid; while :; do sleep 0.02; done"
    with subprocess.Popen(["sh", "-c", script]) as stand_in:
        try:
            eventually((tmp_path / "nginx.pid").exists)
            command = [sys.executable, "-m", "verl_agent_env.cli", "nginx-config", "--watch"]
            arguments = ["--worker", "127.0.0.1:1", "--out", f"{tmp_path}/nginx.conf"]
            with subprocess.Popen([*command, *arguments, "--nginx-pid", f"{tmp_path}/nginx.pid"]) as watcher:
                try:
                    eventually(heard.exists)
                finally:
                    watcher.terminate()
            assert watcher.returncode == 0
        finally:
            stand_in.kill()
