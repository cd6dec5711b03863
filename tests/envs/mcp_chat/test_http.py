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
from tests.envs.mcp_chat.forgetful import ForgetfulServer
from tests.envs.mcp_chat.support import PATIENT, PROGRAM, message, told
from tests.ports import free_port
from tests.steered import pass_time
from tests.waiting import HANG_S, eventually, until
from verl_agent_env.envs.mcp_chat.definition import ServerDefinition
from verl_agent_env.envs.mcp_chat.errors import ServerLostError, ServerStartError

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


@pytest.fixture
def forgetful() -> Iterator[ForgetfulServer]:
    server = ForgetfulServer()
    yield server
    server.close()


@pytest.mark.parametrize(
    ("status", "refusal", "shared"),
    [
        (404, None, False),
        (404, None, True),
        (404, {"code": -32001, "message": "Session not found"}, False),
        (400, {"code": -32000, "message": "Bad Request: No valid session ID provided"}, True),
        (400, {"code": -32600, "message": "Bad Request"}, False),
        (401, None, False),
        (410, {"code": -32000, "message": "Gone"}, False),
        (404, {"code": -32603, "message": "Internal error"}, False),
        (400, {"code": -32602, "message": "Invalid session ID"}, False),
        (200, {"code": -32001, "message": "Session not found"}, False),
        (200, {"code": -32000, "message": "Bad Request: Server not initialized"}, True),
    ],
)
async def test_a_forgotten_session_is_begun_anew_and_the_call_is_made_in_it(
    started: Started, forgetful: ForgetfulServer, status: int, refusal: dict[str, Any] | None, shared: bool
) -> None:
    env = await started(reached("http", forgetful.port, protocol="legacy", shared=shared))
    await env.astep(message(("echo", {"text": "before"})))
    forgetful.forget(status, refusal)
    observation, *_, info = await env.astep(message(("echo", {"text": "after"}), ("echo", {"text": "again"})))
    for text, expected in zip(told(observation), ("after", "again"), strict=True):
        assert text.endswith(expected)
        assert text.startswith("[A new session") is not shared
    assert sorted(forgetful.calls) == ["after", "again", "before"]
    assert len(forgetful.sessions) == 1
    assert info["server_failures"] >= 1
    assert info["tool_errors"] == 0
    observation, *_, info = await env.astep(message(("echo", {"text": "then"})))
    assert told(observation) == ["then"]


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (400, -32601, "no such tool"),
        (400, -32602, "no such tool"),
        (200, -32600, "no such tool"),
        (200, -32602, "no such session of the browser"),
    ],
)
async def test_an_error_of_the_call_itself_is_no_lost_session(
    started: Started, forgetful: ForgetfulServer, status: int, code: int, said: str
) -> None:
    env = await started(reached("http", forgetful.port, protocol="legacy"))
    forgetful.refuses_calls = True
    forgetful.status, forgetful.refusal = status, {"code": code, "message": said}
    sessions = set(forgetful.sessions)
    observation, *_, info = await env.astep(message(("echo", {"text": "x"})))
    assert told(observation) == [f"Error: {said}"]
    assert (info["tool_errors"], info["server_failures"]) == (1, 0)
    assert forgetful.sessions == sessions


@pytest.mark.parametrize("status", [200, 202, 302, 403, 429, 500, 503])
async def test_an_answer_that_is_no_mcp_is_a_failure_of_the_server(
    started: Started, forgetful: ForgetfulServer, status: int
) -> None:
    env = await started(reached("http", forgetful.port, protocol="legacy"))
    forgetful.refuses_calls, forgetful.status = True, status
    observation, *_, info = await env.astep(message(("echo", {"text": "x"})))
    assert "is no MCP" in told(observation)[0]
    assert (info["tool_errors"], info["server_failures"]) == (1, 1)
    forgetful.refuses_calls = False
    observation, *_, info = await env.astep(message(("echo", {"text": "y"})))
    assert told(observation) == ["y"]


async def test_a_tool_that_breaks_the_protocol_is_named(started: Started, forgetful: ForgetfulServer) -> None:
    forgetful.tools.append({"name": 5, "inputSchema": {"type": "object"}})
    with pytest.raises(ServerStartError, match=r"tools\.1\.name"):
        await started(reached("http", forgetful.port, protocol="legacy"))


async def test_a_tool_is_offered_whatever_its_schema_is(started: Started, forgetful: ForgetfulServer) -> None:
    union: list[Any] = [{"type": "object", "properties": {"a": {"type": "string"}}}, {"$ref": "#/nowhere"}]
    odd = [{"anyOf": union}, {}, {"type": "array", "items": {}}, {"$ref": "#"}, True, None]
    forgetful.tools += [{"name": f"odd_{nth}", "inputSchema": schema} for nth, schema in enumerate(odd)]
    forgetful.tools.append({"name": "bare"})
    env = await started(reached("http", forgetful.port, protocol="legacy"))
    offered = {tool.name: tool.parameters for tool in env.tools}
    assert list(offered) == ["echo", *(f"odd_{nth}" for nth in range(6)), "bare"]
    assert {schema["type"] for schema in offered.values()} == {"object"}
    assert offered["odd_0"]["anyOf"] == union
    observation, *_, info = await env.astep(message(("odd_0", {"text": "taken"})))
    assert (told(observation), info["tool_errors"]) == (["taken"], 0)


async def test_a_long_answer_comes_over_an_event_stream(started: Started, forgetful: ForgetfulServer) -> None:
    env = await started(reached("http", forgetful.port, protocol="legacy"))
    forgetful.streams = True
    observation, *_, info = await env.astep(message(("echo", {"text": "m" * 5_000_000})))
    assert told(observation)[0].startswith("mmm")
    assert (info["tool_errors"], info["server_failures"]) == (0, 0)


async def test_the_text_of_an_error_is_cut_as_an_answer_is(
    started: Started, forgetful: ForgetfulServer
) -> None:
    env = await started(reached("http", forgetful.port, protocol="legacy"), max_result_chars=100)
    forgetful.refuses_calls = True
    forgetful.status, forgetful.refusal = 400, {"code": -32602, "message": "m" * 1000}
    observation, *_ = await env.astep(message(("echo", {"text": "x"})))
    assert told(observation) == [f"Error: {'m' * 100}\n[900 more characters are not shown.]"]


async def test_a_server_that_refuses_each_new_session_is_told_and_not_asked_for_ever(
    started: Started, forgetful: ForgetfulServer
) -> None:
    env = await started(reached("http", forgetful.port, protocol="legacy"))
    forgetful.refuses_calls = True
    observation, *_, info = await env.astep(message(("echo", {"text": "x"})))
    assert "refuses the sessions" in told(observation)[0]
    assert info["server_failures"] == 1


async def test_a_forgotten_session_is_a_failure_where_failures_are_raised(
    started: Started, forgetful: ForgetfulServer
) -> None:
    env = await started(reached("http", forgetful.port, protocol="legacy"), raise_on_server_failure=True)
    forgetful.forget(404)
    with pytest.raises(ServerLostError):
        await env.astep(message(("echo", {"text": "x"})))


async def test_a_closed_port_is_tried_again_until_somebody_listens(
    started: Started, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    process = serve("http", port)
    env = await started(reached("http", port, maxRestarts=1000))
    process.kill()
    process.wait()
    step = asyncio.create_task(env.astep(message(("echo", {"text": "x"}))))
    await asyncio.sleep(0.2)
    assert not step.done()
    await asyncio.to_thread(serve, "http", port)
    observation, *_, info = await step
    assert info["server_failures"] == 1
    observation, *_ = await env.astep(message(("echo", {"text": "y"})))
    assert told(observation) == ["y"]
