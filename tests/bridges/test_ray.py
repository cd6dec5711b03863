"""Servers on a Ray cluster: Ray's own test cluster of three machines, one of which is lost and another one added."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest

from tests.bridges.cluster import kill_a_worker
from tests.children import run
from tests.conftest import ServerProcess
from tests.pool_process import LASTING
from tests.waiting import HANG_S, eventually
from verl_agent_env.client import EnvClient
from verl_agent_env.errors import VerlAgentEnvError
from verl_agent_env.integrations.errors import TrainingSetupError
from verl_agent_env.integrations.ray import start
from verl_agent_env.integrations.rollout.options import RolloutOptions

ray = pytest.importorskip("ray", reason="make bridges-test installs ray")

EPISODES, SEEDS = 1000, 50
LAKE: dict[str, Any] = {**LASTING, "is_slippery": True}
SMALL: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100_000_000}
DRIVER = """
import os, ray
from verl_agent_env.client import EnvClient
from verl_agent_env.integrations.ray import start

ray.init(address=os.environ["ADDRESS"], log_to_driver=False)
servers = start(workers_per_node=1)
EnvClient(servers.url).make("frozen_lake").reset()
print(servers.url, flush=True)
{end}
"""


def patient(start_machine: Callable[[], object]) -> None:
    """Start a machine. Ray gives up after half a minute of its own, in which a busy one does not start it."""
    for attempt in range(5):
        try:
            start_machine()
        except Exception as failed:
            if "timed out during startup" not in str(failed) or attempt == 4:
                raise
        else:
            return


@pytest.fixture(scope="module")
def machines() -> Iterator[Any]:
    """A Ray cluster of three machines; the first has no CPUs for nodes, as it may be where a driver runs."""
    from ray.cluster_utils import Cluster

    # With Ray's own settings it takes half a minute to see that a machine is lost.
    health = {
        "health_check_period_ms": 500,
        "health_check_timeout_ms": 2000,
        "health_check_failure_threshold": 5,
    }
    head = {
        **SMALL,
        "num_cpus": 0,
        "include_dashboard": False,
        "include_log_monitor": False,
        "_system_config": health,
    }
    # Short, for it holds names of sockets; of its own, or others' trainings would join this cluster.
    with TemporaryDirectory(prefix="ray-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        servers = Path(folder) / "servers"
        servers.mkdir()
        patch.setenv("TMPDIR", str(servers))
        # Ray's own is a priority below that of everything else, at which nothing starts on a busy machine.
        patch.setenv("RAY_worker_niceness", "0")
        cluster = Cluster()
        try:
            patient(lambda: cluster.add_node(**head))
            for _ in range(2):
                patient(lambda: cluster.add_node(**SMALL))
            yield cluster
        finally:
            cluster.shutdown()


@pytest.fixture
def job(machines: Any) -> Iterator[Any]:
    """A job of the cluster, in this process."""
    ray.init(address=machines.address, log_to_driver=False)
    try:
        yield machines
    finally:
        ray.shutdown()
        eventually(lambda: programs() == {}, what="the end of all programs")


def programs() -> dict[int, str]:
    """The programs that servers on the cluster consist of, with their commands: what writes into a log of theirs."""
    found = {}
    for process in Path("/proc").iterdir():
        try:
            if (process / "fd/1").readlink().is_relative_to(os.environ["TMPDIR"]):
                found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (OSError, ValueError):
            continue
    return found


def files() -> list[Path]:
    """Files in the folders of the servers."""
    return list(Path(os.environ["TMPDIR"]).iterdir())


def actor_of(command: str) -> int:
    """The process of an actor with such a program."""
    pid = next(pid for pid, found in programs().items() if command in found)
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def nodes_with_slots(url: str) -> set[str]:
    with httpx.Client(base_url=url, timeout=HANG_S) as client:
        nodes = client.get("/api/cluster").json()["nodes"]
    return {
        node["name"]
        for node in nodes
        if any(worker["state"] == "ready" and worker["slots"] for worker in node["workers"])
    }


class Episodes:
    """Many episodes of a few seeds, which are all given the same actions."""

    def __init__(self, url: str, seeds: list[int]) -> None:
        self._client = EnvClient(url)
        made = self._client.make_many("frozen_lake", seeds, env_kwargs=LAKE)
        self._envs = [env for env in made if not isinstance(env, VerlAgentEnvError)]
        assert len(self._envs) == len(seeds)
        self._seeds = seeds
        self._shown: list[list[str]] = [[] for _ in seeds]

    def play(self, direction: str) -> None:
        """Step all of them once; no step fails."""
        taken = self._client.step_batch(self._envs, [f"<action>{direction}</action>"] * len(self._envs))
        for result, shown in zip(taken, self._shown, strict=True):
            assert not isinstance(result, VerlAgentEnvError), result
            shown.append(str(result.observation))

    def close(self) -> None:
        """Close all of them."""
        self._client.close()

    def seen(self) -> dict[int, list[str]]:
        """Observations by seed; all episodes of a seed have shown the same."""
        by_seed = dict(zip(self._seeds, self._shown, strict=True))
        assert all(by_seed[seed] == shown for seed, shown in zip(self._seeds, self._shown, strict=True))
        return by_seed


def test_no_episode_is_lost_while_machines_go_and_come(job: Any, server: ServerProcess) -> None:
    with start(workers_per_node=1) as servers:
        url = servers.url
        before = nodes_with_slots(url)
        assert len(before) == 2
        # Redis, nginx and what writes its configuration, and two nodes: what must not be left in the end.
        assert len(programs()) > 5
        # Any process of the job finds them.
        assert ray.get(ray.remote(num_cpus=0)(lambda: start().url).remote()) == url
        assert RolloutOptions(cluster="ray").located().url == url
        with pytest.raises(TrainingSetupError, match="nodes=2"):
            RolloutOptions(cluster="ray", nodes=1).located()
        episodes = Episodes(url, [number % SEEDS for number in range(EPISODES)])
        episodes.play("right")
        kill_a_worker(url)
        episodes.play("down")
        # The machine that was added last, as a power failure ends it.
        job.remove_node(list(job.worker_nodes)[-1], allow_graceful=False)
        episodes.play("left")
        eventually(lambda: len(nodes_with_slots(url)) == 1, what="the loss of a node")
        episodes.play("up")
        patient(lambda: job.add_node(**SMALL))
        # Ray starts the lost node again, on the new machine and under a new name.
        eventually(lambda: len(nodes_with_slots(url)) == 2, what="a new node")
        assert nodes_with_slots(url) != before
        episodes.play("right")
        episodes.close()
        undisturbed = Episodes(server.url, list(range(SEEDS)))
        for direction in ("right", "down", "left", "up", "right"):
            undisturbed.play(direction)
        undisturbed.close()
        assert episodes.seen() == undisturbed.seen()
        # The ice is slippery: the same actions lead elsewhere with another seed.
        assert len({shown[-1] for shown in episodes.seen().values()}) > 1
    eventually(lambda: programs() == {}, what="the end of all programs")
    servers.stop()
    with start(nodes=1, workers_per_node=1, token="secret") as again:
        with EnvClient(again.url, token="secret") as client:
            assert len(client.cluster()["nodes"]) == 1
        assert httpx.get(f"{again.url}/api/cluster", timeout=HANG_S).status_code == 401


def test_a_killed_actor_is_started_again(job: Any) -> None:
    # Whoever keeps nothing but the URL keeps the servers.
    url = start(workers_per_node=1).url
    gc.collect()
    with start() as servers:
        assert servers.url == url
        before = nodes_with_slots(servers.url)
        os.kill(actor_of("serve --host"), signal.SIGKILL)
        eventually(lambda: len(nodes_with_slots(servers.url) - before) == 1, what="a new node")
        # Without Redis or nginx the servers are of no use: they end, and a new start begins anew.
        [redis] = [pid for pid, command in programs().items() if "redis-server" in command]
        os.kill(redis, signal.SIGKILL)
        eventually(lambda: programs() == {}, what="the end of all programs")
    with start(workers_per_node=1) as again:
        assert again.url != servers.url


def test_what_cannot_be_started_is_said(job: Any) -> None:
    with pytest.raises(TrainingSetupError, match="2 machines"):
        start(nodes=3)
    with pytest.raises(TrainingSetupError, match="0 workers"):
        start(workers_per_node=0)
    with pytest.raises(TrainingSetupError, match="no-such-option"):
        start(serve_options=["--no-such-option"])
    eventually(lambda: programs() == {}, what="the end of all programs")


@pytest.mark.parametrize("end", ["", "os.kill(os.getpid(), 9)"])
def test_a_driver_leaves_nothing_however_it_ends(machines: Any, end: str) -> None:
    driver = run(
        sys.executable, "-c", DRIVER.format(end=end), variables={"ADDRESS": machines.address}, timeout_s=2 * HANG_S
    )  # fmt: skip
    assert driver.returncode == (-signal.SIGKILL if end else 0), driver.stderr
    assert driver.stdout.startswith("http://"), driver.stderr
    eventually(lambda: programs() == {}, what="the end of all programs")
    eventually(lambda: files() == [], what="the removal of all files")


def test_without_ray_init_it_is_said() -> None:
    with pytest.raises(TrainingSetupError, match=r"ray\.init"):
        start()
