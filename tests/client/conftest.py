"""Clients of real servers, closed after each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.conftest import ServerProcess, StartServer
from tests.pool_process import LASTING, Pool
from verl_agent_env.client import AsyncEnvClient, EnvClient

MakeClient = Callable[..., AsyncEnvClient]
LAKE: dict[str, Any] = {"env_name": "frozen_lake", "env_kwargs": LASTING}
"""A FrozenLake in which going left and right ends nothing."""
GATED = "slow/gated-v0"


@pytest.fixture
async def make_client(server: ServerProcess) -> AsyncIterator[MakeClient]:
    """A function that gives a client with these options, of the shared server unless a URL is given."""
    async with AsyncExitStack() as stack:
        made: list[AsyncEnvClient] = []

        def make(url: str | None = None, **options: Any) -> AsyncEnvClient:
            made.append(AsyncEnvClient(url or server.url, **options))
            stack.push_async_callback(made[-1].close)
            return made[-1]

        yield make


@pytest.fixture
def client(make_client: MakeClient) -> AsyncEnvClient:
    """A client with default options."""
    return make_client()


@pytest.fixture
def sync_client(server: ServerProcess) -> Iterator[EnvClient]:
    """A client without await."""
    with EnvClient(server.url) as made:
        yield made


@pytest.fixture
def start_pool(start_server: StartServer) -> Iterator[Callable[..., Pool]]:
    """A function that starts two workers with these options."""
    started: list[Pool] = []

    def start(*arguments: str) -> Pool:
        started.append(Pool(start_server("--workers", "2", *arguments)))
        return started[-1]

    yield start
    for pool in started:
        pool.close()
