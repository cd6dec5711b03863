"""Servers that no one here wrote: time, fetch and git from PyPI, four from npm."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.children import ROOT, run
from tests.envs.mcp_chat.conftest import Started
from tests.envs.mcp_chat.support import PATIENT, message, told
from tests.waiting import no_hang
from verl_agent_env.envs.mcp_chat import McpChatEnv
from verl_agent_env.envs.mcp_chat.definition import ServerDefinition

NODE_PREFIX = ROOT / "out" / "mcp-servers"
NODE_PACKAGES = tuple(
    f"@modelcontextprotocol/server-{name}"
    for name in ("filesystem", "everything", "memory", "sequential-thinking")
)


def python_server(module: str, *options: str, **fields: Any) -> ServerDefinition:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module.replace('_', '-')} is not installed")
    given = {
        "name": module.rpartition("_")[2],
        "command": sys.executable,
        "args": ("-m", module, *options),
        **PATIENT,
        **fields,
    }
    return ServerDefinition.model_validate(given)


@pytest.fixture(scope="session")
def node_commands() -> Path:
    """Where the servers from npm are, installed on first use."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("npm is not installed")
    commands = NODE_PREFIX / "node_modules" / ".bin"
    if not (commands / "mcp-server-sequential-thinking").exists():
        quick = ["--fetch-retries", "0", "--fetch-timeout", "20000", "--no-audit", "--no-fund"]
        NODE_PREFIX.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(subprocess.TimeoutExpired):
            run(npm, "install", "--prefix", str(NODE_PREFIX), *quick, *NODE_PACKAGES, timeout_s=240)
    if not (commands / "mcp-server-sequential-thinking").exists():
        pytest.skip(f"npm cannot install {' and '.join(NODE_PACKAGES)}")
    return commands


def node_server(commands: Path, name: str, *arguments: str, **fields: Any) -> ServerDefinition:
    given = {
        "name": name,
        "command": str(commands / f"mcp-server-{name}"),
        "args": arguments,
        **PATIENT,
        **fields,
    }
    return ServerDefinition.model_validate(given)


@pytest.fixture
def page() -> Iterator[str]:
    """The address of a page on the loopback."""

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/page.html"
            self.send_response(200 if found else 404)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(
                b"<html><body><h1>Tides</h1><p>High water is at 14:32.</p></body></html>" if found else b""
            )

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = HTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/page.html"
    server.shutdown()
    thread.join()
    server.server_close()


async def said(env: McpChatEnv, name: str, **arguments: Any) -> Any:
    return told((await env.astep(message((name, arguments))))[0])[0]


async def test_time(started: Started) -> None:
    server = python_server("mcp_server_time", "--local-timezone", "UTC")
    env = await started(server, scorer={"type": "exact_match", "answer": "10:30"})
    converted = await said(
        env,
        "convert_time",
        source_timezone="Europe/Berlin",
        time="12:30",
        target_timezone="Atlantic/Reykjavik",
    )
    assert "T10:30" in converted or "T11:30" in converted
    wrong, *_ = await env.astep(message(("get_current_time", {"timezone": "Middle/Earth"})))
    assert "Middle/Earth" in told(wrong)[0]
    _, reward, terminated, *_ = await env.astep("<answer>10:30</answer>")
    assert (reward, terminated) == (1.0, True)


async def test_fetch(started: Started, page: str) -> None:
    env = await started(python_server("mcp_server_fetch", "--ignore-robots-txt", "--allow-private-ips"))
    assert "High water is at 14:32" in str(await said(env, "fetch", url=page))
    observation, *_, info = await env.astep(message(("fetch", {"url": page.replace("page", "missing")})))
    assert info["tool_errors"] == 1
    assert "404" in told(observation)[0]


async def test_filesystem(started: Started, node_commands: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("remember the milk")
    env = await started(node_server(node_commands, "filesystem", str(tmp_path)))
    observation, *_ = await env.astep(
        message(
            ("read_text_file", {"path": str(tmp_path / "note.txt")}),
            ("read_text_file", {"path": "/etc/passwd"}),
            ("write_file", {"path": str(tmp_path / "new.txt"), "content": "done"}),
        )
    )
    assert told(observation)[0] == "remember the milk"
    assert "root:" not in told(observation)[1]
    assert (tmp_path / "new.txt").read_text() == "done"


async def test_everything(started: Started, node_commands: Path) -> None:
    secret = "only-the-operator-knows"
    env = await started(node_server(node_commands, "everything", "stdio", env={"PROBE_TOKEN": secret}))
    names = {tool.name for tool in env.tools}
    assert {"echo", "get-sum", "get-tiny-image", "get-env", "get-structured-content"} <= names
    observation, *_ = await env.astep(
        message(
            ("echo", {"message": "hello"}),
            ("get-sum", {"a": 2, "b": 3}),
            ("get-tiny-image", {}),
            ("get-env", {}),
            ("get-structured-content", {"location": "Chicago"}),
            ("get-resource-reference", {"resourceType": "Text", "resourceId": 1}),
        )
    )
    echo, total, image, variables, weather, resource = told(observation)
    assert "hello" in echo
    assert "5" in total
    assert any(part["type"] == "image_url" for part in image)
    assert "[hidden]" in variables
    assert secret not in str(observation)
    assert "temperature" in weather
    assert "[Resource " in str(resource)


async def test_resources_of_everything(started: Started, node_commands: Path) -> None:
    env = await started(node_server(node_commands, "everything", resources=True))
    reading = next(tool for tool in env.tools if tool.name == "resources_read")
    uri = next(line.split(": ")[0][2:] for line in reading.description.splitlines() if ".md: " in line)
    assert (await said(env, "resources_read", uri=uri)).startswith(f"[Resource {uri}]\n#")


async def test_memory_and_thinking(started: Started, node_commands: Path, tmp_path: Path) -> None:
    graph = tmp_path / "graph.jsonl"
    memory = node_server(node_commands, "memory", env={"MEMORY_FILE_PATH": str(graph)}, resources=True)
    env = await started(memory, node_server(node_commands, "sequential-thinking"))
    ada = {"name": "Ada", "entityType": "person", "observations": ["likes numbers"]}
    await said(env, "create_entities", entities=[ada])
    assert "likes numbers" in await said(env, "search_nodes", query="Ada")
    assert "likes numbers" in await said(env, "resources_read", uri="memory://knowledge-graph")
    thought = {"thought": "six", "nextThoughtNeeded": False, "thoughtNumber": 1, "totalThoughts": 1}
    assert '"thoughtHistoryLength": 1' in await said(env, "sequentialthinking", **thought)


async def test_git(started: Started, tmp_path: Path) -> None:
    author = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    for arguments in (
        ("init", "--quiet"),
        (*author, "commit", "--quiet", "--allow-empty", "-m", "the first"),
    ):
        assert run("git", "-C", str(tmp_path), *arguments).returncode == 0
    env = await started(python_server("mcp_server_git", "--repository", str(tmp_path)))
    assert "the first" in await said(env, "git_log", repo_path=str(tmp_path))


async def test_four_servers_at_once(started: Started, node_commands: Path, tmp_path: Path, page: str) -> None:
    env = await started(
        python_server("mcp_server_time"),
        python_server("mcp_server_fetch", "--ignore-robots-txt", "--allow-private-ips"),
        node_server(node_commands, "filesystem", str(tmp_path)),
        node_server(node_commands, "everything"),
    )
    async with no_hang():
        observation, *_ = await env.astep(
            message(
                ("get_current_time", {"timezone": "UTC"}),
                ("fetch", {"url": page}),
                ("list_directory", {"path": str(tmp_path)}),
                ("echo", {"message": "hello"}),
            )
        )
    assert len(observation) == 4
    assert "14:32" in str(observation[1])
