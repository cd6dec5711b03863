"""The measurement of the client, in small."""

from __future__ import annotations

from loadtests.bench_client import measure
from tests.conftest import ServerProcess


async def test_shared_requests_cost_less_than_plain_ones(server: ServerProcess) -> None:
    ratio = await measure(
        server.url, episodes=300, steps=2, rounds=1, think_s=0.01, pids=[server.process.pid]
    )
    assert 0 < ratio < 1
