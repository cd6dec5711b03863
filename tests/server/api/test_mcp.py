"""``/mcp``: the environments of a server, or of all its workers, for MCP clients."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import ImageContent, TextContent

from tests.conftest import ServerProcess, StartServer
from tests.waiting import HANG_S
from verl_agent_env.config import ServerSettings
from verl_agent_env.server import create_app
from verl_agent_env.server.api.mcp import McpRoute

ROOM = {"dim_room": [6, 6], "num_boxes": 1}


async def play(client: Client) -> str:
    """Start an environment, act in it in both ways, look; its id."""
    begun = await client.call_tool(
        "start_environment", {"env_name": "sokoban", "seed": 3, "env_kwargs": ROOM}
    )
    env_id = begun.structured_content["env_id"]
    by_tool = await client.call_tool("act", {"env_id": env_id, "tool": "push_left", "arguments": {}})
    assert by_tool.structured_content["info"]["num_steps"] == 1
    by_word = await client.call_tool("act", {"env_id": env_id, "text": "<answer>up</answer>"})
    assert by_word.structured_content["info"]["num_steps"] == 2
    looked = await client.call_tool("look", {"env_id": env_id})
    assert looked.structured_content["seq"] == 2
    assert looked.content == by_word.content[:1]
    return str(env_id)


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_clients_of_both_protocols_play(server: ServerProcess, mode: str) -> None:
    async with Client(f"{server.url}/mcp", mode=mode) as client:
        env_id = await play(client)
        assert not (await client.call_tool("close_environment", {"env_id": env_id})).is_error
        gone = await client.call_tool("look", {"env_id": env_id})
        assert (gone.is_error, gone.structured_content["code"]) == (True, "environment_closed")


async def test_listing_names_environments_and_shows_the_arguments_of_one(server: ServerProcess) -> None:
    async with Client(f"{server.url}/mcp") as client:
        listed = (await client.call_tool("list_environments", {})).content[0]
        assert isinstance(listed, TextContent)
        assert "verl_env/countdown-v0: " in listed.text
        described = (await client.call_tool("list_environments", {"env_name": "sokoban"})).content[0]
        assert isinstance(described, TextContent)
        assert "dim_room" in described.text
        assert (await client.call_tool("list_environments", {"env_name": "nothing"})).is_error


async def test_pictures_are_mcp_pictures(server: ServerProcess) -> None:
    async with Client(f"{server.url}/mcp") as client:
        kwargs = {**ROOM, "observation_mode": "image"}
        begun = await client.call_tool("start_environment", {"env_name": "sokoban", "env_kwargs": kwargs})
        pictures = [block for block in begun.content if isinstance(block, ImageContent)]
        assert [picture.mime_type for picture in pictures] == ["image/png"]


@pytest.mark.parametrize(
    ("tool", "arguments", "code"),
    [
        ("start_environment", {"env_name": "sokobna"}, "unknown_env_name"),
        (
            "start_environment",
            {"env_name": "sokoban", "env_kwargs": {"num_boxes": -1}},
            "invalid_env_arguments",
        ),
        ("start_environment", {}, "invalid_request"),
        ("act", {"env_id": "000-" + "0" * 32, "text": "up"}, "environment_not_found"),
        ("look", {"env_id": "../../api/cluster"}, "invalid_request"),
        ("close_environment", {"env_id": "x", "more": 1}, "invalid_request"),
    ],
)
async def test_errors_are_results_with_their_code(
    server: ServerProcess, tool: str, arguments: dict[str, object], code: str
) -> None:
    async with Client(f"{server.url}/mcp") as client:
        result = await client.call_tool(tool, arguments)
    assert result.is_error
    assert result.structured_content["code"] == code


async def test_any_worker_of_a_pool_reaches_every_environment(start_server: StartServer) -> None:
    pool = start_server("--workers", "2")
    async with Client(f"{pool.url}/mcp") as client:
        env_ids = [await play(client) for _ in range(6)]
    async with Client(f"{pool.url}/mcp", mode="legacy") as other:
        for env_id in env_ids:
            assert not (await other.call_tool("close_environment", {"env_id": env_id})).is_error


async def test_token_is_asked_for(start_server: StartServer) -> None:
    guarded = start_server("--auth-token", "the-token")
    async with httpx.AsyncClient(timeout=HANG_S) as plain:
        answer = await plain.post(f"{guarded.url}/mcp", json={})
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    headers = {"Authorization": "Bearer the-token"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as known,
        Client(streamable_http_client(f"{guarded.url}/mcp", http_client=known)) as client,
    ):
        await play(client)


async def test_holders_of_tokens_see_their_own_environments_and_do_what_they_may(
    start_server: StartServer, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("alice run alice-token\nalice read alice-reader\nbob run bob-token\n")
    server = start_server("--auth-file", str(tokens))
    async with AsyncExitStack() as stack:
        clients = {}
        for token in ("alice-token", "alice-reader", "bob-token"):
            headers = {"Authorization": f"Bearer {token}"}
            known = await stack.enter_async_context(httpx2.AsyncClient(headers=headers, timeout=60))
            transport = streamable_http_client(f"{server.url}/mcp", http_client=known)
            clients[token] = await stack.enter_async_context(Client(transport))
        env_id = await play(clients["alice-token"])
        seen = {
            token: (await client.call_tool("look", {"env_id": env_id})).structured_content
            for token, client in clients.items()
        }
        refused = await clients["alice-reader"].call_tool("start_environment", {"env_name": "frozen_lake"})
    codes = {token: (content or {}).get("code", "") for token, content in seen.items()}
    assert codes == {"alice-token": "", "alice-reader": "", "bob-token": "environment_not_found"}
    assert (refused.structured_content or {})["code"] == "insufficient_scope"


async def test_page_of_another_site_is_refused(server: ServerProcess) -> None:
    async with httpx.AsyncClient(timeout=HANG_S) as browser:
        answer = await browser.post(f"{server.url}/mcp", json={}, headers={"Origin": "https://evil.example"})
    assert (answer.status_code, answer.json()["code"]) == (403, "origin_not_allowed")


async def test_without_the_extra_the_answer_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    transport = httpx.ASGITransport(create_app(ServerSettings()))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=HANG_S) as client:
        answer = await client.post("/mcp", json={})
    assert answer.status_code == 422
    assert "pip install 'verl-agent-env[mcp]'" in answer.json()["detail"]


async def test_start_that_fails_is_told_and_the_next_request_starts_again() -> None:
    app = create_app(ServerSettings())
    failures = [OSError("no more threads"), ImportError("half an SDK")]

    def load() -> Any:
        if failures:
            raise failures.pop()
        return lambda *_: Manager()

    route = McpRoute(app.operations, 1000, load)
    for expected in (ImportError, OSError):
        with pytest.raises(expected):
            await asyncio.wait_for(route({}, _nothing, _nothing), 60)
    await asyncio.wait_for(route({}, _nothing, _nothing), 60)
    await route.aclose()


class Manager:
    """Serves whatever it is asked."""

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        yield

    async def handle_request(self, scope: Any, receive: Any, send: Any) -> None:
        """Say nothing."""


async def _nothing(*_: Any) -> Any:
    return None
