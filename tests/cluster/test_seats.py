"""Players of one episode go on after the kill of its worker: whose turn it is is known to the next one."""

from __future__ import annotations

import asyncio

from tests.cluster.conftest import StartNode
from tests.cluster.test_recorded_effects import node_of_two
from tests.pool_process import initialize, kill_owner
from tests.waiting import no_hang
from verl_agent_env.client import AsyncEnvClient

GAME = "verl_env/connect_four-v0"


async def test_two_clients_play_to_the_end_while_workers_are_killed(start_node: StartNode) -> None:
    node = node_of_two(start_node)
    env_id = initialize(node.any, GAME, env_kwargs={"opponent": "self"})
    played: dict[int, int] = {}

    async def play(seat: int) -> float:
        async with AsyncEnvClient(node.server.url) as client:
            env = await client.attach(env_id)
            while not (view := await env.wait_for_turn(seat))["ended"]:
                assert view["turn"] == [seat]
                result = await env.step({"seat": seat, "action": str(seat + 1)})
                assert result.info["seat"] == seat
                played[view["seq"]] = seat
                if view["seq"] in (1, 4):
                    await asyncio.to_thread(kill_owner, node.any, env_id)
            return float(view["reward"])

    async with no_hang():
        assert list(await asyncio.gather(play(0), play(1))) == [1.0, -1.0]
    assert played == {seq: seq % 2 for seq in range(7)}
