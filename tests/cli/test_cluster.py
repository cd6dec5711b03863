"""``verl-agent-env cluster`` as a process: nothing that it started outlives it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import orjson
import pytest
import redis

from tests import children
from tests.waiting import HANG_S, eventually
from verl_agent_env.cluster.local import require_free


class RunningCluster:
    """A cluster of one worker, started as a person starts it."""

    def __init__(
        self,
        folder: Path,
        *,
        options: tuple[str, ...] = (),
        before: tuple[str, ...] = (),
        is_temporary: bool = False,
    ) -> None:
        self.folder = folder
        place = () if is_temporary else ("--folder", str(folder))
        self.process = subprocess.Popen(
            [
                *(
                    *before,
                    sys.executable,
                    "-m",
                    "verl_agent_env.cli",
                    "cluster",
                    "--nodes",
                    "1",
                    "--workers",
                    "1",
                ),
                *("--port", "0", "--json", *place, *options),
            ],
            env={**os.environ, "TMPDIR": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        told = ""
        while not told.endswith("\n}\n"):
            line = self.process.stdout.readline()
            assert line, self.process.communicate()
            told += line
        self.told = orjson.loads(told)
        self.port = int(self.told["url"].rpartition(":")[2])

    def parts(self) -> list[str]:
        """Command lines of what it started, and of what that started."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) not in (self.process.pid, os.getpid()):
                try:
                    command = (entry / "cmdline").read_bytes()
                    variables = (entry / "environ").read_bytes()
                except OSError:
                    continue
                if (
                    str(self.folder).encode() in command
                    or b"VERL_TEST_CLUSTER=" + str(self.folder).encode() in variables
                ):
                    found.append(command.replace(b"\0", b" ").decode())
        return found


@pytest.fixture
def cluster(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RunningCluster]:
    # Inherited by all that it starts, Redis, nodes, nginx and their workers.
    monkeypatch.setenv("VERL_TEST_CLUSTER", str(tmp_path))
    made = RunningCluster(tmp_path, **getattr(request, "param", {}))
    monkeypatch.delenv("VERL_TEST_CLUSTER")
    yield made
    children.end_group(made.process)
    made.process.communicate()
    eventually(lambda: not made.parts(), what="the end of all parts")


def test_the_next_cluster_is_told_who_holds_its_port_or_its_redis_and_nothing_outlives_one_that_was_killed(
    cluster: RunningCluster,
) -> None:
    done = children.cli("cluster", "--port", str(cluster.port))
    assert done.returncode == 1
    assert re.search(rf"{cluster.port}: Address already in use, by process \d+ \(nginx", done.stderr)
    assert cluster.told["folder"] == str(cluster.folder)
    assert len(cluster.told["nodes"]) == 1
    assert len(cluster.parts()) >= 4
    found = re.search(r"port=(\d+)", (cluster.folder / "redis.log").read_text())
    assert found is not None
    second = ["--nodes", "1", "--workers", "1", "--port", "0", "--redis", f"redis://127.0.0.1:{found[1]}/0"]
    done = children.cli("cluster", *second, "--lease-s", "1")
    assert done.returncode == 1
    assert "--namespace" in done.stderr
    cluster.process.kill()
    cluster.process.wait(HANG_S)
    eventually(lambda: not cluster.parts(), what="the end of all parts")


def test_nothing_outlives_a_cluster_that_was_told_to_end_twice(cluster: RunningCluster) -> None:
    cluster.process.send_signal(signal.SIGHUP)
    eventually(lambda: "nginx" not in " ".join(cluster.parts()), what="the end of nginx, the first to go")
    cluster.process.send_signal(signal.SIGINT)
    assert cluster.process.wait(HANG_S) in (0, 1)
    assert cluster.parts() == []


def test_nothing_outlives_a_cluster_whose_nginx_was_killed(cluster: RunningCluster) -> None:
    master = int((cluster.folder / "nginx.pid").read_text())
    os.kill(master, signal.SIGKILL)
    assert cluster.process.wait(HANG_S) == 1
    eventually(lambda: not cluster.parts(), what="the end of nginx' workers, which hold the port")
    require_free(cluster.port)


def test_a_cluster_ends_in_order_at_sigquit_and_goes_on_at_sigusr(cluster: RunningCluster) -> None:
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT):
        cluster.process.send_signal(number)
    assert cluster.process.wait(HANG_S) == 0
    assert cluster.parts() == []


@pytest.mark.parametrize("cluster", [{"before": ("nohup",)}], indirect=True)
def test_a_cluster_that_nohup_started_goes_on_at_sighup(cluster: RunningCluster) -> None:
    cluster.process.send_signal(signal.SIGHUP)
    assert httpx.get(f"{cluster.told['url']}/readyz", timeout=HANG_S).status_code == 200
    assert cluster.process.poll() is None


@pytest.mark.parametrize("cluster", [{"is_temporary": True}], indirect=True)
def test_a_temporary_folder_goes_with_a_cluster_that_was_killed(cluster: RunningCluster) -> None:
    folder = Path(cluster.told["folder"])
    assert folder.parent == cluster.folder
    cluster.process.kill()
    cluster.process.wait(HANG_S)
    eventually(lambda: not cluster.parts() and not folder.exists(), what="the end of all parts")


@pytest.mark.parametrize("cluster", [{"options": ("--redis-logs", "2")}], indirect=True)
def test_steps_are_kept_in_the_redis_that_are_started_for_them(cluster: RunningCluster) -> None:
    body = {"env_name": "frozen_lake", "num_envs": 40}
    made = httpx.post(f"{cluster.told['url']}/api/batch/initialize", json=body, timeout=HANG_S).json()
    assert made["errors"] == []
    counts = []
    for name in ("redis", "redis-log-1", "redis-log-2"):
        port = re.search(r"port=(\d+)", (cluster.folder / f"{name}.log").read_text())
        assert port is not None
        with redis.Redis(port=int(port[1])) as client:
            counts.append(len(client.keys("*:m:*")))
    assert counts[0] == 0
    assert min(counts[1:]) > 0
    assert sum(counts) == 40
