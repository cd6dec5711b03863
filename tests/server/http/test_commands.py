"""Commands from clients: which sockets, which peers and which requests may bring them."""

from __future__ import annotations

import asyncio
import contextvars
import re
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from tests.conftest import ServerProcess, StartServer
from verl_agent_env.envs.commands import reason_against_commands
from verl_agent_env.server.http.commands import is_from_elsewhere, note_source, reason_of_sockets
from verl_agent_env.server.http.peer import Peer

INITIALIZE = "/api/environment/initialize"
# On a busy machine even a program that does next to nothing takes its time to start.
ALLOW = {"VERL_AGENT_ENV_MCP_ALLOW_COMMANDS": "1", "VERL_AGENT_ENV_MAX_STEP_S": "120"}
RAN = {"environment_failed", "environment_timeout"}
REFUSED = {"invalid_env_arguments"}
LOCAL = Peer("127.0.0.1", "127.0.0.1")


def verdict(peer: Peer, headers: dict[bytes, bytes]) -> bool:
    """Whether a request may name commands; whoever is from elsewhere may not."""

    def ask() -> bool:
        note_source(peer, headers)
        assert not (is_from_elsewhere() and not reason_against_commands())
        return not reason_against_commands()

    return contextvars.copy_context().run(ask)


# --- requests -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "peer",
    [LOCAL, Peer("127.0.0.9", "127.0.0.1"), Peer("::1", "::1"), Peer("::ffff:127.0.0.1", "::ffff:127.0.0.1"), Peer()],
)  # fmt: skip
@pytest.mark.parametrize("host", [b"localhost:8000", b"127.0.0.1", b"[::1]:1", None])
def test_programs_of_this_machine_may_name_commands(peer: Peer, host: bytes | None) -> None:
    assert verdict(peer, {} if host is None else {b"host": host})


@pytest.mark.parametrize(
    "peer",
    [Peer("10.0.0.9", "10.0.0.5"), Peer("10.0.0.5", "10.0.0.5"), Peer("10.0.0.9", "127.0.0.1"), Peer("127.0.0.1", "10.0.0.5"),
     Peer("", "127.0.0.1"), Peer("127.0.0.1", ""), Peer("2001:db8::1", "::1"), Peer("::ffff:10.0.0.9", "::1")],
)  # fmt: skip
def test_another_machine_may_not(peer: Peer) -> None:
    assert not verdict(peer, {b"host": b"localhost"})


@pytest.mark.parametrize(
    "headers",
    [{b"x-forwarded-for": b"127.0.0.1"}, {b"forwarded": b"for=127.0.0.1"}, {b"via": b"1.1 proxy"}, {b"x-real-ip": b""},
     {b"x-forwarded-host": b"localhost"}, {b"x-forwarded-proto": b"http"}, {b"cf-connecting-ip": b"127.0.0.1"}],
)  # fmt: skip
@pytest.mark.parametrize("peer", [LOCAL, Peer()])
def test_who_comes_through_a_proxy_may_not(peer: Peer, headers: dict[bytes, bytes]) -> None:
    assert not verdict(peer, {b"host": b"localhost", **headers})


@pytest.mark.parametrize("host", [b"env.example.org", b"10.0.0.5:8000", b"localhost.example", b"", b"\xff"])
def test_who_calls_this_machine_by_another_name_may_not(host: bytes) -> None:
    assert not verdict(LOCAL, {b"host": host})


def test_a_program_that_makes_environments_itself_may() -> None:
    assert contextvars.Context().run(reason_against_commands) == ""
    assert not contextvars.Context().run(is_from_elsewhere)


# --- sockets --------------------------------------------------------------------------------------------------


@pytest.fixture
def is_exposed() -> Iterator[Any]:
    def look() -> bool:
        return bool(reason_of_sockets())

    # Other tests of this process may listen as well; none of them does where others reach it.
    assert not look()
    yield look
    assert not look()


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")])
def test_a_socket_that_others_reach_forbids_commands(is_exposed: Any, family: int, address: str) -> None:
    with socket.socket(family) as listener:
        listener.bind((address, 0))
        assert not is_exposed()
        listener.listen()
        assert is_exposed()
        assert not verdict(LOCAL, {b"host": b"localhost"})


def test_sockets_of_this_machine_alone_forbid_nothing(is_exposed: Any, tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as first,
        socket.create_server(("::1", 0), family=socket.AF_INET6),
        socket.socket(socket.AF_UNIX) as unix,
        socket.create_connection(first.getsockname()),
    ):
        unix.bind(str(tmp_path / "socket"))
        unix.listen()
        assert not is_exposed()
        assert verdict(LOCAL, {b"host": b"localhost"})


# --- processes ------------------------------------------------------------------------------------------------


def definition(marker: Path) -> dict[str, Any]:
    """What makes an environment that runs a command; its trace is a file."""
    server = {"name": "touch", "command": "touch", "args": [str(marker)]}
    return {"env_name": "mcp_chat", "env_kwargs": {"servers": [server]}}


def is_run(client: httpx.Client, marker: Path, **headers: str) -> bool:
    """Whether the server runs a command of ours; one that refuses it says so."""
    batch = {**definition(marker), "num_envs": 2}
    answers = [
        client.post(INITIALIZE, json=definition(marker), headers=headers).json()["code"],
        *(
            e["code"]
            for e in client.post("/api/batch/initialize", json=batch, headers=headers).json()["errors"]
        ),
    ]
    ran = marker.exists()
    assert set(answers) <= (RAN if ran else REFUSED)
    marker.unlink(missing_ok=True)
    return ran


def uvicorn(*options: str) -> list[str]:
    return [sys.executable, "-m", "uvicorn", "src.verl_agent_env.app:app", *options]


WITH_A_SOCKET = """
import os, socket, sys
listener = socket.socket()
listener.bind(("0.0.0.0", 0))
os.set_inheritable(listener.fileno(), True)
print(f"http://0.0.0.0:{listener.getsockname()[1]}", file=sys.stderr, flush=True)
os.execv(sys.executable, [sys.executable, "-m", "uvicorn", "src.verl_agent_env.app:app", "--fd", str(listener.fileno())])
"""

EXPOSED: dict[str, list[str] | None] = {
    "uvicorn": uvicorn("--port", "0", "--host", "0.0.0.0"),
    "a socket that is handed over": [sys.executable, "-c", WITH_A_SOCKET],
    "gunicorn": [sys.executable, "-m", "gunicorn", "-b", "0.0.0.0:0", "-k", "uvicorn_worker.UvicornWorker",
                 "src.verl_agent_env.app:app"],
    "serve": None,
}  # fmt: skip


@pytest.mark.parametrize("name", EXPOSED)
def test_no_command_runs_where_others_reach_the_server(
    start_server: StartServer, tmp_path: Path, name: str
) -> None:
    server = start_server("--host", "0.0.0.0", command=EXPOSED[name], **ALLOW)
    with httpx.Client(base_url=server.url, timeout=300) as client:
        await_ready(client)
        assert not is_run(client, tmp_path / "marker")
    end = time.monotonic() + 60
    while not re.search(
        "ignoring VERL_AGENT_ENV_MCP_ALLOW_COMMANDS.* from other machines", "".join(server.lines)
    ):
        assert time.monotonic() < end, server.lines
        time.sleep(0.05)


def await_ready(client: httpx.Client) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            assert client.get("/healthz").status_code == 200
            return
        except httpx.TransportError:
            assert time.monotonic() < end
            time.sleep(0.05)


@pytest.mark.parametrize("command", [uvicorn("--port", "0"), None], ids=["uvicorn", "workers"])
def test_commands_run_for_this_machine_alone(
    start_server: StartServer, tmp_path: Path, command: list[str] | None
) -> None:
    server = start_server("--workers", "2", command=command, **ALLOW)
    with httpx.Client(base_url=server.url, timeout=300) as client:
        marker = tmp_path / "marker"
        assert is_run(client, marker)
        # Whatever uvicorn makes of them, and also at the worker that this one asks.
        for headers in (
            {"x-forwarded-for": "127.0.0.1"},
            {"via": "1.1 proxy"},
            {"forwarded": "for=127.0.0.1"},
        ):
            assert not is_run(client, marker, **headers)
    assert not is_run_by_tool(server, marker, {"x-forwarded-for": "127.0.0.1"})
    assert is_run_by_tool(server, marker, {})


def is_run_by_tool(server: ServerProcess, marker: Path, headers: dict[str, str]) -> bool:
    """As :func:`is_run`, by an MCP client."""

    async def start() -> Any:
        async with (
            httpx2.AsyncClient(headers=headers, timeout=300) as http,
            Client(streamable_http_client(f"{server.url}/mcp", http_client=http)) as client,
        ):
            return (await client.call_tool("start_environment", definition(marker))).structured_content

    code = asyncio.run(start())["code"]
    ran = marker.exists()
    assert code in (RAN if ran else REFUSED)
    marker.unlink(missing_ok=True)
    return ran


def test_a_unix_socket_is_this_machine_unless_a_proxy_stands_before_it(
    start_server: StartServer, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    announced = "import os, sys; print('http://127.0.0.1:1', file=sys.stderr, flush=True); os.execv(sys.executable, sys.argv[1:])"
    command = [sys.executable, "-c", announced, *uvicorn("--uds", str(path))]
    start_server(command=command, **ALLOW).wait_for_line("running on unix socket", 120)
    transport = httpx.HTTPTransport(uds=str(path))
    with httpx.Client(transport=transport, base_url="http://localhost", timeout=300) as client:
        assert is_run(client, tmp_path / "marker")
        assert not is_run(client, tmp_path / "marker", **{"x-real-ip": "10.0.0.9"})
        assert not is_run(client, tmp_path / "marker", host="env.example.org")
