"""Nodes that meet in one Redis, as real processes: they share the slots, lose no call, and survive each other."""

from __future__ import annotations

import asyncio
import itertools
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest

from tests.children import cli
from tests.cluster.conftest import LEASE_S, StartNode
from tests.cluster.redis_process import RedisProcess
from tests.conftest import StartServer
from tests.pool_process import LASTING, Pool, all_workers, initialize, initialize_at, initialize_many, step
from tests.ports import free_port
from tests.server.conftest import GATED, GATED_REPLAYED
from tests.waiting import HANG_S, NEVER_S, eventually
from verl_agent_env.cluster.redis.keys import Keys
from verl_agent_env.cluster.redis.store import RedisStore
from verl_agent_env.cluster.ring import Ring
from verl_agent_env.cluster.store import WorkerRecord
from verl_agent_env.config import NODE_TAKEN_EXIT_CODE
from verl_agent_env.types import NUM_SLOTS, slot_of
from verl_agent_env.waits import OWNER_S


def both(
    start_node: StartNode, *options: str, headers: dict[str, str] | None = None, **settings: Any
) -> tuple[Pool, Pool]:
    """Two nodes, started side by side, with their shares; all that is asked of them has these headers."""
    with ThreadPoolExecutor(2) as threads:
        a, b = threads.map(lambda name: start_node(name, *options, **settings), ("a", "b"))
    for client in (a.any, *a.at, b.any, *b.at):
        client.headers.update(headers or {})
    settle(a, b)
    return a, b


def slots_at(client: httpx.Client) -> dict[str, int]:
    """Slots by address, as a worker sees them."""
    return {worker["address"]: worker["slots"] for worker in all_workers(client)}


def settled(*pools: Pool) -> bool:
    """Whether all workers see every worker of these nodes, each with what the ring gives it."""
    wanted = Counter(Ring(sorted(address for pool in pools for address in pool.addresses)).assignments)
    return all(slots_at(client) == wanted for pool in pools for client in pool.at)


def settle(*pools: Pool) -> None:
    """Wait until they share all slots as the ring says."""

    def is_settled() -> bool:
        try:
            return settled(*pools)
        except httpx.TransportError:
            # Whoever was killed may still be there to take a connection.
            return False

    eventually(is_settled, what="a balanced map")


@asynccontextmanager
async def steady_steps(url: str, env_ids: list[str], workers: int = 4) -> AsyncIterator[Counter[str]]:
    """Single steps on all these environments, one after the other with hardly a pause; counts their outcomes."""
    outcomes: Counter[str] = Counter()
    stop = asyncio.Event()

    async def play(session: aiohttp.ClientSession, mine: list[str]) -> None:
        seqs = dict.fromkeys(mine, 0)
        while not stop.is_set():
            for env_id in mine:
                body = {"action": "right", "seq": seqs[env_id]}
                async with session.post(f"{url}/api/environment/{env_id}/step", json=body) as answer:
                    document = await answer.json(content_type=None)
                outcomes[str(document.get("code", "ok"))] += 1
                if answer.status == 200:
                    seqs[env_id] += 1
                    assert document["info"]["num_steps"] == seqs[env_id]
            await asyncio.sleep(0.05)

    async with aiohttp.ClientSession() as session:
        tasks = [asyncio.create_task(play(session, env_ids[i::workers])) for i in range(workers)]
        try:
            yield outcomes
        finally:
            stop.set()
            await asyncio.gather(*tasks)


# --- sharing -----------------------------------------------------------------------------------------------


def test_two_nodes_share_the_slots_as_the_ring_says_and_work_as_one(start_node: StartNode) -> None:
    a, b = both(start_node)
    # Within seconds of their start, as `settle` makes sure.
    names = {worker["name"]: worker["address"] for worker in all_workers(a.any)}
    ports = {address.rpartition(":")[2]: address for address in (*a.addresses, *b.addresses)}
    assert names == {
        f"{pool.name}:{address.rpartition(':')[2]}": address for pool in (a, b) for address in pool.addresses
    }
    assert len(ports) == 4
    made = [
        (initialize_at(client), address)
        for pool in (a, b)
        for client, address in zip(pool.at, pool.addresses, strict=True)
    ]
    owners = Ring(sorted(names.values())).assignments
    for env_id, address in made:
        assert owners[slot_of(env_id)] == address
        for client in (*a.at, *b.at):
            assert step(client, env_id).status_code == 200, env_id
        assert b.any.get(f"/api/environment/{env_id}").json() | {"idle_s": 0, "age_s": 0} == (
            a.any.get(f"/api/environment/{env_id}").json() | {"idle_s": 0, "age_s": 0}
        )
    env_ids = initialize_many(b.at[1], 40, run_id="run")
    assert Counter(owners[slot_of(env_id)] for env_id in env_ids) == dict.fromkeys(owners, 10)
    answer = a.at[0].post("/api/batch/step", json={"env_ids": env_ids, "actions": ["right"] * 40}).json()
    assert answer["errors"] == []
    assert {info["num_steps"] for info in answer["infos"]} == {1}
    live = sum(worker["live_envs"] for worker in a.workers(a.at[0]) + b.workers(b.at[0]))
    assert live > 0
    assert a.any.post("/api/batch/close", json={"run_id": "run"}).json() == {"closed": 40, "errors": []}
    # The numbers of others are those of their last heartbeats.
    eventually(lambda: sum(worker["live_envs"] for worker in all_workers(a.any)) == len(made))


def test_as_soon_as_the_nodes_are_ready_new_environments_lie_on_all_workers_alike(
    start_node: StartNode,
) -> None:
    with ThreadPoolExecutor(2) as threads:
        a, b = threads.map(lambda name: start_node(name, "--expected-nodes", "2"), ("a", "b"))
    # Whoever asked /readyz has waited for the others, and for the slots to be in their places.
    assert settled(a, b)
    body = {"env_name": "frozen_lake", "env_kwargs": LASTING, "seeds": list(range(400))}
    owners = Ring(sorted((*a.addresses, *b.addresses))).assignments
    for headers in ({}, {"Idempotency-Key": "k"}):
        answer = a.at[0].post("/api/batch/initialize", json=body, headers=headers).json()
        assert answer["errors"] == []
        assert set(Counter(owners[slot_of(env_id)] for env_id in answer["env_ids"]).values()) == {100}
    single = Counter(owners[slot_of(initialize(a.at[0]))] for _ in range(80))
    assert len(single) == 4


def test_a_worker_imports_next_to_nothing_that_its_supervisor_has_not(
    start_server: StartServer, redis_server: RedisProcess, namespace: str
) -> None:
    """A worker that takes the place of another one starts in milliseconds, and they share the memory of what they import."""
    shared = ("--redis", redis_server.url, "--namespace", namespace)
    python = [sys.executable, "-X", "importtime", "-m", "verl_agent_env.cli"]
    node = [*python, "serve", "--port", "0", "--workers", "2", "--node", "a", "--advertise", "127.0.0.1"]
    server = start_server(command=[*node, *shared])
    with closing(Pool(server)):
        assert server.stop() == 0
    lines = iter(server.lines)
    by_supervisor, by_workers = (
        {
            line.rpartition("|")[2].strip().partition(".")[0]
            for line in part
            if line.startswith("import time:")
        }
        for part in (itertools.takewhile(lambda line: not line.startswith("Serving on "), lines), lines)
    )
    rooted = {"verl_agent_env", "aiohttp", "redis", "uvloop"}
    assert (by_supervisor & rooted, by_workers & rooted) == (rooted, set())


def test_of_requests_under_one_key_at_once_one_is_the_first_whatever_workers_they_meet(
    start_node: StartNode,
) -> None:
    a, b = both(start_node)
    clients = [*a.at, *b.at]
    sizes: dict[str, dict[str, int]] = {"environment": {}, "batch": {"num_envs": 20}}
    with ThreadPoolExecutor(8) as threads:
        for path, number in itertools.product(sizes, range(4)):

            def send(nth: int, path: str = path, key: str = f"{path}-{number}") -> httpx.Response:
                body = {"env_name": "frozen_lake", "ttl_s": 600 + nth % 2, **sizes[path]}
                headers = {"Idempotency-Key": key}
                return clients[nth // 2].post(f"/api/{path}/initialize", json=body, headers=headers)

            answers = list(threads.map(send, range(8)))
            first = next(nth for nth, answer in enumerate(answers) if answer.status_code == 200)
            for nth, answer in enumerate(answers):
                if nth % 2 == first % 2:
                    assert answer.json() == answers[first].json()
                else:
                    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    eventually(lambda: sum(worker["live_envs"] for worker in all_workers(a.any)) == 4 + 4 * 20)


def test_a_key_is_known_after_all_workers_were_restarted_and_its_answer_was_forgotten(
    start_node: StartNode,
) -> None:
    a, b = both(start_node, "--idempotency-memory-s", "0.001")
    requests: dict[str, dict[str, Any]] = {
        "environment": {"env_name": "frozen_lake", "seed": 1},
        "batch": {"env_name": "frozen_lake", "seeds": [1, 2, 3]},
    }
    headers = {path: {"Idempotency-Key": f"key-{path}"} for path in requests}
    made = {
        path: a.any.post(f"/api/{path}/initialize", json=body, headers=headers[path]).json()
        for path, body in requests.items()
    }
    for pool in (a, b):
        for index in range(2):
            pool.kill(index)
    settle(a, b)
    for path, body in requests.items():
        for client in (*a.at, *b.at):
            again = client.post(f"/api/{path}/initialize", json=body, headers=headers[path])
            assert again.json() == made[path]
            others = [
                client.post(f"/api/{path}/initialize", json={**body, "ttl_s": 9}, headers=headers[path]),
                client.post(
                    "/api/batch/initialize",
                    json={"env_name": "frozen_lake", "num_envs": 1},
                    headers=headers[path],
                ),
            ]
            codes = {(other.status_code, other.json()["code"]) for other in others}
            assert codes == {(422, "idempotency_key_reused")}


def test_holders_of_different_tokens_have_keys_of_their_own_on_every_worker(start_node: StartNode) -> None:
    tokens = ("--auth-token", "token-a", "--auth-token", "token-b")
    a, b = both(start_node, *tokens, headers={"Authorization": "Bearer token-a"})
    made: dict[str, set[str]] = {"token-a": set(), "token-b": set()}
    for token, env_ids in made.items():
        headers = {"Idempotency-Key": "key", "Authorization": f"Bearer {token}"}
        for client in (*a.at, *b.at):
            answer = client.post(
                "/api/environment/initialize", json={"env_name": "frozen_lake"}, headers=headers
            )
            env_ids.add(answer.json()["env_id"])
    assert [len(env_ids) for env_ids in made.values()] == [1, 1]
    assert made["token-a"] != made["token-b"]


def test_an_environment_stays_its_holders_own_when_its_workers_die(
    start_node: StartNode, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("alice run alice-token\nbob run bob-token\nops admin ops-token\n")
    headers = {name: {"Authorization": f"Bearer {name}-token"} for name in ("alice", "bob", "ops")}
    a, b = both(start_node, "--auth-file", str(tokens), headers=headers["ops"])
    body = {"env_name": "frozen_lake", "env_kwargs": LASTING, "num_envs": 20, "run_id": "run"}
    keyed = {**headers["alice"], "Idempotency-Key": "key"}
    env_ids = a.any.post("/api/batch/initialize", json=body, headers=keyed).json()["env_ids"]

    def codes(name: str, seq: int) -> set[str]:
        step = {"env_ids": env_ids, "actions": ["left"] * 20, "seqs": [seq] * 20}
        answer = b.any.post("/api/batch/step", json=step, headers=headers[name]).json()
        return {error["code"] for error in answer["errors"]}

    assert codes("alice", 0) == set()
    for index in range(2):
        a.kill(index)
        settle(a, b)
    for client in (*a.at, *b.at):
        assert client.get(f"/api/environment/{env_ids[0]}", headers=headers["bob"]).status_code == 404
        assert client.get(f"/api/environment/{env_ids[0]}", headers=headers["alice"]).status_code == 200
    assert codes("bob", 1) == {"environment_not_found"}
    assert codes("alice", 1) == set()
    closed = [
        b.any.post("/api/batch/close", json={"run_id": "run"}, headers=headers[name]).json()["closed"]
        for name in ("bob", "alice")
    ]
    assert closed == [0, 20]


def test_an_idempotency_key_holds_after_the_worker_that_knew_the_answer_is_gone(
    start_node: StartNode,
) -> None:
    a, b = both(start_node)
    sizes: dict[str, dict[str, int]] = {"environment": {}, "batch": {"num_envs": 40}}
    requests: dict[str, dict[str, Any]] = {
        path: {
            "json": {"env_name": "frozen_lake", "env_kwargs": LASTING, **size},
            "headers": {"Idempotency-Key": f"one-and-only-{path}"},
        }
        for path, size in sizes.items()
    }
    first = {
        path: a.any.post(f"/api/{path}/initialize", **request).json() for path, request in requests.items()
    }
    played = [first["environment"]["env_id"], first["batch"]["env_ids"][0]]
    assert {step(a.any, env_id).status_code for env_id in played} == {200}
    for pool in (a, b):
        for index in range(2):
            pool.kill(index)
            settle(a, b)
    for path, request in requests.items():
        assert b.any.post(f"/api/{path}/initialize", **request).json() == first[path]
    eventually(lambda: sum(worker["live_envs"] for worker in all_workers(b.any)) == 41)
    assert {step(b.any, env_id, seq=1).status_code for env_id in played} == {200}
    for pool in (a, b):
        pool.kill(0)
        pool.kill(1)
    settle(a, b)
    for path, request in requests.items():
        other = {**request, "json": {"env_name": "sokoban", **sizes[path]}}
        refused = b.any.post(f"/api/{path}/initialize", **other).json()
        codes = {error["code"] for error in refused.get("errors", [refused])}
        assert codes == {"idempotency_key_reused"}


def test_a_run_is_closed_whoever_died_with_its_environments(start_node: StartNode) -> None:
    a, b = both(start_node)
    env_ids = initialize_many(a.any, 40, run_id="dead")
    b.kill_all()
    closed = 0

    def is_closed() -> bool:
        nonlocal closed
        answer = a.any.post("/api/batch/close", json={"run_id": "dead"})
        if answer.status_code != 200:
            assert answer.json()["retryable"]
            return False
        closed += answer.json()["closed"]
        return True

    # Whatever those who answered have closed before one did not is not counted again.
    eventually(is_closed)
    assert closed >= 1
    assert {step(a.any, env_id).json()["code"] for env_id in env_ids} == {"environment_closed"}


# --- leaving and dying -------------------------------------------------------------------------------------


async def test_a_node_that_leaves_gives_everything_to_the_other_one_and_no_call_fails(
    start_node: StartNode,
) -> None:
    a, b = both(start_node)
    env_ids = [initialize_at(client) for client in (*a.at, *b.at) for _ in range(4)]
    bound = initialize_at(b.at[0], GATED)
    async with steady_steps(a.server.url, env_ids) as outcomes:
        await asyncio.to_thread(eventually, lambda: outcomes["ok"] > 20)
        b.server.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(settle, a)
        assert await asyncio.to_thread(b.server.wait) == 0
        before = outcomes["ok"]
        await asyncio.to_thread(eventually, lambda: outcomes["ok"] > before + 20)
    assert outcomes.keys() == {"ok"}
    # What cannot be played again has ended with its worker.
    answer = step(a.any, bound)
    assert (answer.status_code, answer.json()["code"]) == (410, "environment_lost")
    assert len(initialize_many(a.any, 10)) == 10


def test_a_call_that_waits_behind_another_one_while_its_slot_moves_reaches_the_new_owner(
    start_node: StartNode, tmp_path: Path
) -> None:
    a, b = both(start_node)
    env_ids = [initialize_at(b.at[0], GATED_REPLAYED) for _ in range(2)]
    gate = tmp_path / "gate"
    with ThreadPoolExecutor(8) as threads:
        first = [
            threads.submit(
                step, b.at[0], env_id, {"entered": str(tmp_path / env_id), "gate": str(gate)}, seq=0
            )
            for env_id in env_ids
        ]
        eventually(lambda: all((tmp_path / env_id).exists() for env_id in env_ids), what="the steps")
        # Three that wait behind one that is at work, in every way that a call can come.
        single = threads.submit(step, b.at[0], env_ids[0], "go", seq=1)
        look = threads.submit(b.at[0].get, f"/api/environment/{env_ids[1]}/task-prompt")
        body = {"env_ids": [env_ids[1]], "actions": ["go"], "seqs": [1]}
        batch = threads.submit(a.at[0].post, "/api/batch/step", json=body)
        drained = threads.submit(a.any.post, "/api/cluster/drain", json={"node": b.name})
        owners = Ring(a.addresses).assignments
        moved = {**Counter(owners), **dict.fromkeys(b.addresses, 0)}
        eventually(lambda: slots_at(a.at[0]) == moved, what="the move")
        gate.touch()
        assert [done.result().status_code for done in first] == [200, 200]
        assert single.result().status_code == 200, single.result().text
        assert look.result().status_code == 200, look.result().text
        assert batch.result().json()["errors"] == []
        assert drained.result().status_code == 200
    for env_id in env_ids:
        state = a.any.get(f"/api/environment/{env_id}").json()
        assert (state["seq"], state["owner"]) == (2, owners[slot_of(env_id)])


def test_slots_of_a_node_that_leaves_move_without_waiting_for_the_lease(start_node: StartNode) -> None:
    a, b = both(start_node, lease_s=NEVER_S)
    b.server.process.send_signal(signal.SIGTERM)
    settle(a)
    assert b.server.wait() == 0


async def test_slots_of_a_node_that_was_killed_are_taken_over_after_the_lease(start_node: StartNode) -> None:
    a, b = both(start_node)
    kept = [initialize_at(client) for client in a.at for _ in range(4)]
    moving = [initialize_at(client) for client in b.at for _ in range(2)]
    bound = initialize_at(b.at[0], GATED)
    assert {step(b.any, env_id).json()["info"]["num_steps"] for env_id in moving} == {1}
    async with steady_steps(a.server.url, kept) as outcomes:
        await asyncio.to_thread(b.kill_all)
        # The first call waits for the new owner instead of failing.
        answer = await asyncio.to_thread(step, a.any, moving[0])
        assert answer.json()["info"]["num_steps"] == 2, answer.text
        await asyncio.to_thread(settle, a)
    assert outcomes.keys() == {"ok"}
    ids = [*moving[1:], bound, *kept]
    answer = a.any.post("/api/batch/step", json={"env_ids": ids, "actions": ["left"] * len(ids)})
    assert [(e["index"], e["code"]) for e in answer.json()["errors"]] == [(3, "environment_lost")]
    assert {info["num_steps"] for info in answer.json()["infos"][:3]} == {2}


def test_a_node_that_was_killed_comes_back_under_its_name(start_node: StartNode) -> None:
    a, b = both(start_node)
    kept = initialize_at(a.at[0])
    b.kill_all()
    again = start_node("b", "--worker-port", b.addresses[0].rpartition(":")[2], workers=1)
    settle(a, again)
    assert step(again.any, kept).status_code == 200


def test_a_worker_that_was_killed_comes_back_to_its_slots(start_node: StartNode) -> None:
    a, b = both(start_node)
    env_ids = [initialize_at(a.at[0]), initialize_at(a.at[1]), initialize_at(b.at[0])]
    bound = initialize_at(a.at[0], GATED)
    old = a.kill(0)
    assert initialize_at(a.at[0])
    settle(a, b)
    assert a.pid(0) != old
    for client in (*a.at, *b.at):
        assert step(client, bound).json()["code"] == "environment_lost"
        assert all(step(client, env_id).status_code == 200 for env_id in env_ids)


def test_a_second_close_and_unknown_ids_are_told_as_ever_after_slots_moved(start_node: StartNode) -> None:
    a = start_node("a")
    closed = [initialize(a.any) for _ in range(8)]
    for env_id in closed:
        a.any.post(f"/api/environment/{env_id}/close")
    b = start_node("b")
    settle(a, b)
    assert {a.any.post(f"/api/environment/{env_id}/close").status_code for env_id in closed} == {200}
    unknown = [f"{slot:03x}-{'0' * 32}" for slot in range(0, NUM_SLOTS, 256)]
    codes = {step(b.any, env_id).json()["code"] for env_id in unknown}
    assert codes == {"environment_not_found"}


# --- joining -----------------------------------------------------------------------------------------------


async def test_a_node_joins_under_load_and_no_call_fails(start_node: StartNode) -> None:
    a, b = both(start_node)
    env_ids = initialize_many(a.any, 40)
    failures: list[Any] = []
    stop = asyncio.Event()

    async def come_and_go(session: aiohttp.ClientSession, url: str) -> None:
        """Environments that begin and end while slots change hands."""
        while not stop.is_set():
            await asyncio.sleep(0.02)
            async with session.post(
                f"{url}/api/environment/initialize", json={"env_name": "frozen_lake"}
            ) as answer:
                made = await answer.json(content_type=None)
            for verb, body in (("step", {"action": "right"}), ("reset", {}), ("close", {})):
                if "env_id" not in made:
                    failures.append(made)
                    break
                async with session.post(
                    f"{url}/api/environment/{made['env_id']}/{verb}", json=body
                ) as answer:
                    if answer.status != 200:
                        failures.append((verb, await answer.json(content_type=None)))

    async with aiohttp.ClientSession() as session, steady_steps(b.server.url, env_ids) as outcomes:
        coming = [asyncio.create_task(come_and_go(session, pool.server.url)) for pool in (a, b)]
        c = await asyncio.to_thread(start_node, "c")
        coming.append(asyncio.create_task(come_and_go(session, c.server.url)))
        await asyncio.to_thread(settle, a, b, c)
        before = outcomes["ok"]
        await asyncio.to_thread(eventually, lambda: outcomes["ok"] > before + 40)
        stop.set()
        await asyncio.gather(*coming)
    assert failures == []
    assert outcomes.keys() == {"ok"}


# --- Redis away --------------------------------------------------------------------------------------------


LEASES_S = (4.0, 16.0, 64.0)
"""Leases to try one after the other where calls must be made within half of one, by a machine of whatever speed."""


@pytest.fixture
def kept_redis(tmp_path: Path) -> Iterator[RedisProcess]:
    """A Redis that keeps its data when it is killed."""
    process = RedisProcess(tmp_path, "--appendonly", "yes", "--appendfsync", "always")
    yield process
    process.stop()


def test_without_redis_calls_succeed_until_the_lease_is_over_and_go_on_when_it_is_back(
    start_node: StartNode, kept_redis: RedisProcess
) -> None:
    for lease_s in LEASES_S:
        a, b = both(start_node, workers=1, redis=kept_redis.url, lease_s=lease_s)
        kept = initialize_many(a.any, 20)
        bound = [initialize(pool.any, GATED) for pool in (a, b)]
        kept_redis.stop()
        end = time.monotonic() + lease_s / 2
        # Nothing of the bound ones is kept in Redis.
        answers = [step(pool.any, env_id) for env_id in bound for pool in (a, b)]
        answers += [a.any.get(f"/api/environment/{env_id}") for env_id in kept]
        if time.monotonic() < end:
            break
        for pool in (a, b):
            pool.server.stop()
        kept_redis.start()
    assert {answer.status_code for answer in answers} == {200}
    eventually(lambda: not a.at[0].post(f"/api/environment/{bound[0]}/reset", json={}).is_success)
    # Each of these ends when patience does, though Redis does not come back.
    batch = {"env_ids": kept, "actions": ["left"] * 20, "seqs": [0] * 20}
    with ThreadPoolExecutor(4) as threads:
        singles = [
            threads.submit(step, b.any, bound[0]),
            threads.submit(step, a.any, kept[0], seq=0),
            threads.submit(a.any.post, "/api/environment/initialize", json={"env_name": "frozen_lake"}),
        ]
        failed = threads.submit(b.any.post, "/api/batch/step", json=batch).result()
    for answer in (single.result() for single in singles):
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable"), answer.text
        assert int(answer.headers["retry-after"]) >= 1
    assert [error["code"] for error in failed.json()["errors"]] == ["store_unavailable"] * 20
    assert a.any.get("/healthz").status_code == 200
    kept_redis.start()
    settle(a, b)
    # All leases were over: nobody has taken what others held.
    for env_id in bound:
        assert step(a.any, env_id).status_code == 200
    # None of the steps in between has counted, or they count once.
    for env_id in kept:
        answer = step(a.any, env_id, "left", seq=0)
        assert answer.status_code == 200 or env_id == kept[0], answer.text
        state = b.any.get(f"/api/environment/{env_id}").json()
        assert state["seq"] == 1
    assert len(initialize_many(b.any, 10)) == 10


def test_a_node_stops_in_time_while_redis_is_away(start_node: StartNode, own_redis: RedisProcess) -> None:
    a, b = both(start_node, workers=1, redis=own_redis.url)
    initialize_many(a.any, 10)
    own_redis.stop()
    assert a.server.stop() == 0
    assert b.server.stop() == 0


def test_after_redis_lost_all_its_data_everybody_goes_on_with_what_it_had(
    start_node: StartNode, own_redis: RedisProcess
) -> None:
    a, b = both(start_node, workers=1, redis=own_redis.url)
    env_ids = initialize_many(a.any, 20)
    own_redis.flush()
    settle(a, b)
    assert {step(b.any, env_id).status_code for env_id in env_ids} == {200}


def slot_owner(env_id: str, *pools: Pool) -> Pool:
    """The node whose worker the ring gives an environment's slot to."""
    owner = Ring(sorted(address for pool in pools for address in pool.addresses)).assignments[slot_of(env_id)]
    return next(pool for pool in pools if owner in pool.addresses)


# --- what goes wrong ---------------------------------------------------------------------------------------


async def test_an_owner_that_cannot_be_reached_is_a_typed_error_in_bounded_time(
    start_node: StartNode, redis_server: RedisProcess, namespace: str
) -> None:
    a = start_node("a", workers=1)
    store = RedisStore(redis_server.url, Keys(namespace))
    # A worker that is alive in Redis, but listens nowhere.
    ghost = WorkerRecord(
        "ghost", "z:1", "z", "nobody", f"127.0.0.1:{free_port()}", 1, "ready", 0, time.time()
    )
    beating = asyncio.create_task(_beat_forever(store, ghost))
    try:
        await asyncio.to_thread(
            eventually, lambda: slots_at(a.any).get(ghost.address, 0) > 0, what="slots of the ghost"
        )
        slot = next(s for s, own in (await store.read_map()).owners.items() if own.incarnation == "ghost")
        env_id = f"{slot:03x}-{'0' * 32}"
        four = {"env_name": "frozen_lake", "num_envs": 4}
        made = await asyncio.to_thread(a.any.post, "/api/batch/initialize", json=four)
        # One of those whose slots are not the ghost's.
        here = next(made_id for made_id in made.json()["env_ids"] if made_id is not None)
        pair = {"env_ids": [env_id, here], "actions": ["left", "left"]}
        single, batch = await asyncio.gather(
            asyncio.to_thread(step, a.any, env_id),
            asyncio.to_thread(a.any.post, "/api/batch/step", json=pair),
        )
        assert (single.status_code, single.json()["code"]) == (503, "worker_unreachable"), single.text
        assert not single.json()["may_have_run"]
        assert single.elapsed.total_seconds() > OWNER_S * 0.9
        # What is not meant for it is done.
        assert [(e["index"], e["code"]) for e in batch.json()["errors"]] == [(0, "worker_unreachable")]
        assert batch.json()["infos"][1]["num_steps"] == 1
        assert {error["code"] for error in made.json()["errors"]} == {"worker_unreachable"}
        assert sum(made_id is not None for made_id in made.json()["env_ids"]) == 2
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
        await store.leave(ghost.incarnation)
        await store.aclose()


async def _beat_forever(store: RedisStore, record: WorkerRecord) -> None:
    while True:
        await store.heartbeat(record, 5)
        await asyncio.sleep(0.2)


def refusal(*arguments: str, exit_code: int = 1, **variables: str) -> list[str]:
    """What a node says that does not come up, and ends with this exit code."""
    done = cli("serve", "--port", "0", "--workers", "2", *arguments, variables=variables)
    assert done.returncode == exit_code, done.stderr
    return done.stderr.splitlines()


def test_a_url_that_is_none_is_said_in_one_sentence_without_its_password() -> None:
    for url in ("http://user:secret@here/", "redis://:secret@here:port/"):
        lines = refusal("--node", "a", "--redis", url)
        assert len(lines) == 1, lines
        assert "redis://" in lines[0]
        assert "secret" not in lines[0]


def test_a_redis_that_is_not_there_is_said_in_one_sentence() -> None:
    port = free_port()
    lines = refusal("--node", "a", "--redis", f"redis://:secret@127.0.0.1:{port}/0")
    assert len(lines) == 1, lines
    assert f"127.0.0.1:{port}" in lines[0]
    assert "secret" not in lines[0]


def test_something_else_at_redis_address_is_said_in_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        lines = refusal("--node", "a", "--redis", f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
    assert len(lines) == 1, lines
    assert "did not answer" in lines[0]


def test_a_second_node_of_one_name_is_refused_in_one_sentence(
    start_node: StartNode, redis_server: RedisProcess, namespace: str
) -> None:
    a = start_node("a", workers=1)
    shared = ("--redis", redis_server.url, "--namespace", namespace, "--lease-s", str(LEASE_S))
    # On other ports: the name alone is enough.
    lines = refusal("--node", "a", "--advertise", "127.0.0.1", *shared, exit_code=NODE_TAKEN_EXIT_CODE)
    assert len(lines) == 1, lines
    assert "'a'" in lines[0]
    assert "--node" in lines[0]
    assert a.is_ready()
    assert slots_at(a.any) == {a.addresses[0]: NUM_SLOTS}


def test_a_second_node_of_one_address_is_refused_in_one_sentence(
    start_node: StartNode, redis_server: RedisProcess, namespace: str
) -> None:
    a = start_node("a", workers=1)
    port = a.addresses[0].rpartition(":")[2]
    shared = ("--redis", redis_server.url, "--namespace", namespace, "--lease-s", str(LEASE_S))
    # On another address of this machine, but known to the others under the same one.
    lines = refusal(
        *("--node", "b", "--host", "127.0.0.2", "--worker-port", port, "--advertise", "127.0.0.1", *shared),
        exit_code=NODE_TAKEN_EXIT_CODE,
    )
    assert len(lines) == 1, lines
    assert a.addresses[0] in lines[0]
    assert "--advertise" in lines[0]


def test_the_other_nodes_say_that_a_node_cannot_be_reached_where_it_advertises(
    start_node: StartNode, start_server: StartServer, redis_server: RedisProcess, namespace: str
) -> None:
    a = start_node("a", workers=1)
    shared = ("--redis", redis_server.url, "--namespace", namespace, "--lease-s", str(LEASE_S))
    # It listens on another address of the machine.
    b = start_server("--node", "b", "--advertise", "127.0.0.99", "--workers", "1", *shared)
    said = a.server.wait_for_line("cannot be reached at the address that its node advertises")
    assert "b:" in said.string
    assert "127.0.0.99" in said.string
    assert b.stop() == 0


def test_a_node_takes_no_work_before_it_is_in_the_cluster(
    start_server: StartServer, own_redis: RedisProcess, namespace: str
) -> None:
    # Redis answers when the node starts, and hangs when its worker wants to join.
    server = start_server(
        *("--node", "a", "--advertise", "127.0.0.1", "--redis", own_redis.url, "--namespace", namespace),
        *("--lease-s", str(LEASE_S), "--workers", "1"),
    )
    own_redis.pause()
    try:
        with httpx.Client(base_url=server.url, timeout=HANG_S) as client:
            eventually(lambda: _answers(client), what="the worker")
            if client.get("/readyz").status_code == 200:
                pytest.skip("it was faster than the pause")
            answer = client.post("/api/environment/initialize", json={"env_name": "frozen_lake"})
            assert answer.status_code == 503
            assert answer.json()["retryable"]
            own_redis.resume()
            eventually(lambda: client.get("/readyz").status_code == 200, what="readiness")
            assert initialize(client)
    finally:
        own_redis.resume()


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


def test_a_node_stops_in_time_while_redis_hangs(start_node: StartNode, own_redis: RedisProcess) -> None:
    a = start_node("a", workers=2, redis=own_redis.url)
    own_redis.pause()
    try:
        assert a.server.stop() == 0
    finally:
        own_redis.resume()
