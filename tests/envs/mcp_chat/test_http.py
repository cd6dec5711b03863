"""Servers over streamable HTTP and SSE: sessions, deaths, returns, and secrets in addresses."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.envs.mcp_chat.conftest import Started
from tests.envs.mcp_chat.support import PATIENT, PROGRAM, message, told
from tests.ports import free_port
from tests.steered import pass_time
from tests.waiting import HANG_S, eventually, until
from verl_agent_env.envs.mcp_chat.definition import ServerDefinition
from verl_agent_env.envs.mcp_chat.errors import ServerLostError

KEY = "a-key-in-the-address"
PATHS = {"http": "/mcp", "sse": "/sse"}
Serve = Callable[[str, int], "subprocess.Popen[bytes]"]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A function that runs the test server on a port."""
    running: list[subprocess.Popen[bytes]] = []

    def run(transport: str, port: int) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), transport, str(port)], stderr=subprocess.DEVNULL
        )
        running.append(process)
        eventually(lambda: listens(port), what="the test server")
        return process

    yield run
    for process in running:
        process.kill()
        process.wait()


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def reached(transport: str, port: int, **fields: Any) -> ServerDefinition:
    url = f"http://127.0.0.1:{port}{PATHS[transport]}?key={KEY}"
    headers = {"Authorization": "Bearer a-token-in-a-header"}
    return ServerDefinition.model_validate(
        {"name": "remote", "url": url, "headers": headers, **PATIENT, **fields}
    )


@pytest.mark.parametrize("transport", PATHS)
async def test_episode_over_http(started: Started, serve: Serve, transport: str, tmp_path: Path) -> None:
    port = free_port()
    serve(transport, port)
    env = await started(reached(transport, port))
    observation, *_ = await env.astep(
        message(("meet", {}), ("meet", {}), ("fail", {}), ("echo", {"text": KEY}))
    )
    assert told(observation) == ["met", "met", "the printer is on fire", "[hidden]"]
    step = asyncio.create_task(env.astep(message(("wait", {"begun": str(tmp_path / "begun")}))))
    await until((tmp_path / "begun").exists)
    await pass_time(HANG_S)
    observation, *_ = await step
    assert "did not answer" in told(observation)[0]
    observation, *_ = await env.astep(message(("echo", {"text": "x"})))
    assert told(observation) == ["x"]


@pytest.mark.parametrize("transport", PATHS)
async def test_server_that_comes_back_is_found_again(started: Started, serve: Serve, transport: str) -> None:
    port = free_port()
    process = serve(transport, port)
    env = await started(reached(transport, port))
    process.kill()
    process.wait()
    serve(transport, port)
    observation, *_ = await env.astep(message(("echo", {"text": "x"})))
    if told(observation) != ["x"]:
        # The client learned of it by this call only.
        assert "new session" in told(observation)[0]
    observation, *_ = await env.astep(message(("echo", {"text": "y"})))
    assert told(observation) == ["y"]


@pytest.mark.parametrize("transport", PATHS)
async def test_server_that_stays_away_is_a_typed_error_without_secrets(
    started: Started, serve: Serve, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    port = free_port()
    process = serve(transport, port)
    env = await started(reached(transport, port))
    process.kill()
    process.wait()
    with pytest.raises(ServerLostError) as caught:
        await env.astep(message(("echo", {"text": "x"})))
    assert KEY not in str(caught.value) + caplog.text
    assert "a-token-in-a-header" not in caplog.text
