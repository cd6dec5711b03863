"""A primary of Redis that is cut off goes on taking writes: nobody is told what it says once another one was elected."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from loadtests.namespaces import Network, can_make_namespaces
from tests.cluster.hosts import LAKE, Hosts, Start, redis_command, running_hosts
from tests.cluster.redis_process import binary
from tests.cluster.sentinel_processes import SERVICE, sentinel_lines
from tests.waiting import eventually

REDIS_MACHINES = ("redis1", "redis2", "redis3")
"""Each with a Redis and a Sentinel; the first is the primary in the beginning."""

pytestmark = pytest.mark.skipif(
    not can_make_namespaces(), reason="needs root and iproute2 to make network namespaces"
)


@pytest.fixture
def hosts(tmp_path: Path, url_options: str) -> Iterator[Hosts]:
    begin = functools.partial(_start_group, tmp_path, url_options)
    with running_hosts(tmp_path, REDIS_MACHINES, begin) as started:
        yield started


def _start_group(folder: Path, url_options: str, network: Network, start: Start) -> str:
    at = [network.addresses[machine] for machine in REDIS_MACHINES]
    for machine, address in zip(REDIS_MACHINES, at, strict=True):
        home = folder / machine
        home.mkdir()
        followed = () if address == at[0] else ("--replicaof", f"{at[0]} 6379")
        start(
            machine,
            *redis_command(address),
            *("--dir", str(home), "--repl-diskless-sync-delay", "0", "--repl-timeout", "5", *followed),
        )
        (home / "sentinel.conf").write_text(
            "\n".join(sentinel_lines(address, 26379, at[0], 6379, home)) + "\n", "utf-8"
        )
    for replica in at[1:]:
        eventually(functools.partial(_is_linked, network, replica))
    for machine in REDIS_MACHINES:
        start(machine, binary("redis-server"), str(folder / machine / "sentinel.conf"), "--sentinel")
    eventually(lambda: all(_known_by(network, address) == (2, 2) for address in at))
    return f"redis+sentinel://{','.join(f'{address}:26379' for address in at)}/{SERVICE}/0{url_options}"


def _ask(network: Network, address: str, port: int, *words: str) -> Any:
    def ask() -> Any:
        with redis.Redis(address, port, decode_responses=True, socket_timeout=5) as client:
            command: Any = client.execute_command
            return command(*words)

    try:
        return network.on(next(name for name, at in network.addresses.items() if at == address), ask)
    except redis.RedisError:
        return {}


def _info(network: Network, address: str) -> dict[str, Any]:
    found: dict[str, Any] = _ask(network, address, 6379, "INFO", "replication")
    return found


def _is_linked(network: Network, replica: str) -> bool:
    return _info(network, replica).get("master_link_status") == "up"


def _master(network: Network, address: str) -> dict[str, Any]:
    found = _ask(network, address, 26379, "SENTINEL", "MASTER", SERVICE)
    return found if isinstance(found, dict) else dict(zip(found[::2], found[1::2], strict=True))


def _known_by(network: Network, address: str) -> tuple[int, int]:
    """Other Sentinels and replicas that the Sentinel of a machine knows."""
    found = _master(network, address)
    return int(found.get("num-other-sentinels", 0)), int(found.get("num-slaves", 0))


# Where an owner is cut off together with the primary, what no replica has is lost with them: so one must have each step.
# That no write counts before is shown by ``test_sentinel.py``, and what comes of a node that is cut off by
# ``test_proxied_redis.py``.
@pytest.mark.parametrize(
    ("url_options", "alone_with"),
    [
        pytest.param("", (), id="alone"),
        pytest.param("?wait=1", ("node1",), id="with a node", marks=pytest.mark.deep),
    ],
)
def test_no_step_is_lost_when_the_primary_is_cut_off(hosts: Hosts, alone_with: tuple[str, ...]) -> None:
    network = hosts.network
    # Nobody slips, so that no episode ends however long the election takes.
    made = hosts.post(
        "/api/batch/initialize",
        {"env_name": "frozen_lake", "env_kwargs": {**LAKE, "is_slippery": False}, "num_envs": 50},
    )
    assert not made["errors"]
    env_ids = made["env_ids"]
    assert hosts.step_until_all_answer(env_ids, 0) == set()

    here = ("redis1", *alone_with)
    there = [name for name in network.addresses if name not in here]
    cut = [(one, other) for one in here for other in there]
    if not alone_with:
        # All nodes reach it as before.
        cut = [(one, other) for one, other in cut if other in REDIS_MACHINES]
    for one, other in cut:
        network.part(one, other)
    seq = 1

    def is_elected() -> bool:
        nonlocal seq
        # All the while, so that the former primary gets steps that no other one has.
        hosts.step_until_all_answer(env_ids, seq)
        seq += 1
        return _master(network, network.addresses["redis2"]).get("ip") != network.addresses["redis1"]

    eventually(is_elected)
    for _ in range(3):
        hosts.step_until_all_answer(env_ids, seq)
        seq += 1

    for one, other in cut:
        network.rejoin(one, other)
    eventually(lambda: _info(network, network.addresses["redis1"]).get("role") == "slave")
    hosts.await_workers(hosts.addresses)
    hosts.step_until_all_answer(env_ids, seq)
    answer = hosts.post("/api/batch/step", {"env_ids": env_ids, "actions": ["right"] * len(env_ids)})
    assert not answer["errors"]
    assert {info["num_steps"] for info in answer["infos"]} == {seq + 2}
