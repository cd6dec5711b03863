"""Sessions of other projects' clients in a whole cluster: through nginx, after a worker's death, and in a drain."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from tests.pool_process import LASTING, all_workers, drained_owner, kill_owner, owner_of
from tests.server.api.wires.openenv.client import OpenEnvSocket
from tests.server.api.wires.ors.client import OrsSession
from tests.waiting import HANG_S, eventually
from verl_agent_env.cluster.local import LocalCluster

LAKE = "frozen_lake"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("wires"), nodes=2, workers=1) as started:
        yield started


def is_settled(cluster: LocalCluster) -> bool:
    """Whether all workers are there; a busy machine may be slow to say so."""
    with contextlib.suppress(OSError):
        return cluster.is_settled()
    return False


@pytest.fixture
def http(cluster: LocalCluster) -> Iterator[httpx.Client]:
    eventually(lambda: is_settled(cluster), what="the cluster")
    with httpx.Client(base_url=cluster.url, timeout=HANG_S) as client:
        yield client


def moved(direction: str, seq: int) -> dict[str, Any]:
    return {"text": f"<action>{direction}</action>", "metadata": {"seq": seq}}


def test_a_session_survives_the_death_of_its_worker_in_the_middle_of_an_episode(
    cluster: LocalCluster, http: httpx.Client
) -> None:
    with OpenEnvSocket(cluster.url, LAKE) as first:
        session_id = first.reset(seed=1, env_kwargs=LASTING)["metadata"]["session_id"]
        first.drop()
    # Comes to the worker that holds the session, which is then both at once.
    with OpenEnvSocket(cluster.url, LAKE, f"?session_id={session_id}") as socket:
        taken = socket.step(**moved("right", 0))
        kill_owner(http, session_id)
        with pytest.raises(ConnectionClosed):
            socket.ask("state")
    with OpenEnvSocket(cluster.url, LAKE, f"?session_id={session_id}") as again:
        assert again.step(**moved("right", 0)) == taken
        assert again.step(**moved("left", 1))["observation"]["text"].startswith("P")
        assert again.state()["step_count"] == 2
        http.post(f"/api/environment/{session_id}/close")


def test_a_connection_holds_while_its_environment_moves_to_another_node(
    cluster: LocalCluster, http: httpx.Client
) -> None:
    with OpenEnvSocket(cluster.url, LAKE) as socket:
        session_id = socket.reset(seed=1, env_kwargs=LASTING)["metadata"]["session_id"]
        socket.step(**moved("right", 0))
        with drained_owner(http, session_id) as before:
            assert socket.step(**moved("left", 1))["observation"]["text"].startswith("P")
            assert owner_of(http, session_id)["address"] != before["address"]
            assert socket.state()["step_count"] == 2


def test_a_resumed_session_comes_to_the_worker_that_owns_it(
    cluster: LocalCluster, http: httpx.Client
) -> None:
    def forwarded() -> float:
        total = 0.0
        for worker in all_workers(http):
            text = httpx.get(f"http://{worker['address']}/metrics", timeout=HANG_S).text
            lines = [line for line in text.splitlines() if line.startswith("verl_agent_env_forwarded_total{")]
            total += sum(float(line.split()[-1]) for line in lines)
        return total

    for _ in range(4):
        with OpenEnvSocket(cluster.url, LAKE) as first:
            session_id = first.reset(seed=1, env_kwargs=LASTING)["metadata"]["session_id"]
            first.drop()
        before = forwarded()
        with OpenEnvSocket(cluster.url, LAKE, f"?session_id={session_id}") as second:
            second.step(**moved("right", 0))
            assert forwarded() == before


def test_a_call_of_ors_has_one_answer_also_after_the_death_of_its_worker(http: httpx.Client) -> None:
    session = OrsSession(http, LAKE)
    session.create(task_spec={"seed": 1, "env_kwargs": LASTING})
    call_id, taken = session.call("move_right")
    kill_owner(http, session.sid)
    assert session.call("move_right", call_id) == (call_id, taken)
    _, after = session.call("move_left")
    assert after["output"]["blocks"][0]["text"].startswith("P")
    assert http.get(f"/api/environment/{session.sid}").json()["seq"] == 2
    session.ask("POST", "/delete")


def test_a_session_of_ors_goes_on_in_a_drain(http: httpx.Client) -> None:
    session = OrsSession(http, LAKE)
    session.create(task_spec={"seed": 1, "env_kwargs": LASTING})
    call_id, taken = session.call("move_right")
    with drained_owner(http, session.sid):
        assert session.call("move_right", call_id) == (call_id, taken)
        assert session.call("move_left")[1]["ok"]
        assert session.ask("GET", "/prompt")[0]["text"].endswith("F\tF\tF\tG")
    session.ask("POST", "/delete")
