"""Calls from one worker to another over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from verl_agent_env.server.cluster.http_peers import HttpPeers
from verl_agent_env.server.cluster.peers import WORKER_PATH

CONNECTIONS = 2


class BusyWorker:
    """A worker whose calls last until they are released, and that answers at once whether it is there."""

    def __init__(self) -> None:
        self.address = ""
        self.begun = 0
        self.released = asyncio.Event()
        self.asked = asyncio.Event()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == WORKER_PATH:
            self.asked.set()
        else:
            self.begun += 1
            await self.released.wait()
        return web.Response()


@pytest.fixture
async def worker() -> AsyncIterator[BusyWorker]:
    worker = BusyWorker()
    runner = web.ServerRunner(web.Server(worker.handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    worker.address = f"{host}:{port}"
    yield worker
    worker.released.set()
    await runner.cleanup()


async def test_calls_that_have_all_connections_do_not_keep_from_asking_whether_the_worker_is_there(
    worker: BusyWorker,
) -> None:
    peers = HttpPeers(60.0, connections_per_peer=CONNECTIONS)
    await peers.open()
    asked = asyncio.ensure_future(worker.asked.wait())
    try:
        calls = [
            asyncio.ensure_future(peers.call(worker.address, "POST", "/step")) for _ in range(CONNECTIONS + 1)
        ]
        # Were it not asked, its calls would be given up.
        await asyncio.wait([*calls, asked], return_when=asyncio.FIRST_COMPLETED, timeout=60.0)
        assert asked.done()
        assert worker.begun == CONNECTIONS
        worker.released.set()
        assert len(await asyncio.gather(*calls)) == CONNECTIONS + 1
    finally:
        asked.cancel()
        await peers.close()
