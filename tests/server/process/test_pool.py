"""``serve --workers N``: many processes that look like one from outside, each of which may end at any moment."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.children import cli
from tests.conftest import ServerProcess, StartServer
from tests.pool_process import (
    LASTING,
    Pool,
    initialize,
    initialize_at,
    initialize_many,
    is_running,
    step,
)
from tests.ports import free_ports
from tests.server.conftest import GATED, Problem
from tests.waiting import HANG_S, NEVER_S, eventually
from verl_agent_env import waits
from verl_agent_env.cluster.ring import Ring
from verl_agent_env.server.process.pool import Standstill
from verl_agent_env.types import NUM_SLOTS, slot_of

UNKNOWN = "-" + "0" * 32
WORKERS = 3

StartPool = Callable[..., Pool]


@pytest.fixture(scope="module")
def pool(plugin_path: str) -> Iterator[Pool]:
    """A pool shared by all tests that leave its processes alone."""
    with ExitStack() as stack:
        server = ServerProcess(
            ["--workers", str(WORKERS), "--max-body-bytes", "8000000"], {"PYTHONPATH": plugin_path}
        )
        stack.callback(server.stop)
        yield stack.enter_context(closing(Pool(server)))


@pytest.fixture
def start_pool(start_server: StartServer) -> Iterator[StartPool]:
    """A function that starts a pool of a test's own, with these options."""
    with ExitStack() as stack:

        def start(*arguments: str, workers: int = WORKERS) -> Pool:
            return stack.enter_context(closing(Pool(start_server("--workers", str(workers), *arguments))))

        yield start


def others(pool: Pool, index: int) -> list[int]:
    """Indices of all workers but one."""
    return [other for other in range(len(pool.addresses)) if other != index]


def on_each(pool: Pool, **request: Any) -> list[str]:
    """An environment of each worker, in order of the workers."""
    env_ids = [initialize_at(client, **request) for client in pool.at]
    assert [pool.owner_of(env_id) for env_id in env_ids] == list(range(len(pool.at)))
    return env_ids


def state_of(pool: Pool, env_id: str) -> dict[str, Any]:
    """Where an environment stands."""
    state: dict[str, Any] = pool.any.get(f"/api/environment/{env_id}").json()
    return state


def unknown_id(pool: Pool, index: int) -> str:
    """An id that was never given, of a slot of this worker."""
    owners = Ring(pool.addresses).assignments
    slot = next(slot for slot in range(NUM_SLOTS) if owners[slot] == pool.addresses[index])
    return f"{slot:03x}{UNKNOWN}"


def key_for(pool: Pool, index: int, prefix: str) -> str:
    """An ``Idempotency-Key`` that this worker answers for."""
    owners = Ring(pool.addresses).assignments
    return next(
        key for number in range(1000) if owners[slot_of(key := f"{prefix}-{number}")] == pool.addresses[index]
    )


# --- one face ----------------------------------------------------------------------------------------------


def test_every_worker_answers_for_every_environment(pool: Pool) -> None:
    for env_id in on_each(pool):
        for seq, client in enumerate([*pool.at, pool.any]):
            answer = step(client, env_id, seq=seq)
            assert answer.status_code == 200, answer.text
            assert answer.json()["info"]["num_steps"] == seq + 1
        assert (
            pool.at[0].post(f"/api/environment/{env_id}/reset", json={"seed": 3}).json()["info"]["seed"] == 3
        )
        assert pool.at[1].post(f"/api/environment/{env_id}/close").status_code == 200
        assert pool.at[2].post(f"/api/environment/{env_id}/close").status_code == 200


def test_slots_lie_where_the_ring_over_the_addresses_has_them(pool: Pool) -> None:
    counts = Counter(Ring(pool.addresses).assignments)
    for client in pool.at:
        assert {w["address"]: w["slots"] for w in pool.workers(client)} == counts
    names = [worker["name"] for worker in pool.workers()]
    assert names == [f"local:{address.rpartition(':')[2]}" for address in pool.addresses]
    assert len({worker["pid"] for worker in pool.workers()}) == WORKERS


def test_an_environment_lives_in_a_slot_of_the_worker_that_made_it(pool: Pool) -> None:
    owners = Ring(pool.addresses).assignments
    for address, env_id in zip(pool.addresses, on_each(pool), strict=True):
        assert owners[slot_of(env_id)] == address


def test_a_batch_is_spread_evenly_and_comes_back_in_order(pool: Pool) -> None:
    before = [worker["live_envs"] for worker in pool.workers()]
    env_ids = initialize_many(pool.at[0], 60)
    after = [worker["live_envs"] for worker in pool.workers()]
    assert [now - then for then, now in zip(before, after, strict=True)] == [20, 20, 20]
    answer = pool.at[1].post("/api/batch/reset", json={"env_ids": env_ids, "seeds": list(range(100, 160))})
    assert [info["seed"] for info in answer.json()["infos"]] == list(range(100, 160))
    answer = pool.at[2].post("/api/batch/close", json={"env_ids": env_ids})
    assert answer.json() == {"closed": 60, "errors": []}
    assert [worker["live_envs"] for worker in pool.workers()] == before


def test_a_batch_step_answers_each_position_for_itself_over_all_workers(pool: Pool) -> None:
    a, b, c = on_each(pool, seed=1)
    ids = [a, "nobody", b, a, unknown_id(pool, 1), c, b, c, a]
    seqs = [0, 0, 0, 1, 0, 7, 0, 0, 0]
    answer = (
        pool.at[1]
        .post("/api/batch/step", json={"env_ids": ids, "actions": ["right"] * len(ids), "seqs": seqs})
        .json()
    )
    codes = {error["index"]: error["code"] for error in answer["errors"]}
    assert codes == {
        1: "environment_not_found",
        4: "environment_not_found",
        5: "sequence_gap",
    }
    assert {error["index"]: error.get("env_id") for error in answer["errors"]}[4] == ids[4]
    assert answer["errors"][2]["expected_seq"] == 0
    steps = [None if info is None else info["num_steps"] for info in answer["infos"]]
    # The second item of an environment follows its first; a repeated one is answered as before.
    assert steps == [1, None, 1, 2, None, None, 1, 1, 1]
    failed = [steps_taken is None for steps_taken in steps]
    for column in ("observations", "rewards", "terminations", "truncations"):
        assert [value is None for value in answer[column]] == failed
    assert answer["observations"][2] == answer["observations"][6]


def test_a_batch_gives_what_single_calls_give(pool: Pool, server: ServerProcess) -> None:
    env_ids = initialize_many(pool.any, 12, env_kwargs={})
    body = {"env_ids": env_ids, "actions": ["right", "down"] * 6}
    got = pool.at[0].post("/api/batch/step", json=body).json()
    with httpx.Client(base_url=server.url, timeout=HANG_S) as alone:
        alone_ids = [initialize(alone, seed=seed, env_kwargs={}) for seed in range(12)]
        single = [step(alone, i, a).json() for i, a in zip(alone_ids, ["right", "down"] * 6, strict=True)]
    assert got["errors"] == []
    assert got["observations"] == [answer["observation"] for answer in single]
    assert got["rewards"] == [answer["reward"] for answer in single]
    assert got["terminations"] == [answer["terminated"] for answer in single]
    assert got["infos"] == [answer["info"] for answer in single]


def test_different_kinds_with_arguments_of_their_own_are_made_in_order(pool: Pool) -> None:
    names = ["frozen_lake", "countdown", "no_such_env", "frozen_lake", "sokoban", "countdown"]
    kwargs: list[dict[str, Any]] = [{}, {}, {}, {"wrong": 1}, {"dim_room": [6, 6], "num_boxes": 1}, {}]
    answer = (
        pool.at[0]
        .post(
            "/api/batch/initialize", json={"env_names": names, "env_kwargs": kwargs, "seeds": list(range(6))}
        )
        .json()
    )
    assert {e["index"]: e["code"] for e in answer["errors"]} == {
        2: "unknown_env_name",
        3: "invalid_env_arguments",
    }
    made = [
        None if env_id is None else pool.any.get(f"/api/environment/{env_id}").json()
        for env_id in answer["env_ids"]
    ]
    assert [state and state["env_name"].split("/")[1].split("-")[0] for state in made] == [
        "frozen_lake",
        "countdown",
        None,
        None,
        "sokoban",
        "countdown",
    ]
    assert [state and state["seed"] for state in made] == [0, 1, None, None, 4, 5]


def test_an_empty_batch_is_answered(pool: Pool) -> None:
    assert pool.any.post("/api/batch/close", json={"env_ids": []}).json() == {"closed": 0, "errors": []}
    answer = pool.any.post("/api/batch/initialize", json={"env_name": "frozen_lake", "num_envs": 0}).json()
    assert answer["env_ids"] == []


def test_options_that_all_items_share_reach_all_workers(pool: Pool) -> None:
    env_ids = on_each(pool, env_name=GATED)
    for options in ({"x": 1}, [{"x": 1}, None, {"y": 2}], None):
        answer = pool.at[0].post("/api/batch/reset", json={"env_ids": env_ids, "options": options}).json()
        assert answer["errors"] == []
    wide = {"text": "x" * 200_000}
    # Sent once to each worker and not once for each item, which would be more than a body may have.
    many = initialize_many(pool.at[0], 300, env_name=GATED)
    answer = pool.at[0].post("/api/batch/reset", json={"env_ids": many, "options": wide}).json()
    assert answer["errors"] == []


def test_a_batch_of_resets_that_arrives_again_takes_no_step_away_on_any_worker(pool: Pool) -> None:
    env_ids = on_each(pool, env_name="frozen_lake")
    wanted, sent = {"env_ids": env_ids, "seeds": [4] * len(env_ids)}, {"X-Operation-Id": "once"}
    first = pool.at[0].post("/api/batch/reset", json=wanted, headers=sent).json()
    pool.any.post("/api/batch/step", json={"env_ids": env_ids, "actions": ["right"] * len(env_ids)})
    again = pool.at[1].post("/api/batch/reset", json=wanted, headers=sent).json()
    assert again == first
    assert {state_of(pool, env_id)["seq"] for env_id in env_ids} == {1}


def test_an_action_that_cannot_be_sent_on_fails_alone(pool: Pool) -> None:
    env_ids = initialize_many(pool.any, 30)
    actions = ['"right"'] * 30
    actions[4] = actions[17] = "[" * 600 + "]" * 600
    body = f'{{"env_ids":{json.dumps(env_ids)},"actions":[{",".join(actions)}]}}'
    for client in pool.at:
        answer = client.post("/api/batch/step", content=body)
        assert answer.status_code == 200, answer.text
        assert {e["index"]: e["code"] for e in answer.json()["errors"]} == {
            4: "invalid_request",
            17: "invalid_request",
        }


# --- forwarded calls ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("render", "text/plain"),
        ("render?mode=ansi", "text/plain"),
        ("render?mode=svg", "image/svg+xml"),
        ("render?mode=png", "image/png"),
        ("trajectory", "application/json"),
        ("action-space", "application/json"),
        ("task-prompt", "application/json"),
        ("allow-parallel-tool-call", "application/json"),
        ("tools-schema-openai", "application/json"),
        ("tools-schema-anthropic", "application/json"),
    ],
)
def test_a_look_at_an_environment_is_the_same_from_everywhere(pool: Pool, path: str, media_type: str) -> None:
    env_id = initialize_at(pool.at[0], seed=5)
    step(pool.at[0], env_id)
    answers = [client.get(f"/api/environment/{env_id}/{path}") for client in pool.at]
    assert [answer.status_code for answer in answers] == [200] * WORKERS
    assert len({answer.content for answer in answers}) == 1
    assert {answer.headers["content-type"].split(";")[0] for answer in answers} == {media_type}
    assert len({answer.headers["content-type"] for answer in answers}) == 1


def test_errors_are_the_same_from_everywhere(pool: Pool, problem: Problem) -> None:
    env_id = initialize_at(pool.at[0], seed=5)
    closed = initialize_at(pool.at[0])
    pool.at[0].post(f"/api/environment/{closed}/close")
    ended = initialize_at(pool.at[0], env_kwargs={**LASTING, "max_steps": 1})
    step(pool.at[0], ended)
    cases: list[tuple[str, str, Any, int, str]] = [
        ("POST", f"{env_id}/step", {"action": "x", "seq": 4}, 409, "sequence_gap"),
        ("POST", f"{env_id}/step", {"act": "x"}, 422, "invalid_request"),
        ("POST", f"{env_id}/step", [1], 400, "malformed_body"),
        ("POST", f"{ended}/step", {"action": "right"}, 409, "episode_ended"),
        ("POST", f"{closed}/step", {"action": "right"}, 404, "environment_closed"),
        ("POST", f"{unknown_id(pool, 0)}/close", {}, 404, "environment_not_found"),
        ("GET", f"{unknown_id(pool, 0)}", None, 404, "environment_not_found"),
        ("GET", f"{env_id}/render?mode=gif", None, 422, "render_mode_unsupported"),
    ]
    for method, path, body, status, code in cases:
        found = []
        for client in pool.at:
            answer = client.request(method, f"/api/environment/{path}", json=body)
            found.append(problem(answer, status, code))
        assert found[1:] == found[:-1], path


def test_a_forwarded_request_keeps_its_id(pool: Pool) -> None:
    env_id = initialize_at(pool.at[0])
    for client in pool.at:
        answer = client.get(f"/api/environment/{env_id}", headers={"X-Request-ID": "mine-1"})
        assert answer.headers["x-request-id"] == "mine-1"


@pytest.mark.parametrize("env_id", ["..", ".", "a b", "%", "ä", "x?y", "x#y", "%2e%2e", "a+b&c=d", "0" * 128])
def test_strange_ids_are_forwarded_as_they_are(pool: Pool, problem: Problem, env_id: str) -> None:
    path = "/api/environment/" + "".join(f"%{byte:02X}" for byte in env_id.encode()) + "/close"
    for client in pool.at:
        assert problem(client.post(path), 404, "environment_not_found")["env_id"] == env_id


def test_a_head_request_is_answered_without_a_body_from_everywhere(pool: Pool) -> None:
    env_id = initialize_at(pool.at[0])
    for client in pool.at:
        answer = client.head(f"/api/environment/{env_id}/trajectory")
        assert (answer.status_code, answer.content) == (200, b"")
        assert int(answer.headers["content-length"]) > 0


def test_a_call_that_was_forwarded_once_is_not_forwarded_again(pool: Pool, problem: Problem) -> None:
    env_id = initialize_at(pool.at[0])
    hop = {"X-Env-Hop": "1"}
    assert pool.at[0].get(f"/api/environment/{env_id}", headers=hop).status_code == 200
    for index in others(pool, 0):
        answer = pool.at[index].get(f"/api/environment/{env_id}", headers=hop)
        assert problem(answer, 421, "moved")["slot"] == slot_of(env_id)


def test_forwarded_calls_are_counted(pool: Pool) -> None:
    env_id = initialize_at(pool.at[0])

    def count() -> float:
        lines = pool.at[1].get("/metrics").text.splitlines()
        name = 'verl_agent_env_forwarded_total{route="/api/environment/{env_id}/trajectory"}'
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    before = count()
    for client in pool.at:
        client.get(f"/api/environment/{env_id}/trajectory")
    assert count() == before + 1


def test_a_run_is_closed_on_every_worker(pool: Pool) -> None:
    env_ids = on_each(pool, run_id="run-1") + initialize_many(pool.any, 9, run_id="run-1")
    other = initialize(pool.any, run_id="run-2")
    answer = pool.at[2].post("/api/batch/close", json={"run_id": "run-1"})
    assert answer.json() == {"closed": 12, "errors": []}
    assert {step(pool.any, env_id).json()["code"] for env_id in env_ids} == {"environment_closed"}
    assert step(pool.any, other).status_code == 200
    assert pool.at[0].post("/api/batch/close", json={"run_id": "run-1"}).json()["closed"] == 0


@pytest.mark.parametrize("path", ["/api/environment/initialize", "/api/batch/initialize"])
def test_one_idempotency_key_makes_one_environment_wherever_it_is_used(pool: Pool, path: str) -> None:
    body: dict[str, Any] = {"env_name": "frozen_lake"}
    if "batch" in path:
        body["num_envs"] = 5
    for index in range(WORKERS):
        key = {"Idempotency-Key": key_for(pool, index, path)}
        with ThreadPoolExecutor(WORKERS) as threads:
            answers = list(threads.map(lambda c, k=key: c.post(path, json=body, headers=k), pool.at * 2))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.content for answer in answers}) == 1
        other = pool.at[index].post(path, json={**body, "run_id": "other"}, headers=key)
        assert other.json()["code"] == "idempotency_key_reused"


def test_bad_idempotency_keys_are_refused_by_every_worker(pool: Pool, problem: Problem) -> None:
    for key in (b"", b"a b", b"\xe9", b"x" * 300):
        for client in pool.at:
            answer = client.post(
                "/api/environment/initialize",
                json={"env_name": "frozen_lake"},
                headers=[(b"Idempotency-Key", key)],
            )
            problem(answer, 422, "invalid_request")


def test_slow_calls_on_one_worker_do_not_hold_up_quick_ones_that_are_forwarded(
    pool: Pool, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    slow = [initialize_at(pool.at[0], GATED) for _ in range(80)]
    quick = initialize_at(pool.at[0])
    with ThreadPoolExecutor(len(slow)) as threads:
        waiting = [
            threads.submit(step, pool.at[1], env_id, {"gate": str(gate), "entered": str(tmp_path / env_id)})
            for env_id in slow
        ]
        # As many as a worker has threads; the others wait for one of these.
        eventually(lambda: len(list(tmp_path.iterdir())) == 64, what="all threads at work")
        # The gate is still shut.
        assert step(pool.at[1], quick).status_code == 200
        gate.touch()
        assert {done.result().status_code for done in waiting} == {200}


# --- a worker ends -----------------------------------------------------------------------------------------


def test_a_killed_worker_is_replaced_with_nobody_refused_and_only_its_environments_lost(
    start_pool: StartPool, problem: Problem
) -> None:
    pool = start_pool()
    lost, kept, also_kept = on_each(pool)
    old = pool.kill(0)
    # To its own address: the connection waits until the next one has taken its place.
    assert initialize_at(pool.at[0])
    assert not is_running(old)
    for client in pool.at:
        assert problem(step(client, lost), 410, "environment_lost")["env_id"] == lost
        assert step(client, kept).status_code == 200
        assert step(client, also_kept).status_code == 200
    for verb in ("close", "reset"):
        problem(pool.any.post(f"/api/environment/{lost}/{verb}"), 410, "environment_lost")
    answer = pool.any.post(
        "/api/batch/step", json={"env_ids": [kept, lost, also_kept], "actions": ["left"] * 3}
    )
    assert [(e["index"], e["code"]) for e in answer.json()["errors"]] == [(1, "environment_lost")]
    problem(pool.any.get(f"/api/environment/{unknown_id(pool, 1)}"), 404, "environment_not_found")
    assert len({worker["pid"] for worker in pool.workers()} - {old}) == WORKERS


def test_calls_in_flight_at_a_worker_that_is_killed_fail_with_a_typed_error_and_no_others(
    start_pool: StartPool, tmp_path: Path
) -> None:
    pool = start_pool()
    gate = tmp_path / "gate"
    slow, kept = initialize_at(pool.at[0], GATED), initialize_at(pool.at[1])
    hold = {"entered": str(tmp_path / "entered"), "gate": str(gate)}
    with ThreadPoolExecutor(2) as threads:
        single = threads.submit(step, pool.at[1], slow, hold)
        eventually((tmp_path / "entered").exists, what="the step")
        batch = threads.submit(
            pool.at[2].post, "/api/batch/step", json={"env_ids": [kept, slow], "actions": ["left", hold]}
        )
        eventually(lambda: state_of(pool, kept)["seq"] == 1, what="the batch")
        pool.kill(0)
        gate.touch()
        # Both were sent again, to the worker that has taken its place.
        assert single.result().json()["code"] == "environment_lost"
        answer = batch.result().json()
    assert [(e["index"], e["code"]) for e in answer["errors"]] == [(1, "environment_lost")]
    assert answer["infos"][0]["num_steps"] == 1


def test_batches_go_on_while_workers_are_killed_one_after_the_other(start_pool: StartPool) -> None:
    pool = start_pool()
    env_ids = initialize_many(pool.any, 90)
    owners = Ring(pool.addresses).assignments
    gone: set[str] = set()
    for index in range(WORKERS):
        pool.kill(index)
        gone.add(pool.addresses[index])

        def codes() -> dict[str | None, set[str]]:
            answer = pool.any.post(
                "/api/batch/step", json={"env_ids": env_ids, "actions": ["left"] * len(env_ids)}
            ).json()
            failed = {error["index"]: error["code"] for error in answer["errors"]}
            found: dict[str | None, set[str]] = {}
            for position, env_id in enumerate(env_ids):
                found.setdefault(owners[slot_of(env_id)], set()).add(failed.get(position, ""))
            return found

        wanted = {a: {"environment_lost"} if a in gone else {""} for a in pool.addresses}
        assert codes() == wanted
    assert len(initialize_many(pool.any, 9)) == 9


def test_a_hung_worker_fails_its_own_items_only_and_in_time(start_pool: StartPool, problem: Problem) -> None:
    pool = start_pool("--peer-timeout-s", "3")
    env_ids = on_each(pool)
    asked = pool.at[1]
    with pool.hung(0), ThreadPoolExecutor(4) as threads:
        body = {"env_ids": env_ids, "actions": ["left"] * 3}
        batch = threads.submit(asked.post, "/api/batch/step", json=body)
        single = threads.submit(step, asked, env_ids[0])
        three = {"env_name": "frozen_lake", "seeds": [1, 2, 3]}
        made = threads.submit(asked.post, "/api/batch/initialize", json=three)
        run = threads.submit(asked.post, "/api/batch/close", json={"run_id": "r"})
        assert len(pool.workers(asked)) == WORKERS - 1
        answer = batch.result().json()
        assert [(e["index"], e["code"], e["may_have_run"]) for e in answer["errors"]] == [
            (0, "worker_unreachable", True)
        ]
        assert answer["errors"][0]["address"] == pool.addresses[0]
        assert [info and info["num_steps"] for info in answer["infos"]] == [None, 1, 1]
        problem(single.result(), 503, "worker_unreachable")
        assert [e["code"] for e in made.result().json()["errors"]] == ["worker_unreachable"]
        assert sum(env_id is not None for env_id in made.result().json()["env_ids"]) == 2
        problem(run.result(), 503, "worker_unreachable")
    eventually(lambda: len(pool.workers(pool.at[1])) == WORKERS)


def test_nobody_waits_for_a_hung_worker_longer_than_for_a_sign_of_life(
    start_pool: StartPool, problem: Problem
) -> None:
    pool = start_pool()
    env_ids = on_each(pool)
    asked = pool.at[1]
    with pool.hung(0), ThreadPoolExecutor(3) as threads:
        body = {"env_ids": env_ids, "actions": ["left"] * 3}
        batch = threads.submit(asked.post, "/api/batch/step", json=body, timeout=120)
        single = threads.submit(
            asked.post, f"/api/environment/{env_ids[0]}/step", json={"action": "left"}, timeout=120
        )
        run = threads.submit(asked.post, "/api/batch/close", json={"run_id": "r"}, timeout=120)
        assert [(e["index"], e["code"]) for e in batch.result().json()["errors"]] == [
            (0, "worker_unreachable")
        ]
        problem(single.result(), 503, "worker_unreachable")
        problem(run.result(), 503, "worker_unreachable")
        for answer in (batch, single, run):
            assert waits.PEER_LOOK_S < answer.result().elapsed.total_seconds() < waits.MAX_WAIT_S
    eventually(lambda: len(pool.workers(pool.at[1])) == WORKERS)


def test_silence_says_nothing_while_the_supervisor_stood_still_itself() -> None:
    now = 100.0
    standstill = Standstill(8.0, lambda: now)

    def turns(seconds: float) -> list[bool]:
        nonlocal now
        told = []
        for _ in range(int(seconds)):
            now += 1.0
            told.append(standstill.was_lately())
        return told

    # The workers' own standstill does not hold it up.
    assert turns(20.0) == [False] * 20
    now += 60.0
    assert standstill.was_lately()
    # Half of the time that they have anyway: they had no turn either.
    assert turns(8.0) == [True] * 3 + [False] * 5


# --- signals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_ends_all_processes_in_good_order(start_pool: StartPool, signal_number: int) -> None:
    pool = start_pool("--shutdown-grace-s", str(int(NEVER_S)))
    on_each(pool)
    pids = pool.pids()
    # There is nothing to wait for.
    assert pool.server.stop(signal_number) == 0
    assert not any(map(is_running, pids))
    assert not [record for record in pool.server.records() if record["level"] in ("error", "critical")]


def test_running_calls_are_carried_out_before_the_pool_ends(start_pool: StartPool, tmp_path: Path) -> None:
    pool = start_pool()
    slow = initialize_at(pool.at[0], GATED)
    hold = {"entered": str(tmp_path / "entered"), "gate": str(tmp_path / "gate")}
    with ThreadPoolExecutor(1) as threads:
        # Forwarded: two workers are at it.
        running = threads.submit(step, pool.at[1], slow, hold)
        eventually((tmp_path / "entered").exists, what="the step")
        other = pool.pid(2)
        pool.server.process.send_signal(signal.SIGTERM)
        eventually(lambda: not is_running(other), what="the end of the idle worker")
        # Who calls a worker that is gone is refused at once, though its neighbours are still there.
        with pytest.raises(httpx.ConnectError):
            pool.at[2].get("/healthz")
        (tmp_path / "gate").touch()
        answer = running.result()
    assert answer.status_code == 200, answer.text
    assert pool.server.wait() == 0


def test_calls_that_outlast_the_grace_are_told_and_workers_end_themselves(
    start_pool: StartPool, tmp_path: Path
) -> None:
    pool = start_pool("--shutdown-grace-s", "1")
    slow = initialize_at(pool.at[0], GATED)
    hold = {"entered": str(tmp_path / "entered"), "gate": str(tmp_path / "gate")}
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(step, pool.at[0], slow, hold)
        eventually((tmp_path / "entered").exists, what="the step")
        pool.server.process.send_signal(signal.SIGTERM)
        assert running.result().json()["code"] == "shutting_down"
        (tmp_path / "gate").touch()
    assert pool.server.wait() == 0
    assert "SIGKILL" not in "".join(pool.server.lines)


def test_signals_that_would_change_the_workers_change_nothing(start_pool: StartPool) -> None:
    pool = start_pool()
    env_ids, pids = on_each(pool), pool.pids()
    for signal_number in (signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR2, signal.SIGWINCH):
        pool.server.process.send_signal(signal_number)
    warnings = ("reloading is not supported", "the number of workers is fixed")
    eventually(
        lambda: all(sum(text in line for line in pool.server.lines) == 2 for text in warnings),
        what="warnings for HUP, USR2, TTIN and TTOU",
    )
    # A terminal that hangs up tells every process.
    for pid in pids:
        os.kill(pid, signal.SIGHUP)
    assert pool.pids() == pids
    assert all(step(pool.any, env_id).status_code == 200 for env_id in env_ids)
    assert pool.server.stop() == 0


def test_workers_end_with_their_supervisor_and_free_their_ports(start_pool: StartPool) -> None:
    pool = start_pool()
    pids = pool.pids()
    pool.server.process.kill()
    eventually(lambda: not any(map(is_running, pids)), what="the end of all workers")
    for address in [*pool.addresses, f"127.0.0.1:{pool.server.port}"]:
        host, _, port = address.rpartition(":")
        with socket.create_server((host, int(port))):
            pass


def test_all_that_a_pool_writes_is_json(start_pool: StartPool) -> None:
    pool = start_pool()
    old = pool.kill(0)
    eventually(lambda: any(str(old) in line for line in pool.server.lines), what="the news of its end")
    pool.server.process.send_signal(signal.SIGHUP)
    initialize_at(pool.at[0])
    pool.server.stop()
    # The first line is for the person at the terminal.
    assert all(line.startswith("{") for line in pool.server.lines[1:]), pool.server.lines
    assert "gunicorn.error" in {record["logger"] for record in pool.server.records()}


# --- starting ----------------------------------------------------------------------------------------------


def refusal(*arguments: str, **variables: str) -> tuple[int, list[str]]:
    """Exit code and lines of a server that does not come up."""
    done = cli("serve", *arguments, variables=variables)
    return done.returncode, done.stderr.splitlines()


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody else listens on; the one below it is free."""
    _, second = free_ports(2)
    with socket.create_server(("127.0.0.1", second)):
        yield second


def test_a_port_in_use_is_said_in_one_sentence(taken: int) -> None:
    for option, port, before in (("--port", taken, ()), ("--worker-port", taken - 1, ("--port", "0"))):
        code, lines = refusal(*before, "--workers", "2", option, str(port))
        assert code == 1
        assert len(lines) == 1, lines
        assert f"127.0.0.1:{taken}" in lines[0]
        assert "in use" in lines[0]
        assert option in lines[0]


def test_ports_beyond_the_last_are_said_in_one_sentence() -> None:
    code, lines = refusal("--port", "0", "--workers", "4", "--worker-port", "65534")
    assert (code, len(lines)) == (1, 1)


def test_workers_listen_where_they_are_told(start_pool: StartPool) -> None:
    ports = free_ports(2)
    pool = start_pool("--worker-port", str(ports[0]), workers=2)
    assert pool.addresses == [f"127.0.0.1:{port}" for port in ports]


def test_on_ipv6_workers_reach_each_other(start_server: StartServer) -> None:
    if not socket.has_ipv6 or not _has_ipv6():
        pytest.skip("this machine has no IPv6")
    for host in ("::1", "::"):
        server = start_server("--workers", "2", "--host", host)
        server.url = f"http://[::1]:{server.port}"
        pool = Pool(server)
        env_id = initialize_at(pool.at[0])
        assert all(step(client, env_id).status_code == 200 for client in pool.at)
        pool.close()
        assert server.stop() == 0


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def test_tokens_are_asked_for_by_every_worker_and_do_not_get_in_the_workers_way(
    start_server: StartServer, problem: Problem
) -> None:
    server = start_server("--workers", "2", "--auth-token", "one", "--auth-token", "two")
    pool = Pool(server)
    known = {"Authorization": "Bearer two"}
    for client in pool.at:
        problem(client.post("/api/batch/close", json={"run_id": "r"}), 401, "unauthorized")
        problem(client.get("/internal/worker"), 401, "unauthorized")
        client.headers.update(known)
    env_ids = on_each_with(pool, known)
    for env_id in env_ids:
        for client in pool.at:
            assert step(client, env_id).status_code == 200
    body = {"env_ids": env_ids, "actions": ["left"] * len(env_ids)}
    for client in pool.at:
        assert client.post("/api/batch/step", json=body).json()["errors"] == []
        assert len(pool.workers(client)) == 2
    assert pool.at[0].post("/api/batch/close", json={"run_id": "r"}).json()["closed"] == len(env_ids)
    pool.close()


def on_each_with(pool: Pool, headers: dict[str, str]) -> list[str]:
    pool.any.headers.update(headers)
    return on_each(pool, run_id="r")
