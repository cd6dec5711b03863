"""A thousand sessions at once on one worker, four thousand in ``make deep``."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import httpx
import orjson
from websockets.asyncio.client import ClientConnection, connect

from loadtests.processes import rss_of
from tests.conftest import StartServer
from tests.depth import examples
from tests.pool_process import LASTING
from tests.waiting import HANG_S

SOCKETS = examples(1024, at_most=4096)
FIRST = 256
"""Brings in whatever the server takes once."""
AT_ONCE = 64
"""Handshakes that are under way together."""
MOST_BYTES = 24 * 1024
"""A session takes, with its environment; it is 124 KB on OpenEnv's own server."""


async def asked(socket: ClientConnection, kind: str, **data: Any) -> dict[str, Any]:
    await socket.send(orjson.dumps({"type": kind, "data": data}).decode())
    answer = orjson.loads(await socket.recv())
    assert answer["type"] == "observation", answer
    data_shown: dict[str, Any] = answer["data"]
    return data_shown


async def test_so_many_sessions_are_served_by_one_worker(start_server: StartServer) -> None:
    server = start_server()
    url = f"ws{server.url.removeprefix('http')}/openenv/frozen_lake/ws"
    sockets: list[ClientConnection] = []
    free = asyncio.Semaphore(AT_ONCE)

    async with AsyncExitStack() as stack:

        async def opened(seed: int) -> None:
            async with free:
                socket = await connect(url, proxy=None, ping_interval=None, open_timeout=HANG_S)
                stack.push_async_callback(socket.close)
                await asked(socket, "reset", seed=seed, env_kwargs=LASTING)
                await asked(socket, "step", text="<action>right</action>")
                sockets.append(socket)

        await asyncio.gather(*map(opened, range(FIRST)))
        before = rss_of(server.process.pid)
        await asyncio.gather(*map(opened, range(FIRST, SOCKETS)))
        each = (rss_of(server.process.pid) - before) / (SOCKETS - FIRST)
        answers = await asyncio.gather(
            *(asked(socket, "step", text="<action>left</action>") for socket in sockets)
        )
        async with httpx.AsyncClient(base_url=server.url, timeout=HANG_S) as client:
            metrics = (await client.get("/metrics")).text
    print(f"{each / 1024:.1f} KB a session")  # noqa: T201 - the figure of docs/wires.md
    assert len({answer["metadata"]["session_id"] for answer in answers}) == SOCKETS
    assert {answer["metadata"]["num_steps"] for answer in answers} == {2}
    [line] = [line for line in metrics.splitlines() if line.startswith("verl_agent_env_connections ")]
    assert float(line.split()[1]) >= SOCKETS
    assert each <= MOST_BYTES
