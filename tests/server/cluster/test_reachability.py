"""Reachability: each worker is called by others, and what cannot be reached is logged once."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pytest

from verl_agent_env.cluster.store import WorkerRecord
from verl_agent_env.errors import WorkerUnreachableError
from verl_agent_env.server.cluster.peers import WORKER_PATH, PeerAnswer
from verl_agent_env.server.cluster.reachability import ReachabilityCheck, part_of


def worker_of(node: str, number: int, life: int = 0) -> WorkerRecord:
    name = f"{node}:{number}"
    return WorkerRecord(f"{name} life {life}", name, node, "secret", f"{node}.example:{number}", 1, "ready")


@pytest.mark.parametrize("sizes", [[2, 2], [1, 3], [3, 1, 2], [4, 4, 4, 4, 1]], ids=str)
def test_each_worker_is_called_from_another_node(sizes: list[int]) -> None:
    members = [worker_of(f"node-{n}", number) for n, size in enumerate(sizes) for number in range(size)]
    calls = [(me, other) for me in members for other in part_of(me, members)]
    assert {other.name for _, other in calls} == {member.name for member in members}
    assert all(me.node != other.node for me, other in calls)
    assert len(calls) <= 2 * len(members)


def test_a_node_on_its_own_calls_nobody() -> None:
    assert part_of(worker_of("a", 1), [worker_of("a", 1), worker_of("a", 2)]) == []


class Cluster:
    """A worker of node ``a``, and one of node ``b`` that answers as a test says."""

    def __init__(self) -> None:
        self.members = [worker_of("a", 1), worker_of("b", 1)]
        self.answer: bytes | None = self.members[1].to_json()
        self.num_calls = 0
        untyped: Any = self
        self.check = ReachabilityCheck(untyped, untyped, pause_s=0.0)

    def known(self) -> tuple[int, Mapping[str, WorkerRecord | None]]:
        return 1, {member.address: member for member in self.members}

    def record(self) -> WorkerRecord:
        return self.members[0]

    async def call(self, address: str, method: str, path: str, *, timeout_s: float) -> PeerAnswer:
        assert (address, method, path) == ("b.example:1", "GET", WORKER_PATH)
        assert timeout_s > 0
        self.num_calls += 1
        if self.answer is None:
            raise WorkerUnreachableError(address, "no connection came about", may_have_run=False)
        return PeerAnswer(self.answer, b"application/json")


async def test_a_worker_that_answers_is_called_once(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster()
    for _ in range(5):
        await cluster.check.look()
    assert cluster.num_calls == 1
    assert not caplog.records


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "no connection came about"),
        (b"<html>", "another program"),
        (worker_of("c", 7).to_json(), "the worker c:7 answers"),
    ],
    ids=["nobody", "program", "worker"],
)
async def test_a_worker_that_is_not_where_its_node_says_is_logged_once(
    answer: bytes | None, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = Cluster()
    cluster.answer = answer
    with caplog.at_level(logging.WARNING):
        for _ in range(6):
            await cluster.check.look()
    (record,) = caplog.records
    assert "--advertise" in record.message
    assert reason in vars(record)["reason"]
    assert vars(record)["worker"] == "b:1"


async def test_a_worker_that_ends_before_it_was_reached_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster()
    cluster.answer = None
    await cluster.check.look()
    await cluster.check.look()
    gone = cluster.members.pop()
    await cluster.check.look()
    # It comes back as a new process, and has all tries again.
    cluster.members.append(worker_of("b", 1, life=1))
    await cluster.check.look()
    await cluster.check.look()
    assert gone.incarnation != cluster.members[1].incarnation
    assert not caplog.records
    await cluster.check.look()
    assert len(caplog.records) == 1
