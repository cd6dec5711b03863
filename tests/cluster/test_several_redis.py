"""Nodes whose steps are kept in several Redis: what becomes of one of them concerns its own slots alone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
import redis

from tests.children import cli
from tests.cluster.conftest import StartNode
from tests.cluster.redis_process import RedisProcess
from tests.pool_process import Pool, initialize_many, kill_owner
from tests.waiting import eventually
from verl_agent_env.types import slot_of
from verl_agent_env.waits import OWNER_S, STORE_S
from verl_agent_env.wire.event_log import shard_of

COUNT = 40


@pytest.fixture
def logs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisProcess]]:
    """Two Redis that keep what is appended to a file, in the order of their addresses."""
    kept = ("--appendonly", "yes", "--appendfsync", "always")
    started = [RedisProcess(tmp_path_factory.mktemp("log"), *kept) for _ in range(2)]
    yield sorted(started, key=lambda process: process.url)
    for process in started:
        process.stop()


def options(logs: list[RedisProcess]) -> list[str]:
    """Options of a node."""
    return [word for process in logs for word in ("--redis-log", process.url)]


def steps(pool: Pool, env_ids: list[str], seq: int) -> dict[str, str]:
    """Take a step of all environments in one call; say what became of each: ``ok`` or the code of its error."""
    body = {"env_ids": env_ids, "actions": ["right"] * len(env_ids), "seqs": [seq] * len(env_ids)}
    answer = pool.any.post("/api/batch/step", json=body).json()
    outcomes = dict.fromkeys(env_ids, "ok")
    outcomes |= {env_ids[error["index"]]: error["code"] for error in answer["errors"]}
    taken = [info["num_steps"] for info in answer["infos"] if info is not None]
    assert taken == [seq + 1] * len(taken)
    return outcomes


def in_shard(env_ids: list[str], number: int) -> set[str]:
    """Those of these environments that are kept in one of the two."""
    return {env_id for env_id in env_ids if shard_of(slot_of(env_id), 2) == number}


def test_one_of_two_logs_dies_and_its_slots_alone_wait(
    start_node: StartNode, logs: list[RedisProcess]
) -> None:
    pool = start_node("a", *options(logs))
    env_ids = initialize_many(pool.any, COUNT)
    gone, others = in_shard(env_ids, 0), in_shard(env_ids, 1)
    assert len(gone) > 5
    assert len(others) > 5
    assert set(steps(pool, env_ids, 0).values()) == {"ok"}
    with redis.Redis(port=logs[0].port) as client:
        assert len(client.keys("*:m:*")) == len(gone)
    logs[0].stop()
    began = time.monotonic()
    assert set(steps(pool, sorted(others), 1).values()) == {"ok"}
    assert time.monotonic() - began < STORE_S
    outcomes = steps(pool, env_ids, 1)
    assert {outcomes[env_id] for env_id in gone} == {"store_unavailable"}
    # These were taken already, and are answered as they were.
    assert {outcomes[env_id] for env_id in others} == {"ok"}
    assert {worker["state"] for worker in pool.workers()} == {"ready"}
    # New environments begin where they can be kept.
    new = initialize_many(pool.any, COUNT)
    assert in_shard(new, 0) == set()
    logs[0].start()
    eventually(lambda: set(steps(pool, env_ids, 1).values()) == {"ok"}, what="the steps of all")
    # Nothing is lost when a worker dies now.
    kill_owner(pool.any, env_ids[0])
    eventually(lambda: set(steps(pool, env_ids, 2).values()) == {"ok"}, what="the steps of all")
    assert set(steps(pool, new, 0).values()) == {"ok"}


def test_an_emptied_log_is_written_again_by_the_owners(
    start_node: StartNode, logs: list[RedisProcess], own_redis: RedisProcess
) -> None:
    pool = start_node("a", *options(logs), redis=own_redis.url)
    env_ids = initialize_many(pool.any, COUNT)
    assert set(steps(pool, env_ids, 0).values()) == {"ok"}
    logs[1].flush()
    with redis.Redis(port=logs[1].port) as client:
        kept = in_shard(env_ids, 1)
        eventually(lambda: len(client.keys("*:m:*")) == len(kept), what="what the log lost")
    # The store itself has none of it: without it, everything is there for new owners as well.
    own_redis.flush()
    for pid in pool.pids():
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: set(steps(pool, env_ids, 1).values()) == {"ok"}, what="the steps of all")


def test_steps_go_on_where_the_store_is_away_for_a_moment(
    start_node: StartNode, logs: list[RedisProcess], own_redis: RedisProcess
) -> None:
    pool = start_node("a", *options(logs), redis=own_redis.url, lease_s=60.0)
    env_ids = initialize_many(pool.any, COUNT)
    own_redis.stop()
    began = time.monotonic()
    assert set(steps(pool, env_ids, 0).values()) == {"ok"}
    assert time.monotonic() - began < OWNER_S
    own_redis.start()


def refused(*arguments: str) -> str:
    """Say why a node does not come up."""
    done = cli("serve", "--port", "0", *arguments)
    assert done.returncode == 1, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_node_with_other_logs_is_refused_in_one_sentence(
    start_node: StartNode, logs: list[RedisProcess], redis_server: RedisProcess, namespace: str
) -> None:
    a = start_node("a", *options(logs), workers=1)
    node = ("--node", "b", "--advertise", "127.0.0.1", "--redis", redis_server.url, "--namespace", namespace)
    for given in ([], logs[:1]):
        said = refused(*node, *options(given))
        assert all(f"127.0.0.1:{process.port}" in said for process in logs)
        assert "--redis-log" in said
    # Their order says nothing.
    b = start_node("b", *options(logs[::-1]), workers=1)
    eventually(lambda: len(b.any.get("/api/cluster").json()["nodes"]) == 2, what="both nodes")
    assert a.is_ready()


def test_logs_are_refused_where_the_store_keeps_the_log_itself(
    start_node: StartNode, logs: list[RedisProcess], redis_server: RedisProcess, namespace: str
) -> None:
    start_node("a", workers=1)
    said = refused(
        *("--node", "b", "--advertise", "127.0.0.1", "--redis", redis_server.url, "--namespace", namespace),
        *options(logs),
    )
    assert "that Redis itself" in said


def test_one_redis_is_not_two_logs(logs: list[RedisProcess], redis_server: RedisProcess) -> None:
    done = cli("serve", "--port", "0", "--node", "a", "--redis", redis_server.url, *options(logs[:1] * 2))
    assert done.returncode == 1
    assert "another one" in done.stderr


def test_a_log_that_is_not_there_is_said_in_one_sentence(
    logs: list[RedisProcess], redis_server: RedisProcess
) -> None:
    logs[1].stop()
    said = refused("--node", "a", "--redis", redis_server.url, *options(logs))
    assert f"127.0.0.1:{logs[1].port}" in said
