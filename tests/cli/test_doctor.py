"""``verl-agent-env doctor``."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.cluster.redis_process import RedisProcess
from tests.conftest import ServerProcess
from tests.ports import free_port
from verl_agent_env.cli import cli


def findings(*arguments: str, code: int) -> dict[str, dict[str, Any]]:
    """Findings by subject."""
    done = CliRunner().invoke(cli, ["doctor", "--json", *arguments])
    assert done.exit_code == code, done.output
    return {finding["subject"]: finding for finding in json.loads(done.output)}


def test_a_machine_that_is_all_right_has_no_fault() -> None:
    port = free_port()
    found = findings("--port", str(port), code=0)
    assert {
        found[subject]["state"] for subject in ("Python", "packages", "redis-server", "nginx", f"port {port}")
    } == {"ok"}


def test_a_port_that_is_held_is_a_fault_that_names_the_holder() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        fault = findings("--port", str(port), code=1)[f"port {port}"]
    assert f"process {os.getpid()}" in fault["detail"]
    assert "--port" in fault["remedy"]


def test_programs_that_are_missing_are_notes_with_the_command_that_installs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    note = findings("--port", str(free_port()), code=0)["nginx"]
    assert (note["state"], note["remedy"]) == ("note", "apt-get install nginx")


def test_packages_that_do_not_fit_are_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "importlib.metadata.requires", lambda _: ["orjson>=99", "no-such-package", "x; extra == 'y'"]
    )
    fault = findings("--port", str(free_port()), code=1)["packages"]
    assert "orjson is" in fault["detail"]
    assert "no-such-package is missing" in fault["detail"]
    assert "pip install" in fault["remedy"]


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "http://nonsense"])
def test_a_redis_that_does_not_answer_is_a_fault(url: str) -> None:
    fault = findings("--redis", url, "--port", str(free_port()), code=1)["Redis"]
    assert fault["state"] == "fault"
    assert fault["remedy"]


def test_a_server_of_something_else_is_no_redis(server: ServerProcess) -> None:
    fault = findings("--redis", server.url.replace("http:", "redis:"), "--port", str(free_port()), code=1)[
        "Redis"
    ]
    assert "protocol" in fault["detail"]


def test_a_redis_that_answers_is_fine(tmp_path: Path) -> None:
    redis = RedisProcess(tmp_path)
    try:
        found = findings("--redis", redis.url, "--port", str(free_port()), code=0)
    finally:
        redis.stop()
    assert found["Redis"]["state"] == "ok"


def test_redis_that_keep_event_logs_are_looked_at(tmp_path: Path) -> None:
    redis = RedisProcess(tmp_path)
    logs = [f"{redis.url.removesuffix('/0')}/{database}" for database in (1, 2)]
    given = [word for log in logs for word in ("--redis-log", log)]
    away = f"redis://127.0.0.1:{free_port()}/0"
    try:
        found = findings("--redis", redis.url, *given, "--port", str(free_port()), code=0)
        fault = findings("--redis", redis.url, "--redis-log", away, "--port", str(free_port()), code=1)
    finally:
        redis.stop()
    assert [found[f"event log {log}"]["state"] for log in logs] == ["ok", "ok"]
    assert away in fault["Redis"]["detail"]


def test_a_server_and_its_workers_are_looked_at(server: ServerProcess) -> None:
    found = findings("--url", server.url, code=0)
    assert found["server"]["state"] == "ok"
    assert any(subject.startswith("worker ") for subject in found)


def test_a_server_that_is_not_there_is_a_fault() -> None:
    fault = findings("--url", f"http://127.0.0.1:{free_port()}", code=1)["server"]
    assert "cannot be reached" in fault["detail"]


def test_findings_are_shown_with_their_remedies() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        done = CliRunner().invoke(
            cli, ["doctor", "--port", str(held.getsockname()[1])], env={"COLUMNS": "20"}
        )
    assert done.exit_code == 1
    assert "FAULT" in done.output
    assert "→" in done.output
