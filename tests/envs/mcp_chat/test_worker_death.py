"""A worker that is killed takes its MCP servers with it, and all that they started."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.conftest import ServerProcess, StartServer
from tests.envs.mcp_chat.support import PROGRAM, ended, is_running
from tests.waiting import HANG_S
from verl_agent_env.envs.mcp_chat.configuration import COMMANDS_VARIABLE, CONFIG_VARIABLE

SECRET = "a-secret-of-the-operator"


@pytest.fixture
def server(start_server: StartServer, tmp_path: Path) -> ServerProcess:
    options = ["stdio", "--stubborn", "--spawn", str(tmp_path / "spawned"), "--pids", str(tmp_path / "pids")]
    probe = {
        "command": sys.executable,
        "args": [str(PROGRAM), *options],
        "env": {"PROBE_TOKEN": "${PROBE_SECRET}"},
    }
    config = tmp_path / "mcp.json"
    config.write_bytes(orjson.dumps({"mcpServers": {"probe": probe}}))
    return start_server(**{CONFIG_VARIABLE: str(config), "PROBE_SECRET": SECRET, COMMANDS_VARIABLE: "1"})


async def initialize(server: ServerProcess, **env_kwargs: Any) -> httpx.Response:
    async with httpx.AsyncClient(base_url=server.url, timeout=HANG_S) as client:
        body = {"env_name": "mcp_chat", "env_kwargs": env_kwargs}
        return await client.post("/api/environment/initialize", json=body)


def processes(tmp_path: Path) -> list[int]:
    return [int(pid) for name in ("pids", "spawned") for pid in (tmp_path / name).read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_no_process_outlives_its_worker(
    server: ServerProcess, tmp_path: Path, number: signal.Signals
) -> None:
    assert (await initialize(server, servers=["probe"])).status_code == 200
    pids = processes(tmp_path)
    assert len(pids) == 2
    assert all(map(is_running, pids))
    await asyncio.to_thread(server.stop, number)
    assert await ended(*pids)


async def test_episode_over_the_api_shows_no_secret(server: ServerProcess, tmp_path: Path) -> None:
    begun = (await initialize(server, servers=["probe"])).json()
    async with httpx.AsyncClient(
        base_url=f"{server.url}/api/environment/{begun['env_id']}", timeout=HANG_S
    ) as client:
        schema = (await client.get("/tools-schema-openai")).json()["tools_schema"]
        assert "echo" in [tool["function"]["name"] for tool in schema]
        action = '<tool_call>{"name": "variables", "arguments": {}}</tool_call>'
        taken = (await client.post("/step", json={"action": action, "seq": 0})).json()
        assert "PROBE_TOKEN=[hidden]" in taken["observation"][0]["content"]
        dies = '<tool_call>{"name": "die", "arguments": {}}</tool_call>'
        taken = (await client.post("/step", json={"action": dies, "seq": 1})).json()
        assert taken["info"]["server_failures"] == 1
        await client.post("/close")
    await asyncio.to_thread(server.stop)
    assert SECRET not in "".join(server.lines)


async def test_lost_server_is_a_typed_error_of_the_api(server: ServerProcess) -> None:
    begun = (await initialize(server, servers=["probe"], raise_on_server_failure=True)).json()
    async with httpx.AsyncClient(
        base_url=f"{server.url}/api/environment/{begun['env_id']}", timeout=HANG_S
    ) as client:
        answer = await client.post("/step", json={"action": '<tool_call>{"name": "die"}</tool_call>'})
    assert (answer.status_code, answer.json()["code"]) == (410, "environment_lost")


async def test_names_are_all_that_a_client_can_choose(start_server: StartServer) -> None:
    open_to_all = start_server("--host", "0.0.0.0", **{COMMANDS_VARIABLE: "1"})
    answer = await initialize(open_to_all, servers=[{"name": "mine", "command": "touch"}])
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_env_arguments")
