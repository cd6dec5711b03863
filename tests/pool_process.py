"""A pool of workers as real processes, and what one asks of it from outside."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx

from tests.conftest import ServerProcess
from tests.waiting import HANG_S, eventually

LASTING = {"desc": ["SFFF", "FFFF", "FFFF", "FFFG"], "is_slippery": False, "max_steps": 10_000}
"""Arguments of a FrozenLake in which going left and right ends nothing."""


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it is not only waiting to be reaped."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:  # noqa: PTH123
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Pool:
    """The workers of one ``serve`` process."""

    def __init__(self, server: ServerProcess, name: str = "local") -> None:
        """Wait until every worker takes work.

        Args:
            server: The supervisor.
            name: Of the node.
        """
        self.server = server
        self.name = name
        self._clients = ExitStack()
        self.any = self._client(server.url)
        """A client of the pool's own port, behind which is any worker."""
        # Warnings may stand before it.
        said = "".join(server.lines)
        found = re.search(r" workers: ([^ ]+(?:, [^ ]+)*)\. Ctrl-C", said)
        assert found is not None, said
        self.addresses = found[1].split(", ")
        self.at = [self._client(f"http://{address}") for address in self.addresses]
        """A client of each worker, in order of their addresses."""
        eventually(self.is_ready, what="the pool")

    def is_ready(self) -> bool:
        """Whether all workers take work."""
        try:
            return all(client.get("/readyz").status_code == 200 for client in self.at)
        except httpx.TransportError:
            return False

    def workers(self, asked: httpx.Client | None = None) -> list[dict[str, Any]]:
        """This pool's workers as ``/api/cluster`` shows them, in order of their addresses."""
        by_address = {worker["address"]: worker for worker in all_workers(asked or self.any)}
        return [by_address[address] for address in self.addresses if address in by_address]

    def pid(self, index: int) -> int:
        """Process id of a worker."""
        return next(
            int(worker["pid"])
            for worker in self.workers(self.at[index])
            if worker["address"] == self.addresses[index]
        )

    def pids(self) -> list[int]:
        """Process ids of all workers."""
        return [self.pid(index) for index in range(len(self.addresses))]

    def kill(self, index: int) -> int:
        """End a worker as a crash would, and return the process id that it had."""
        pid = self.pid(index)
        os.kill(pid, signal.SIGKILL)
        return pid

    def kill_all(self) -> None:
        """End the supervisor and all workers as the loss of a machine would."""
        pids = self.pids()
        # The supervisor first, or it would start new workers.
        self.server.process.kill()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        self.server.wait()

    @contextmanager
    def hung(self, index: int) -> Iterator[None]:
        """Let a worker hang: connections stand, nothing answers."""
        pid = self.pid(index)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def owner_of(self, env_id: str) -> int:
        """Index of the worker that holds an environment."""
        owner = self.any.get(f"/api/environment/{env_id}").json()["owner"]
        return self.addresses.index(owner)

    def close(self) -> None:
        """Close the clients; the processes are ended by whoever started them."""
        self._clients.close()

    def _client(self, url: str) -> httpx.Client:
        # A new connection each time: one that is kept would go on meeting the same worker.
        limits = httpx.Limits(max_keepalive_connections=0)
        return self._clients.enter_context(httpx.Client(base_url=url, timeout=HANG_S, limits=limits))


def all_workers(client: httpx.Client) -> list[dict[str, Any]]:
    """The workers of all nodes."""
    nodes = client.get("/api/cluster").json()["nodes"]
    return [worker for node in nodes for worker in node["workers"]]


def owner_of(client: httpx.Client, env_id: str) -> dict[str, Any]:
    """The worker that holds an environment, as the cluster describes it."""
    found: list[dict[str, Any]] = []

    def look() -> bool:
        owner = client.get(f"/api/environment/{env_id}").json().get("owner")
        found[:] = [worker for worker in all_workers(client) if worker["address"] == owner]
        return bool(found)

    eventually(look, what="the owner")
    return found[0]


def kill_owner(client: httpx.Client, env_id: str) -> None:
    """End the worker that holds an environment as a crash would."""
    pid = int(owner_of(client, env_id)["pid"])
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not is_running(pid), what="the worker's end")


@contextmanager
def drained_owner(client: httpx.Client, env_id: str) -> Iterator[dict[str, Any]]:
    """Drain the node of the worker that holds an environment, until the context ends; gives that worker."""
    owner = owner_of(client, env_id)
    nodes = client.get("/api/cluster").json()["nodes"]
    node = next(
        node["name"]
        for node in nodes
        if owner["address"] in [worker["address"] for worker in node["workers"]]
    )
    assert client.post("/api/cluster/drain", json={"node": node}).status_code == 200
    try:
        yield owner
    finally:
        client.post("/api/cluster/drain", json={"node": node, "undo": True})


def initialize(client: httpx.Client, env_name: str = "frozen_lake", **request: Any) -> str:
    """The id of a new environment; a FrozenLake's episode lasts."""
    if env_name == "frozen_lake":
        request.setdefault("env_kwargs", LASTING)
    answer = client.post("/api/environment/initialize", json={"env_name": env_name, **request})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["env_id"])


def initialize_at(client: httpx.Client, env_name: str = "frozen_lake", **request: Any) -> str:
    """The id of a new environment on the worker that ``client`` asks; as :func:`initialize`.

    New environments go to any worker: those that lie elsewhere are closed again.
    """
    address = client.base_url.netloc.decode()
    for _ in range(1000):
        env_id = initialize(client, env_name, **request)
        if client.get(f"/api/environment/{env_id}").json()["owner"] == address:
            return env_id
        assert client.post(f"/api/environment/{env_id}/close").status_code == 200
    raise AssertionError(f"no new environment came to {address}")


def initialize_many(client: httpx.Client, number: int, **request: Any) -> list[str]:
    """The ids of new environments, on all workers that there are; as :func:`initialize`."""
    body = {"env_name": "frozen_lake", "seeds": list(range(number)), **request}
    if body["env_name"] == "frozen_lake":
        body.setdefault("env_kwargs", LASTING)
    answer = client.post("/api/batch/initialize", json=body).json()
    assert answer["errors"] == []
    env_ids: list[str] = answer["env_ids"]
    return env_ids


def step(client: httpx.Client, env_id: str, action: Any = "right", **request: Any) -> httpx.Response:
    """The answer to one step."""
    return client.post(f"/api/environment/{env_id}/step", json={"action": action, **request})
