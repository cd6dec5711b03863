"""``verl-agent-env serve`` as a process: its start, its options, its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
from click.testing import CliRunner

from tests import children
from tests.conftest import ServerProcess, StartServer
from tests.waiting import HANG_S, eventually
from verl_agent_env.cli import cli
from verl_agent_env.cli.options import merge_options
from verl_agent_env.cli.serve import listen, serve
from verl_agent_env.config import HttpLimits, ServerSettings

GATED = "slow/gated-v0"
SERVE = [sys.executable, "-m", "verl_agent_env.cli", "serve", "--port", "0"]


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    return children.cli(*arguments, variables=variables)


class GatedStep:
    """A step under way on a server in another process, which goes on when its gate is opened."""

    def __init__(self, server: ServerProcess, folder: Path) -> None:
        self._gate = folder / "gate"
        entered = folder / "entered"
        made = httpx.post(
            f"{server.url}/api/environment/initialize", json={"env_name": GATED}, timeout=HANG_S
        )
        path = f"{server.url}/api/environment/{made.json()['env_id']}/step"
        action = {"entered": str(entered), "gate": str(self._gate)}
        self.answer: httpx.Response | None = None

        def step() -> None:
            self.answer = httpx.post(path, json={"action": action}, timeout=HANG_S)

        self._thread = threading.Thread(target=step, daemon=True)
        self._thread.start()
        eventually(entered.exists, what="the step")

    def open(self) -> None:
        """Let it go on."""
        self._gate.touch()

    def wait(self) -> httpx.Response:
        """Its answer."""
        self._thread.join(HANG_S)
        assert self.answer is not None
        return self.answer


# One in a Python of its own, as users start it.
@pytest.mark.parametrize(("number", "command"), [(signal.SIGTERM, SERVE), (signal.SIGINT, None)])
def test_a_signal_ends_an_idle_server_with_success(
    start_server: StartServer, number: signal.Signals, command: list[str] | None
) -> None:
    server = start_server(command=command)
    assert httpx.get(f"{server.url}/healthz", timeout=HANG_S).json() == {"status": "ok"}
    assert server.stop(number) == 0
    assert "Traceback" not in "".join(server.lines)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_running_step_is_answered_before_the_server_ends(
    start_server: StartServer, number: signal.Signals, tmp_path: Path
) -> None:
    server = start_server()
    step = GatedStep(server, tmp_path)
    server.process.send_signal(number)
    server.wait_for_line("Shutting down")
    # Refused, or cut off where the kernel had taken it in before.
    with pytest.raises((httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError)):
        httpx.get(f"{server.url}/healthz", timeout=HANG_S)
    step.open()
    answer = step.wait()
    assert (answer.status_code, answer.json()["reward"]) == (200, 1.0)
    assert server.wait() == 0


def test_a_step_that_outlasts_the_grace_is_told_of_the_shutdown(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server("--shutdown-grace-s", "1")
    step = GatedStep(server, tmp_path)
    server.process.send_signal(signal.SIGTERM)
    # The gate is still shut.
    answer = step.wait()
    assert (answer.status_code, answer.json()["code"]) == (503, "shutting_down")
    assert answer.headers["content-type"] == "application/problem+json"
    step.open()
    assert server.wait() == 0


def test_a_signal_for_another_purpose_ends_nothing_and_is_logged(start_server: StartServer) -> None:
    server = start_server()
    assert httpx.get(f"{server.url}/healthz", timeout=HANG_S).status_code == 200
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        server.process.send_signal(number)
        server.wait_for_line(f"{number.name} is ignored")
        assert httpx.get(f"{server.url}/healthz", timeout=HANG_S).status_code == 200


def test_the_status_is_printed_once_where_the_output_is_no_terminal(server: ServerProcess) -> None:
    done = run("status", server.url)
    assert done.returncode == 0
    assert "4096" in done.stdout
    assert json.loads(run("status", server.url, "--json").stdout)["num_slots"] == 4096


def test_a_port_in_use_is_one_sentence_and_exit_code_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("serve", "--port", str(port))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"127.0.0.1:{port}" in line
    assert f"by process {os.getpid()} (" in line
    assert "--port" in line


@pytest.mark.parametrize("host", ["256.0.0.1", "no such host", "x" * 300 + ".org", "a..b", "198.51.100.1"])
def test_an_address_that_cannot_be_used_is_one_sentence(host: str) -> None:
    with pytest.raises(click.ClickException) as caught:
        listen(host, 0)
    assert host in caught.value.message
    assert "--host" in caught.value.message


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_listening_on_ipv6(host: str) -> None:
    with listen(host, 0) as listener:
        assert listener.family == socket.AF_INET6


@pytest.mark.parametrize("host", ["::", "[::]"])
def test_all_addresses_of_ipv6_are_those_of_ipv4_too(start_server: StartServer, host: str) -> None:
    port = httpx.URL(start_server("--host", host).url).port
    for own in ("127.0.0.1", "[::1]"):
        assert httpx.get(f"http://{own}:{port}/readyz", timeout=HANG_S).status_code == 200


@pytest.mark.parametrize("advertised", ["::1", "[::1]"])
def test_workers_reach_each_other_by_ipv6(start_server: StartServer, advertised: str) -> None:
    server = start_server("--host", "::", "--workers", "2", "--advertise", advertised)

    def hosts() -> list[str]:
        cluster = httpx.get(f"{server.url}/api/cluster", timeout=HANG_S).json()
        addresses = [worker["address"] for node in cluster["nodes"] for worker in node["workers"]]
        return [address.rpartition(":")[0] for address in addresses]

    # Whoever answers first may be there before the other one.
    eventually(lambda: hosts() == ["[::1]", "[::1]"], what="both workers")
    made = httpx.post(
        f"{server.url}/api/batch/initialize",
        json={"env_name": "frozen_lake", "num_envs": 40},
        timeout=HANG_S,
    )
    assert made.status_code == 200, made.text


@pytest.mark.parametrize(
    ("arguments", "variables", "named"),
    [
        (["--port", "99999"], {}, "port"),
        (["--port", "many"], {}, "--port"),
        (["--log-level", "loud"], {}, "log_level"),
        (["--log-format", "xml"], {}, "log_format"),
        (["--max-envs", "0"], {}, "max_envs"),
        (["--default-ttl-s", "nan"], {}, "default_ttl_s"),
        (["--body-timeout-s", "inf"], {}, "body_timeout_s"),
        (["--auth-token", ""], {}, "auth token"),
        (["--mcp-config", "/nowhere/mcp.json"], {}, "/nowhere/mcp.json cannot be read"),
        ([], {"VERL_AGENT_ENV_MCP_CONFIG": "/nowhere/mcp.json"}, "/nowhere/mcp.json cannot be read"),
        (["--model-endpoints", "/nowhere/models.json"], {}, "/nowhere/models.json cannot be read"),
        (["--no-such-option"], {}, "--no-such-option"),
        ([], {"VERL_AGENT_ENV_PORT": "many"}, "--port"),
        ([], {"VERL_AGENT_ENV_MAX_BODY_BYTES": "-1"}, "max_body_bytes"),
        ([], {"VERL_AGENT_ENV_ACCESS_LOG": "perhaps"}, "--access-log"),
    ],
)
def test_a_bad_value_is_a_usage_error(arguments: list[str], variables: dict[str, str], named: str) -> None:
    done = CliRunner().invoke(cli, ["serve", "--host", "256.0.0.1", *arguments], env=variables)
    assert done.exit_code == 2
    assert named in done.output
    assert "Traceback" not in done.output


def test_help_names_every_option_with_its_default() -> None:
    done = CliRunner().invoke(cli, ["serve", "--help"])
    assert done.exit_code == 0
    for option in ("--port", "--auth-token", "--max-envs-per-run", "--max-batch-size", "--keep-alive-s"):
        assert option in done.output
    assert "[default: 8000]" in done.output


def test_options_come_from_variables_and_the_command_line_wins(start_server: StartServer) -> None:
    server = start_server(
        "--max-batch-size", "3",
        VERL_AGENT_ENV_AUTH_TOKENS="one, two", VERL_AGENT_ENV_MAX_BODY_BYTES="500", VERL_AGENT_ENV_MAX_BATCH_SIZE="2",
        VERL_AGENT_ENV_LOG_LEVEL="", VERL_AGENT_ENV_DEFAULT_TTL_S="",
    )  # fmt: skip
    with httpx.Client(base_url=server.url, timeout=HANG_S) as client:
        assert client.get("/api/environments").status_code == 401
        client.headers["authorization"] = "Bearer two"
        assert client.post("/api/batch/close", content=b" " * 501).json()["max_body_bytes"] == 500
        answer = client.post("/api/batch/close", json={"env_ids": ["a"] * 4})
        assert answer.json()["max_batch_size"] == 3


def test_the_asgi_application_is_served_by_uvicorn(start_server: StartServer) -> None:
    command = [sys.executable, "-m", "uvicorn", "src.verl_agent_env.app:app", "--port", "0"]
    server = start_server(command=command, VERL_AGENT_ENV_MAX_BATCH_SIZE="7")
    with httpx.Client(base_url=server.url, timeout=HANG_S) as client:
        assert client.get("/").json() == {"status": "running"}
        assert client.get("/readyz").status_code == 200
        made = client.post("/api/environment/initialize", json={"env_name": "frozen_lake"}).json()
        step = client.post(f"/api/environment/{made['env_id']}/step", json={"action": "up"})
        assert step.json()["info"]["num_steps"] == 1
        answer = client.post("/api/batch/close", json={"env_ids": ["a"] * 8})
        assert answer.json()["max_batch_size"] == 7


def test_settings_reach_uvicorn(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    class Recorder:
        def __init__(self, config: Any) -> None:
            seen.append(config)

        def run(self, sockets: list[socket.socket]) -> None:
            sockets[0].close()

    monkeypatch.setattr("uvicorn.Server", Recorder)
    monkeypatch.setattr("verl_agent_env.server.http.logs.configure_logging", lambda *_: None)
    before = signal.getsignal(signal.SIGTERM)
    try:
        serve.main(["--port", "0"], standalone_mode=False)
    finally:
        signal.signal(signal.SIGTERM, before)
    (config,) = seen
    assert config.timeout_keep_alive == ServerSettings().keep_alive_s > 15
    assert config.backlog >= 16_384
    assert config.timeout_graceful_shutdown == ServerSettings().shutdown_grace_s


def test_merged_options_change_only_what_was_given() -> None:
    settings = ServerSettings(port=1, auth_tokens=("a",), http_limits=HttpLimits(max_batch_size=5))
    merged = merge_options(settings, {"port": 2, "auth_tokens": (), "max_body_bytes": 9, "max_envs": None})
    assert (merged.port, merged.auth_tokens) == (2, ("a",))
    assert merged.http_limits == HttpLimits(max_batch_size=5, max_body_bytes=9)
    assert merged.host_limits == settings.host_limits
