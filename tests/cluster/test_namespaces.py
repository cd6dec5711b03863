"""A cluster of several hosts, one of which is cut off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.namespaces import can_make_namespaces
from tests import depth
from tests.cluster.hosts import LAKE, Hosts, running_hosts, start_one_redis
from tests.waiting import eventually

pytestmark = pytest.mark.skipif(
    not can_make_namespaces(), reason="needs root and iproute2 to make network namespaces"
)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with running_hosts(tmp_path, ("redis",), start_one_redis) as started:
        yield started


def test_environments_live_on_two_hosts_and_outlive_one_that_is_cut_off(hosts: Hosts) -> None:
    number = depth.examples(1000, at_most=10_000)
    made = hosts.post(
        "/api/batch/initialize", {"env_name": "frozen_lake", "env_kwargs": LAKE, "num_envs": number}
    )
    assert not made["errors"]
    env_ids = made["env_ids"]
    # The others' counts are those of their last heartbeats.
    eventually(lambda: {worker["live_envs"] for worker in hosts.workers()} == {number // 4})
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
    assert closed == {"closed": number, "errors": []}
