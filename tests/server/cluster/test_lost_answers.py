"""Two workers over real sockets, one of which is behind a proxy that loses answers: nothing is done twice."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from tests.lossy_proxy import LossyProxy
from tests.pool_process import LASTING
from tests.server.served import Served
from verl_agent_env.server.cluster.identity import WorkerIdentity


class Pair:
    """The worker that is asked, and the proxy of the other one, which owns half of all slots."""

    def __init__(self, near: Served, far: Served, proxy: LossyProxy, session: aiohttp.ClientSession) -> None:
        self.near = near
        self.far = far
        self.proxy = proxy
        self._session = session

    async def post(self, path: str, body: Any, **headers: str) -> Any:
        """The answer of the worker that is asked."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"http://127.0.0.1:{self.near.port}{path}"
        async with self._session.post(url, json=body, headers=given) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    def lose(self, answers: float) -> None:
        """Lose this share of what the other worker answers."""
        self.proxy.lose_answers = answers


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    listeners = [socket.create_server(("127.0.0.1", 0), backlog=128) for _ in range(2)]
    ports = [listener.getsockname()[1] for listener in listeners]
    async with LossyProxy(ports[1]) as proxy, aiohttp.ClientSession() as session:
        pool = (f"127.0.0.1:{ports[0]}", f"127.0.0.1:{proxy.port}")
        served = [
            Served(listener=listener, identity=WorkerIdentity(address, pool, supervisor="test"))
            for listener, address in zip(listeners, pool, strict=True)
        ]
        near, far = served
        yield Pair(near, far, proxy, session)
        for one in served:
            await asyncio.to_thread(one.stop)


async def initialize(pair: Pair, count: int) -> list[str]:
    body = {"env_name": "frozen_lake", "env_kwargs": LASTING, "num_envs": count}
    env_ids: list[str] = (await pair.post("/api/batch/initialize", body))["env_ids"]
    return env_ids


@pytest.mark.parametrize("seqs", [None, [None], [0, None]], ids=["none", "nulls", "mixed"])
async def test_batches_step_each_environment_once_for_each_time_that_it_stands_in_them(
    pair: Pair, seqs: list[int | None] | None
) -> None:
    env_ids = await initialize(pair, 20)
    pair.lose(0.5)
    doubles = env_ids * 3
    for turn in range(5):
        column = None if seqs is None else [None if seq is None else 3 * turn for seq in seqs * 10] * 3
        if column is not None:
            # Only the first of a double has a number; whoever has none is known by the call.
            column[20:] = [None] * 40
        body = {"env_ids": doubles, "actions": ["right", "left", "right"] * 20, "seqs": column}
        answer = await pair.post("/api/batch/step", body)
        assert answer["errors"] == []
        steps = [info["num_steps"] for info in answer["infos"]]
        assert steps == [3 * turn + 1] * 20 + [3 * turn + 2] * 20 + [3 * turn + 3] * 20
    assert pair.proxy.lost_answers > 0


async def test_single_calls_and_resets_are_carried_out_once(pair: Pair) -> None:
    env_ids = await initialize(pair, 10)
    pair.lose(0.5)
    for turn in range(3):
        for env_id in env_ids:
            answer = await pair.post(f"/api/environment/{env_id}/step", {"action": "right"})
            assert answer["info"]["num_steps"] == turn + 1
    answer = await pair.post("/api/batch/reset", {"env_ids": env_ids * 2, "seeds": [*range(20)]})
    assert [info["seed"] for info in answer["infos"]] == [*range(20)]
    pair.lose(0)
    for env_id in env_ids:
        instance = next(
            found
            for served in (pair.near, pair.far)
            if (found := served.app.env_host.env_table.get(env_id)) is not None
        )
        assert (instance.episode, instance.seq) == (2, 0)
    assert pair.proxy.lost_answers > 0


async def test_new_environments_are_made_once(pair: Pair) -> None:
    pair.lose(0.5)
    for turn in range(5):
        headers = {"idempotency_key": f"key-{turn}"}
        body = {"env_name": "frozen_lake", "env_kwargs": LASTING}
        made = await pair.post("/api/environment/initialize", body, **headers)
        assert await pair.post("/api/environment/initialize", body, **headers) == made
        await initialize(pair, 10)
    hosts = [served.app.env_host for served in (pair.near, pair.far)]
    assert sum(len(host.env_table) for host in hosts) == 55
    assert pair.proxy.lost_answers > 0
