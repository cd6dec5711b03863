"""Who is let in, whatever was asked for: calls, pages, MCP and WebSockets, by both ways and in other servers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest

from tests.conftest import ServerProcess, StartServer
from tests.server.conftest import LAKE, MakeClient, Problem, Wire, app_of
from tests.server.served import Served, WatchedProtocol, http_request, post
from tests.waiting import HANG_S

EVIL = "https://evil.example"
PATHS = [
    ("GET", "/"), ("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/nothing"), ("GET", "/healthz"), ("GET", "/readyz"),
    ("GET", "/metrics"), ("GET", "/api/environments"), ("GET", "/api/cluster"), ("POST", "/api/environment/initialize"),
    ("POST", "/api/environment/nobody/step"), ("GET", "/api/environment/nobody"), ("POST", "/api/environment/nobody/close"),
    ("POST", "/api/batch/close"), ("POST", "/api/cluster/drain"), ("POST", "/mcp"), ("GET", "/mcp"), ("DELETE", "/mcp"),
    ("HEAD", "/docs"), ("OPTIONS", "/api/batch/step"), ("OPTIONS", "/mcp"), ("PUT", "/api/batch/step"),
]  # fmt: skip


@pytest.fixture
async def local(make_client: MakeClient) -> httpx.AsyncClient:
    """A client of an application that is reached at a loopback address."""
    client = await make_client()
    client.base_url = "http://127.0.0.1:8000"
    return client


@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_a_page_of_another_site_gets_nothing(
    local: httpx.AsyncClient, problem: Problem, method: str, path: str
) -> None:
    foreign = await local.request(method, path, headers={"origin": EVIL})
    rebound = await local.request(method, path, headers={"host": "evil.example:8000"})
    assert (foreign.status_code, rebound.status_code) == (403, 403)
    if method != "HEAD":
        assert problem(foreign, 403, "origin_not_allowed")["origin"] == EVIL
        assert problem(rebound, 403, "host_not_allowed")["host"] == "evil.example:8000"
    for answer in (foreign, rebound):
        assert not [name for name in answer.headers if name.startswith("access-control")]


# A GET of /mcp is a stream without an end.
@pytest.mark.parametrize(("method", "path"), [asked for asked in PATHS if asked != ("GET", "/mcp")])
async def test_a_page_of_its_own_is_served(local: httpx.AsyncClient, method: str, path: str) -> None:
    headers = {"origin": "http://127.0.0.1:8000", "content-type": "application/json", "cookie": "a=b"}
    answer = await local.request(method, path, headers=headers)
    assert answer.status_code not in (403, 415)


async def test_a_form_of_another_page_changes_nothing(local: httpx.AsyncClient, initialize: Any) -> None:
    env_id = await initialize(local, run_id="run-1")
    for headers in ({"origin": EVIL}, {"cookie": "a=b"}, {"sec-fetch-site": "cross-site"}):
        form = {**headers, "content-type": "text/plain"}
        for path in (f"/api/environment/{env_id}/close", "/api/batch/close", "/api/environment/initialize"):
            answer = await local.post(path, content=b'{"run_id":"run-1"}', headers=form)
            assert answer.status_code in (403, 415)
    host = app_of(local).env_host
    assert (len(host.env_table), host.env_table.created.total()) == (1, 1)


@pytest.mark.parametrize("path", ["/api/environment/initialize", "/mcp", "/docs", "/nothing"])
async def test_pages_of_a_listed_origin_may_ask_and_read(make_client: MakeClient, path: str) -> None:
    client = await make_client(allowed_origins=("https://app.example",), auth_tokens=("the-token",))
    origin = {"origin": "https://app.example"}
    asked = {
        **origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    preflight = await client.options(path, headers=asked)
    assert preflight.status_code in (200, 404)
    assert preflight.headers["access-control-allow-origin"] == "https://app.example"
    assert "Authorization" in preflight.headers["access-control-allow-headers"]
    token = {"authorization": "Bearer the-token", "content-type": "application/json"}
    answer = await client.post(path, content=b'{"env_name":"frozen_lake"}', headers={**origin, **token})
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert answer.headers["vary"] == "Origin"
    refused = await client.post(path, headers={"origin": EVIL, **token})
    assert refused.status_code == 403
    assert "access-control-allow-origin" not in refused.headers


def test_curl_needs_no_content_type(server: ServerProcess) -> None:
    body = b'{"env_name":"frozen_lake"}'
    headers = {"content-type": "application/x-www-form-urlencoded", "user-agent": "curl/8", "accept": "*/*"}
    made = httpx.post(
        f"{server.url}/api/environment/initialize", content=body, headers=headers, timeout=HANG_S
    )
    assert made.status_code == 200


# --- both ways of the server's own protocol ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    made = Served()
    yield made
    made.stop()


def head(target: str, *lines: str, version: str = "1.1") -> bytes:
    return "\r\n".join([f"POST {target} HTTP/{version}", *lines, "Content-Length: 0", "", ""]).encode()


STEP = "/api/environment/nobody/step"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (head(STEP, "Host: localhost"), 422),
        (head(STEP, "Host: evil.example"), 403),
        (head(STEP, "Host: localhost", f"Origin: {EVIL}"), 403),
        (head(STEP, "Host: localhost", "Origin: http://localhost"), 415),
        (head(STEP, "Host: localhost", "Cookie: a=b"), 415),
        (head("/healthz", "Host: evil.example"), 403),
        # Two of one kind: whoever looks at the other one would decide otherwise.
        (head(STEP, "Host: localhost", "Host: localhost"), 400),
        (head(STEP, "Host: evil.example", "Host: localhost"), 400),
        (head(STEP, "Host: localhost", f"Origin: {EVIL}", "Origin: http://localhost"), 400),
        (head(STEP, "Host: localhost", "Authorization: Bearer a", "Authorization: Bearer b"), 400),
        (head(STEP), 400),
        (head("/healthz"), 400),
        (head("/healthz", version="1.0"), 405),
        (head("/healthz", "Host: evil.example", version="1.0"), 403),
        # The target's own host counts, whatever the header says.
        (head(f"http://evil.example{STEP}", "Host: localhost"), 403),
        (head(f"http://localhost{STEP}", "Host: evil.example"), 422),
        (head(f"http://evil.example@localhost{STEP}", "Host: localhost"), 422),
        (head("http://evil.example/?a=/api", "Host: localhost"), 403),
    ],
)
def test_a_head_is_judged_the_same_on_both_ways(served: Served, request_: bytes, status: int) -> None:
    for way in (b"", b"Expect: nothing\r\n"):
        wire = Wire(served.port)
        line, rest = request_.split(b"\r\n", 1)
        wire.send(line + b"\r\n" + way + rest)
        found, headers, body = wire.answer()
        wire.close()
        assert found == status, body
        assert headers[b"content-type"] == b"application/problem+json"


def test_checks_need_no_detour(served: Served) -> None:
    wire = Wire(served.port)
    WatchedProtocol.fallbacks.clear()
    wire.send(post(STEP, b"", "Origin: http://localhost", "Content-Type: application/json"))
    assert wire.answer()[0] == 422
    wire.send(post(STEP, b"", f"Origin: {EVIL}"))
    assert wire.answer()[0] == 403
    wire.close()
    assert WatchedProtocol.fallbacks == []


def test_an_upgrade_is_refused_to_another_origin_and_where_there_is_no_socket(served: Served) -> None:
    upgrade = (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    for origin, status in ((EVIL, 403), ("http://localhost", 404)):
        wire = Wire(served.port)
        wire.send(http_request("GET", "/healthz", b"", f"Origin: {origin}", *upgrade))
        assert wire.answer()[0] == status
        wire.close()


# --- other servers ----------------------------------------------------------------------------------------------


async def handshake(client: httpx.AsyncClient, headers: dict[str, str], **scope: Any) -> list[dict[str, Any]]:
    """What a WebSocket's handshake is answered with."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    given = {
        "type": "websocket", "path": "/api/live", "http_version": "1.1", "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000), "headers": [(k.encode(), v.encode()) for k, v in headers.items()], **scope,
    }  # fmt: skip
    await app_of(client)(given, receive, send)
    return sent


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"host": "localhost:8000", "origin": EVIL}, "origin_not_allowed"),
        ({"host": "evil.example:8000", "origin": "http://evil.example:8000"}, "host_not_allowed"),
        ({"host": "localhost:8000", "origin": "http://localhost:8000"}, "unauthorized"),
        ({"host": "localhost:8000", "authorization": "Bearer the-token"}, "not_found"),
        ({}, "malformed_head"),
    ],
)
async def test_websockets_are_checked_as_calls_are(
    make_client: MakeClient, headers: dict[str, str], code: str
) -> None:
    client = await make_client(auth_tokens=("the-token",))
    start, body = await handshake(client, headers, extensions={"websocket.http.response": {}})
    assert (start["type"], start["status"]) == (
        "websocket.http.response.start",
        orjson.loads(body["body"])["status"],
    )
    assert orjson.loads(body["body"])["code"] == code
    assert await handshake(client, headers) == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize("options", [[], ["--host", "0.0.0.0", "--http", "h11"]])
def test_any_server_that_runs_the_application_is_closed_to_pages(
    start_server: StartServer, options: list[str]
) -> None:
    command = [sys.executable, "-m", "uvicorn", "src.verl_agent_env.app:app", "--port", "0", *options]
    server = start_server(command=command)
    for headers in ({"origin": EVIL}, {"host": "evil.example"}):
        answer = httpx.post(
            f"{server.url}/api/environment/initialize",
            json={"env_name": LAKE},
            headers=headers,
            timeout=HANG_S,
        )
        assert answer.status_code == 403
    assert httpx.get(f"{server.url}/healthz", timeout=HANG_S).status_code == 200


def test_all_workers_of_a_pool_are_closed_to_pages_and_call_each_other(start_server: StartServer) -> None:
    pool = start_server(
        "--workers", "2", "--host", "0.0.0.0", "--allowed-hosts", "server.example, other.example"
    )
    with httpx.Client(base_url=pool.url, timeout=HANG_S) as client:
        made = client.post("/api/batch/initialize", json={"env_name": LAKE, "num_envs": 8}).json()
        assert made["errors"] == []
        workers = [worker["address"] for worker in client.get("/api/cluster").json()["nodes"][0]["workers"]]
        for address in (pool.url.removeprefix("http://"), *workers):
            answers = [
                client.get(f"http://{address}/healthz", headers={"host": host}).status_code
                for host in ("server.example", "other.example:80", "evil.example")
            ]
            assert answers == [200, 200, 403]
