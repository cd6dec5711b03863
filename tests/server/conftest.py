"""Applications and clients in this process."""

from __future__ import annotations

import gc
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from tests.conftest import ServerProcess
from tests.server import slow_env
from tests.waiting import HANG_S
from verl_agent_env.config import HostLimits, HttpLimits, ServerSettings
from verl_agent_env.envs.catalogue.families import FAMILIES
from verl_agent_env.envs.registry import BUILT_IN, EnvSpec, Registry
from verl_agent_env.server import EnvServer, create_app

LAKE = "verl_env/frozen_lake-v1"
GATED = "slow/gated-v0"
GATED_REPLAYED = "slow/gated_replayed-v0"
"""The same, but it lives on at another worker; only of servers in processes of their own."""
RIGHT = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "move_right", "arguments": "{}"}}
    ],
}

MakeClient = Callable[..., Awaitable[httpx.AsyncClient]]
Problem = Callable[..., dict[str, Any]]


class Wire:
    """A raw connection."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=HANG_S)
        self._received = b""

    def send(self, data: bytes) -> bool:
        """Send as it is; ``False`` when the server closed the connection before it had taken all."""
        try:
            self._socket.sendall(data)
        except ConnectionError:
            return False
        return True

    def answer(self) -> tuple[int, dict[bytes, bytes], bytes]:
        """The next answer: status, headers, body."""
        while b"\r\n\r\n" not in self._received:
            self._receive()
        head, self._received = self._received.split(b"\r\n\r\n", 1)
        status, *lines = head.split(b"\r\n")
        headers = {name.lower(): value for name, value in (line.split(b": ", 1) for line in lines)}
        length = int(headers.get(b"content-length", b"0"))
        while len(self._received) < length:
            self._receive()
        body, self._received = self._received[:length], self._received[length:]
        return int(status.split()[1]), headers, body

    def read(self, size: int) -> bytes:
        """Give the next bytes that are no answer of HTTP's."""
        while len(self._received) < size:
            self._receive()
        data, self._received = self._received[:size], self._received[size:]
        return data

    def is_closed(self) -> bool:
        """Whether the server ends the connection within the time limit, with nothing more to say."""
        try:
            return self._socket.recv(1) == b""
        except ConnectionError:
            return True

    def close(self) -> None:
        """Leave."""
        self._socket.close()

    def _receive(self) -> None:
        data = self._socket.recv(65_536)
        if not data:
            raise AssertionError(f"the connection ended after {self._received!r}")
        self._received += data


def app_of(client: httpx.AsyncClient) -> EnvServer:
    """The application that an in-process client talks to."""
    transport = client._transport
    assert isinstance(transport, httpx.ASGITransport)
    assert isinstance(transport.app, EnvServer)
    return transport.app


@pytest.fixture
async def make_client() -> AsyncIterator[MakeClient]:
    """A function that gives a client of an application with these limits and settings; all are stopped in the end."""
    async with AsyncExitStack() as stack:

        async def make(
            host: dict[str, Any] | None = None, http: dict[str, Any] | None = None, **settings: Any
        ) -> httpx.AsyncClient:
            specs = (
                *BUILT_IN,
                EnvSpec(GATED, slow_env.ENTRY_POINT),
                EnvSpec("broken/gone-v0", "no_such_module:Env"),
            )
            app = create_app(
                ServerSettings(
                    host_limits=HostLimits(**(host or {})), http_limits=HttpLimits(**(http or {})), **settings
                ),
                Registry({spec.name: spec for spec in specs}, FAMILIES),
            )
            # The application collects garbage when it begins: its own, not that of all tests.
            gc.freeze()
            await stack.enter_async_context(app.router.lifespan_context(app))
            transport = httpx.ASGITransport(app)
            return await stack.enter_async_context(
                httpx.AsyncClient(transport=transport, base_url="http://server", timeout=HANG_S)
            )

        yield make


@pytest.fixture
async def client(make_client: MakeClient) -> httpx.AsyncClient:
    """A client of an application with default settings."""
    return await make_client()


@pytest.fixture
def http(server: ServerProcess) -> Iterator[httpx.Client]:
    """A client of the shared server process."""
    with httpx.Client(base_url=server.url, timeout=HANG_S) as connected:
        yield connected


@pytest.fixture
def problem() -> Problem:
    """A function that checks that an answer is a problem document of this status and code, and gives it."""

    def check(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
        found: dict[str, Any] = answer.json()
        assert (answer.status_code, found["code"]) == (status, code), found
        assert answer.headers["content-type"] == "application/problem+json"
        assert found["status"] == status
        assert found["type"] == f"urn:verl-agent-env:error:{code}"
        assert found["title"]
        assert len(found["detail"]) > 10
        assert isinstance(found["retryable"], bool)
        assert answer.headers["x-request-id"]
        if status in (429, 503):
            assert found["retryable"]
            assert int(answer.headers["retry-after"]) >= 1
        return found

    return check


@pytest.fixture
def initialize() -> Callable[..., Awaitable[str]]:
    """A function that makes an environment (a FrozenLake by default) and gives its id."""

    async def make(client: httpx.AsyncClient, env_name: str = LAKE, seed: int = 1, **request: Any) -> str:
        answer = await client.post(
            "/api/environment/initialize", json={"env_name": env_name, "seed": seed, **request}
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["env_id"])

    return make
