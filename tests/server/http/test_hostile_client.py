"""A hostile client on the wire: against a real process, partly through raw sockets."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Iterator

import aiohttp
import httpx
import orjson
import pytest

from tests.conftest import ServerProcess, StartServer
from tests.server.conftest import LAKE, Problem, Wire
from tests.waiting import HANG_S, NEVER_S, no_hang

INITIALIZE = b"POST /api/environment/initialize HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def impatient(plugin_path: str) -> Iterator[ServerProcess]:
    """A server that waits for no body for long."""
    process = ServerProcess(
        ["--body-timeout-s", "0.5", "--max-body-bytes", "1000000"], {"PYTHONPATH": plugin_path}
    )
    yield process
    process.stop()


@pytest.fixture(scope="module")
def patient(plugin_path: str) -> Iterator[ServerProcess]:
    """A server that takes small bodies only, at any pace."""
    limits = ["--body-timeout-s", str(NEVER_S), "--max-body-bytes", "1000000"]
    process = ServerProcess(limits, {"PYTHONPATH": plugin_path})
    yield process
    process.stop()


@pytest.fixture
def wire(patient: ServerProcess) -> Iterator[Wire]:
    made = Wire(patient.port)
    yield made
    made.close()


@pytest.fixture
def hasty_wire(impatient: ServerProcess) -> Iterator[Wire]:
    made = Wire(impatient.port)
    yield made
    made.close()


@pytest.mark.parametrize("begun", [b"", b'{"env_name"'])
@pytest.mark.parametrize("head", [b"Content-Length: 100\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"])
def test_a_body_that_stalls_is_a_timeout(hasty_wire: Wire, head: bytes, begun: bytes) -> None:
    wire = hasty_wire
    chunk = b"%x\r\n%b\r\n" % (len(begun), begun) if b"chunked" in head and begun else begun
    started = time.monotonic()
    wire.send(INITIALIZE + head + chunk)
    status, headers, body = wire.answer()
    assert status == 408
    assert headers[b"content-type"] == b"application/problem+json"
    assert headers[b"connection"] == b"close"
    problem = orjson.loads(body)
    assert (problem["code"], problem["retryable"], problem["body_timeout_s"]) == ("body_timeout", True, 0.5)
    assert time.monotonic() - started > 0.4
    assert wire.is_closed()


def test_a_body_that_drips_is_a_timeout(hasty_wire: Wire) -> None:
    wire = hasty_wire
    wire.send(INITIALIZE + b"Content-Length: 100\r\n\r\n")
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        wire.send(b" ")
        time.sleep(0.05)
    assert wire.answer()[0] == 408


def test_a_declared_length_over_the_limit_is_refused_at_once(wire: Wire) -> None:
    wire.send(INITIALIZE + b"Content-Length: 1000001\r\n\r\n")
    status, headers, body = wire.answer()
    assert (status, orjson.loads(body)["code"]) == (413, "body_too_large")
    assert headers[b"connection"] == b"close"


def test_a_client_that_sends_too_much_gets_to_read_why(wire: Wire) -> None:
    assert wire.send(INITIALIZE + b"Content-Length: 20000000\r\n\r\n" + b"x" * 20_000_000)
    assert wire.answer()[0] == 413
    assert wire.is_closed()


def test_chunks_beyond_the_limit_are_refused(wire: Wire) -> None:
    wire.send(INITIALIZE + b"Transfer-Encoding: chunked\r\n\r\n")
    for _ in range(30):
        wire.send(b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n")
    assert wire.answer()[0] == 413


def test_a_length_with_thousands_of_zeros_is_just_a_length(wire: Wire) -> None:
    body = b'{"env_name":"frozen_lake"}'
    wire.send(INITIALIZE + b"Content-Length: " + b"0" * 5000 + b"%d\r\n\r\n" % len(body) + body)
    assert wire.answer()[0] in (200, 400)


def test_an_expectation_is_answered_before_the_body(wire: Wire) -> None:
    body = b'{"env_name":"frozen_lake"}'
    wire.send(INITIALIZE + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
    assert wire.answer()[0] == 100
    wire.send(body)
    assert wire.answer()[0] == 200


def test_a_refused_expectation_closes_the_connection(wire: Wire) -> None:
    wire.send(
        b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    )
    status, headers, _ = wire.answer()
    assert (status, headers[b"connection"]) == (404, b"close")
    assert wire.is_closed()


@pytest.mark.parametrize("path", [b"/nothing", b"/healthz"])
def test_an_error_leaves_the_connection_usable(wire: Wire, path: bytes) -> None:
    wire.send(b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello" % path)
    assert wire.answer()[0] in (404, 405)
    wire.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert wire.answer()[0] == 200


def test_pipelined_requests_are_answered_in_order(wire: Wire) -> None:
    wire.send(b"".join(b"GET /x%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % i for i in range(50)))
    assert [orjson.loads(wire.answer()[2])["path"] for _ in range(50)] == [f"/x{i}" for i in range(50)]


@pytest.mark.parametrize(
    "request_",
    [
        b"\r\n\r\n\r\n\r\nnonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nBad Header: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nX-Request-Id: a\x00b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: a\x01b\x7f\r\n\r\n",
        INITIALIZE + b"Content-Length: -1\r\n\r\n",
        INITIALIZE + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        INITIALIZE + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
        INITIALIZE + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        INITIALIZE + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"CONNECT x:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://elsewhere/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /%ff%fe%00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /api/environment/%ed%a0%80/render?mode=%ff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /" + b"x" * 60_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=lambda request_: repr(request_[-30:]),
)
def test_nonsense_is_answered_below_500_or_hung_up_on(
    hasty_wire: Wire, impatient: ServerProcess, request_: bytes
) -> None:
    wire = hasty_wire
    wire.send(request_)
    try:
        status, _, _ = wire.answer()
    except (AssertionError, ConnectionError):
        status = 0
    except TimeoutError:
        pytest.fail("neither an answer nor an end of the connection")
    assert status < 500
    assert httpx.get(f"{impatient.url}/healthz", timeout=HANG_S).status_code == 200


def test_clients_that_leave_amid_their_request_leave_no_trace(
    impatient: ServerProcess, http: httpx.Client
) -> None:
    before = httpx.get(f"{impatient.url}/metrics", timeout=HANG_S).text.count("internal_error")
    for _ in range(50):
        leaver = Wire(impatient.port)
        leaver.send(INITIALIZE + b'Content-Length: 100\r\n\r\n{"env_name":')
        leaver.close()
    answer = httpx.get(f"{impatient.url}/metrics", timeout=HANG_S)
    assert answer.text.count("internal_error") == before


def test_a_keep_alive_connection_serves_many_requests(http: httpx.Client, problem: Problem) -> None:
    made = http.post("/api/environment/initialize", json={"env_name": LAKE}).json()
    for i in range(50):
        answer = http.post(f"/api/environment/{made['env_id']}/step", json={"action": "up", "seq": i})
        if answer.json().get("done"):
            break
        assert answer.headers.get("connection") != "close"
    problem(http.get("/api/environment/nobody"), 404, "environment_not_found")
    assert http.get("/healthz").status_code == 200


def test_an_idle_connection_is_kept_for_as_long_as_set(start_server: StartServer) -> None:
    server = start_server("--keep-alive-s", "1")
    wire = Wire(server.port)
    wire.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert wire.answer()[0] == 200
    started = time.monotonic()
    assert wire.is_closed()
    assert time.monotonic() - started > 0.8
    wire.close()


async def test_a_thousand_connections_at_once_are_kept_and_served(server: ServerProcess) -> None:
    connector = aiohttp.TCPConnector(limit=1000)
    async with aiohttp.ClientSession(server.url, connector=connector) as session:
        gate = asyncio.Event()
        waiting = 0

        async def play() -> int:
            nonlocal waiting
            async with session.post(
                "/api/environment/initialize", json={"env_name": LAKE, "seed": 1}
            ) as answer:
                env_id = (await answer.json())["env_id"]
                # Holding the answer holds the connection: all thousand are open here.
                waiting += 1
                if waiting == 1000:
                    gate.set()
                await gate.wait()
            for seq in range(2):
                body = {"action": "<action>left</action>", "seq": seq}
                async with session.post(f"/api/environment/{env_id}/step", json=body) as answer:
                    assert answer.status == 200
            async with session.post(f"/api/environment/{env_id}/close") as answer:
                return answer.status

        async with no_hang():
            statuses = await asyncio.gather(*(play() for _ in range(1000)))
    assert statuses == [200] * 1000


@pytest.mark.parametrize(
    "path", ["/api/environment/initialize", "/api/batch/initialize", "/openenv/sokoban/reset"]
)
@pytest.mark.parametrize("encoding", ["gzip", "zstd", "br", "gzip, identity", "GZip"])
def test_a_compressed_body_is_refused_by_name(
    patient: ServerProcess, problem: Problem, path: str, encoding: str
) -> None:
    body = gzip.compress(orjson.dumps({"env_name": LAKE, "num_envs": 1}))
    with httpx.Client(base_url=patient.url, timeout=HANG_S) as client:
        answer = client.post(path, content=body, headers={"Content-Encoding": encoding})
        found = problem(answer, 415, "content_encoding_not_supported")
        assert found["content_encoding"] == encoding
        assert answer.headers["accept-encoding"] == "identity"
        # The connection goes on.
        plain = orjson.dumps({"env_name": LAKE})
        named = {"Content-Encoding": "Identity"}
        assert client.post("/api/environment/initialize", content=plain, headers=named).status_code == 200
