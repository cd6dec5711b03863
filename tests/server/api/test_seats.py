"""Players of one episode, each with a client of its own: nobody's wait holds up a worker."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tests.conftest import ServerProcess
from tests.server.conftest import LAKE, Problem
from tests.waiting import no_hang
from verl_agent_env.client import AsyncEnvClient
from verl_agent_env.errors import NotYourTurnError, UnknownSeatError

GAME = "verl_env/connect_four-v0"
SELF = {"opponent": "self"}


async def play(client: AsyncEnvClient, env_id: str, seat: int, column: int) -> tuple[float, list[str]]:
    """Play one seat to the end, always the same column; returns its reward and what it saw."""
    env = await client.attach(env_id)
    seen: list[str] = []
    while True:
        view = await env.wait_for_turn(seat)
        seen.append(view["observation"][0]["content"])
        if view["ended"]:
            return float(view["reward"]), seen
        await env.step({"seat": seat, "action": str(column)})


async def test_two_clients_play_each_other(server: ServerProcess) -> None:
    async with AsyncEnvClient(server.url) as one, AsyncEnvClient(server.url) as other, no_hang():
        env = one.make(GAME, env_kwargs=SELF)
        await env.reset()
        players = await asyncio.gather(play(one, env.env_id, 0, 1), play(other, env.env_id, 1, 2))
        await env.close()
    (won, first), (lost, second) = players
    assert (won, lost) == (1.0, -1.0)
    assert all("You have seat 0" in text and "You play X" in text for text in first)
    assert all("You have seat 1" in text and "You play O" in text for text in second)


async def test_many_who_wait_hold_up_nobody(server: ServerProcess) -> None:
    async with AsyncEnvClient(server.url) as client, no_hang():
        env = client.make(GAME, env_kwargs=SELF)
        await env.reset()
        waiting = [asyncio.create_task((await client.attach(env.env_id)).wait_for_turn(1)) for _ in range(50)]
        lake = client.make(LAKE, seed=1)
        for _ in range(3):
            await lake.reset(seed=1)
        assert not any(task.done() for task in waiting)
        await env.step({"seat": 0, "action": "1"})
        views = await asyncio.gather(*waiting)
        assert all(view["turn"] == [1] and view["seq"] == 1 for view in views)
        await env.close()
        await lake.close()


async def test_a_seat_that_is_not_to_act_is_told_and_may_act_later(server: ServerProcess) -> None:
    async with AsyncEnvClient(server.url) as client, no_hang():
        env = client.make(GAME, env_kwargs=SELF)
        await env.reset()
        with pytest.raises(NotYourTurnError) as caught:
            await env.step({"seat": 1, "action": "1"})
        assert (caught.value.turn, caught.value.env_id) == ([0], env.env_id)
        with pytest.raises(UnknownSeatError):
            await env.step({"seat": 2, "action": "1"})
        await env.step({"seat": 0, "action": "1"})
        result = await env.step({"seat": 1, "action": "1"})
        assert (result.info["seat"], result.info["num_steps"]) == (1, 2)
        await env.close()


async def test_views_are_refused_with_reasons(
    client: httpx.AsyncClient, initialize: Any, problem: Problem
) -> None:
    lake = await initialize(client, LAKE)
    assert problem(await client.get(f"/api/environment/{lake}/seat"), 422, "unknown_seat")["num_seats"] == 0
    env_id = await initialize(client, GAME, env_kwargs=SELF)
    problem(await client.get(f"/api/environment/{env_id}/seat?seat=2"), 422, "unknown_seat")
    problem(await client.get(f"/api/environment/{env_id}/seat?seat=x"), 422, "invalid_request")
    problem(await client.get(f"/api/environment/{env_id}/seat?wait_s=21"), 422, "invalid_request")
    problem(await client.get("/api/environment/000-nothing/seat"), 404, "environment_not_found")
