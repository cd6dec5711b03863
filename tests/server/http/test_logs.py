"""Logs: JSON lines that name their request, and hold no secrets and no actions."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import orjson
import pytest

from tests.conftest import ServerProcess, StartServer
from tests.server.conftest import GATED
from tests.waiting import HANG_S
from verl_agent_env.server.http.logs import (
    SHORTAGE,
    JsonFormatter,
    RepeatFilter,
    TextFormatter,
    current_request_id,
)

TOKEN = "token-that-nobody-may-read"
ACTION = "action-that-nobody-may-read"


def record(message: str = "hello", **fields: Any) -> logging.LogRecord:
    made = logging.makeLogRecord({"msg": message, "levelname": "WARNING", "name": "some.logger", **fields})
    made.levelno = logging.WARNING
    return made


def test_a_json_line_holds_message_fields_and_request() -> None:
    token = current_request_id.set(b"request-1")
    try:
        entry = orjson.loads(JsonFormatter().format(record(count=3, nothing=None)))
    finally:
        current_request_id.reset(token)
    assert entry["time"].endswith("+00:00")
    assert (entry["level"], entry["logger"], entry["message"]) == ("warning", "some.logger", "hello")
    assert (entry["count"], entry["request_id"]) == (3, "request-1")
    assert "nothing" not in entry


def test_a_json_line_outside_a_request_names_none() -> None:
    assert "request_id" not in orjson.loads(JsonFormatter().format(record()))


@pytest.mark.parametrize(
    "value", ["a\nb", "a\x1b[2Jb", "a\rb", b"bytes", object(), 10**30, float("nan"), "\ud800"]
)
def test_a_record_stays_one_line_whatever_it_holds(value: object) -> None:
    for formatter in (JsonFormatter(), TextFormatter()):
        line = formatter.format(record(path=value))
        assert len(line.splitlines()) == 1
        assert "\x1b" not in line


@pytest.fixture
def chatty(start_server: StartServer) -> ServerProcess:
    return start_server("--access-log", VERL_AGENT_ENV_AUTH_TOKENS=TOKEN)


def test_a_failing_request_is_logged_under_its_id_without_secrets(chatty: ServerProcess) -> None:
    headers = {"authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=chatty.url, headers=headers, timeout=HANG_S) as client:
        made = client.post("/api/environment/initialize", json={"env_name": GATED}).json()
        path = f"/api/environment/{made['env_id']}/step"
        client.post(path, json={"action": ACTION}, headers={"x-request-id": "passing-1"})
        client.get("/%0aforged", headers={"x-request-id": "forged-1"}, params={"q": ACTION})
        failed = client.post(path, json={"action": "raise"}, headers={"x-request-id": "failing-1"})
        client.get("/healthz", headers={"authorization": "Bearer wrong-token"})
    assert failed.status_code >= 400
    assert chatty.stop() == 0
    written = "".join(chatty.lines)
    assert TOKEN not in written
    assert "wrong-token" not in written
    assert ACTION not in written
    records = chatty.records()
    # Everything but the greeting is JSON.
    assert len(records) == len(chatty.lines) - 1
    (fault,) = [r for r in records if "traceback" in r]
    assert fault["request_id"] == "failing-1"
    assert fault["env_id"] == made["env_id"]
    requests = {r["request_id"]: r for r in records if r["message"] == "request"}
    assert (requests["passing-1"]["status"], requests["passing-1"]["method"]) == (200, "POST")
    assert requests["failing-1"]["code"] == failed.json()["code"]
    assert requests["forged-1"]["path"] == "/\nforged"
    assert len(requests) == 5
    assert all({"method", "path", "status", "elapsed_ms"} <= set(r) for r in requests.values())


def test_text_lines_are_for_people(start_server: StartServer) -> None:
    server = start_server("--access-log", "--log-format", "text")
    httpx.get(f"{server.url}/%0aforged", headers={"x-request-id": "text-1"}, timeout=HANG_S)
    line = server.wait_for_line("request_id=text-1")
    assert "status=404" in line.string
    assert "path='/\\nforged'" in line.string


def test_by_default_only_failures_of_the_server_are_logged(start_server: StartServer) -> None:
    server = start_server()
    httpx.get(f"{server.url}/healthz", timeout=HANG_S)
    httpx.get(f"{server.url}/nothing", timeout=HANG_S)
    server.stop()
    assert [r for r in server.records() if r["message"] == "request"] == []


def passes(kept: RepeatFilter, count: int, **fields: Any) -> list[logging.LogRecord]:
    """Those of so many equal records that are written."""
    return [each for each in (record(**fields) for _ in range(count)) if kept.filter(each)]


def test_warnings_of_one_kind_are_limited_and_those_left_out_are_counted() -> None:
    now = [100.0]
    kept = RepeatFilter(2.0, clock=lambda: now[0])
    assert len(passes(kept, 1000, message="connection refused: %s")) == 6
    # Others are none of its business.
    assert len(passes(kept, 3, message="something else")) == 3
    assert len(passes(kept, 3, name="another.logger", message="connection refused: %s")) == 3
    now[0] += 0.5
    (written,) = passes(kept, 1, message="connection refused: %s")
    assert orjson.loads(JsonFormatter().format(written))["suppressed"] == 994
    now[0] += 1000.0
    assert len(passes(kept, 1000, message="connection refused: %s")) == 6


def test_a_shortage_is_one_line_in_a_minute() -> None:
    now = [100.0]
    kept = RepeatFilter(2.0, clock=lambda: now[0])
    assert len(passes(kept, 1000, message="too many: %s", **SHORTAGE)) == 1
    now[0] += 59.0
    assert passes(kept, 1000, message="too many: %s", **SHORTAGE) == []
    now[0] += 2.0
    (written,) = passes(kept, 1, message="too many: %s", **SHORTAGE)
    line = orjson.loads(JsonFormatter().format(written))
    assert line["suppressed"] == 1999
    assert not SHORTAGE.keys() & line.keys()


def test_what_is_no_warning_is_written_in_full() -> None:
    kept = RepeatFilter(1.0, clock=lambda: 0.0)
    lines = [logging.makeLogRecord({"msg": "request", "levelno": logging.INFO}) for _ in range(1000)]
    assert all(map(kept.filter, lines))


def test_kinds_are_remembered_within_a_bound() -> None:
    kept = RepeatFilter(1.0, clock=lambda: 0.0)
    for nth in range(5000):
        kept.filter(record(f"made up {nth}"))
    assert len(kept._kinds) <= 512
