"""A cluster of several hosts: Redis, nginx, two nodes and a client, each with a network of its own."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from loadtests.namespaces import Network
from tests.children import end
from tests.cluster.redis_process import binary
from tests.waiting import HANG_S, eventually
from verl_agent_env.cluster.nginx.config import KERNEL_SETTINGS, NginxSettings, write_nginx_config
from verl_agent_env.cluster.ring import Ring

NODES = ("node1", "node2")
LAKE = {"desc": ["SFFFFFFF", *["FFFFFFFF"] * 6, "FFFFFFFG"], "is_slippery": True, "max_steps": 1000}
_LEASE_S = 1.5
Start = Callable[..., None]
"""Starts a command on a machine."""


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

        eventually(are_there)

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

        eventually(is_done)
        return codes

    def _call(self, call: Callable[[httpx.Client], httpx.Response]) -> dict[str, Any]:
        def ask() -> dict[str, Any]:
            with httpx.Client(base_url=self._url, timeout=HANG_S) as client:
                answer: dict[str, Any] = call(client).json()
                return answer

        return self.network.on("client", ask)


@contextmanager
def running_hosts(
    folder: Path, redis_machines: Sequence[str], start_redis: Callable[[Network, Start], str]
) -> Iterator[Hosts]:
    """Start all of it, and wait until the workers share the slots.

    Args:
        folder: Of their files.
        redis_machines: Machines beside those of the nodes, of nginx and of the client.
        start_redis: Starts what runs on them, and gives the URL that the nodes are told.
    """
    network = Network((*redis_machines, "nginx", *NODES, "client"))
    network.tune("nginx", KERNEL_SETTINGS)
    at = network.addresses
    running: list[subprocess.Popen[bytes]] = []

    def start(machine: str, *command: str) -> None:
        with (folder / f"{machine}.log").open("ab") as log:
            running.append(subprocess.Popen(network.command(machine, *command), stdout=log, stderr=log))

    try:
        url = start_redis(network, start)
        for node in NODES:
            start(
                node,
                *(sys.executable, "-m", "verl_agent_env.cli", "serve", "--host", at[node]),
                *("--node", node, "--advertise", at[node], "--workers", "2", "--lease-s", str(_LEASE_S)),
                *("--redis", url),
            )
        addresses = [f"{at[node]}:{port}" for node in NODES for port in (8001, 8002)]
        settings = NginxSettings(
            addresses=tuple(addresses), folder=folder / "nginx", user="root", connect_timeout_s=1
        )
        write_nginx_config(settings, folder / "nginx.conf")
        start("nginx", binary("nginx"), "-c", str(folder / "nginx.conf"), "-e", "stderr")
        made = Hosts(network, addresses)
        made.await_workers(addresses)
        yield made
    finally:
        # Redis last: nodes that end give what they have to others.
        for process in reversed(running):
            with contextlib.suppress(subprocess.TimeoutExpired):
                end(process)
        network.close()


def start_one_redis(network: Network, start: Start) -> str:
    """Start a Redis on the machine of this name, and give its URL."""
    address = network.addresses["redis"]
    start("redis", *redis_command(address))
    return f"redis://{address}:6379/0"


def redis_command(address: str) -> list[str]:
    """A Redis that keeps nothing on disk."""
    return [
        *(binary("redis-server"), "--bind", address, "--protected-mode", "no"),
        *("--save", "", "--appendonly", "no"),
    ]
