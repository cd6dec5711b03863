"""A cluster of several hosts: Redis, nginx, two nodes and a client, each with a network of its own."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from loadtests.namespaces import Network, can_make_namespaces
from tests.children import end
from tests.cluster.redis_process import binary
from tests.waiting import HANG_S, eventually
from verl_agent_env.cluster.nginx.config import KERNEL_SETTINGS, NginxSettings, write_nginx_config
from verl_agent_env.cluster.ring import Ring

MACHINES = ("redis", "nginx", "node1", "node2", "client")
LEASE_S = 1.5
LAKE = {"desc": ["SFFFFFFF", *["FFFFFFFF"] * 6, "FFFFFFFG"], "is_slippery": True, "max_steps": 1000}

pytestmark = pytest.mark.skipif(
    not can_make_namespaces(), reason="needs root and iproute2 to make network namespaces"
)


class Hosts:
    """The cluster, as its client sees it."""

    def __init__(self, network: Network, addresses: list[str]) -> None:
        self.network = network
        self.addresses = addresses
        self._url = f"http://{network.addresses['nginx']}:8080"

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a call; a problem document counts as one."""
        return self._call(lambda client: client.post(path, json=body))

    def workers(self) -> list[dict[str, Any]]:
        """Those that are ready."""
        answer = self._call(lambda client: client.get("/api/cluster"))
        found = [worker for node in answer.get("nodes", ()) for worker in node["workers"]]
        return [worker for worker in found if worker["state"] == "ready"]

    def await_workers(self, addresses: list[str]) -> None:
        """Wait until these workers share all slots as the ring says."""
        ring = Ring(sorted(addresses)).assignments

        def are_there() -> bool:
            with contextlib.suppress(httpx.TransportError):
                slots = {worker["address"]: worker["slots"] for worker in self.workers()}
                return slots == {address: ring.count(address) for address in addresses}
            return False

        self.eventually(are_there)

    def step_until_all_answer(self, env_ids: list[str], seq: int) -> set[str]:
        """Step all of them; gives the codes of errors on the way, which all said that it may be tried again."""
        codes: set[str] = set()
        left = env_ids

        def is_done() -> bool:
            nonlocal left
            body = {"env_ids": left, "actions": ["right"] * len(left), "seqs": [seq] * len(left)}
            with contextlib.suppress(httpx.TransportError):
                answer = self.post("/api/batch/step", body)
                errors = answer.get("errors", [answer])
                assert all(error["retryable"] for error in errors), errors[0]
                codes.update(error["code"] for error in errors)
                if "observations" in answer:
                    left = [left[error["index"]] for error in errors]
            return not left

        self.eventually(is_done)
        return codes

    def eventually(self, holds: Callable[[], bool]) -> None:
        """Wait for a condition."""
        eventually(holds)

    def _call(self, call: Callable[[httpx.Client], httpx.Response]) -> dict[str, Any]:
        def ask() -> dict[str, Any]:
            with httpx.Client(base_url=self._url, timeout=HANG_S) as client:
                answer: dict[str, Any] = call(client).json()
                return answer

        return self.network.on("client", ask)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    network = Network(MACHINES)
    network.tune("nginx", KERNEL_SETTINGS)
    at = network.addresses
    running: list[subprocess.Popen[bytes]] = []

    def start(machine: str, *command: str) -> None:
        with (tmp_path / f"{machine}.log").open("ab") as log:
            running.append(subprocess.Popen(network.command(machine, *command), stdout=log, stderr=log))

    try:
        start(
            "redis",
            *(binary("redis-server"), "--bind", at["redis"], "--protected-mode", "no"),
            *("--save", "", "--appendonly", "no", "--dir", str(tmp_path)),
        )
        for node in ("node1", "node2"):
            start(
                node,
                *(sys.executable, "-m", "verl_agent_env.cli", "serve", "--host", at[node]),
                *("--node", node, "--advertise", at[node], "--workers", "2", "--lease-s", str(LEASE_S)),
                *("--redis", f"redis://{at['redis']}:6379/0"),
            )
        addresses = [f"{at[node]}:{port}" for node in ("node1", "node2") for port in (8001, 8002)]
        settings = NginxSettings(
            addresses=tuple(addresses), folder=tmp_path / "nginx", user="root", connect_timeout_s=1
        )
        write_nginx_config(settings, tmp_path / "nginx.conf")
        start("nginx", binary("nginx"), "-c", str(tmp_path / "nginx.conf"), "-e", "stderr")
        made = Hosts(network, addresses)
        made.await_workers(addresses)
        yield made
    finally:
        # Redis last: nodes that end give what they have to others.
        for process in reversed(running):
            with contextlib.suppress(subprocess.TimeoutExpired):
                end(process)
        network.close()


def test_ten_thousand_environments_live_on_two_hosts_and_outlive_one_that_is_cut_off(hosts: Hosts) -> None:
    made = hosts.post(
        "/api/batch/initialize", {"env_name": "frozen_lake", "env_kwargs": LAKE, "num_envs": 10_000}
    )
    assert not made["errors"]
    env_ids = made["env_ids"]
    # The others' counts are those of their last heartbeats.
    hosts.eventually(lambda: {worker["live_envs"] for worker in hosts.workers()} == {2500})
    assert hosts.step_until_all_answer(env_ids, 0) == set()

    hosts.network.cut("node2")
    codes = hosts.step_until_all_answer(env_ids, 1)
    assert codes <= {"worker_unreachable", "store_unavailable", "moved"}
    hosts.await_workers(hosts.addresses[:2])
    assert hosts.step_until_all_answer(env_ids, 2) == set()

    hosts.network.mend("node2")
    hosts.await_workers(hosts.addresses)
    assert hosts.step_until_all_answer(env_ids, 3) <= {"worker_unreachable", "moved"}
    closed = hosts.post("/api/batch/close", {"env_ids": env_ids})
    assert closed == {"closed": 10_000, "errors": []}
