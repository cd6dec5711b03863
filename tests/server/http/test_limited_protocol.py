"""Connections that do not get on, or want too much: on real sockets."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import orjson
import pytest
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from tests.server.conftest import Wire
from tests.server.served import Served, http_request, post
from tests.waiting import HANG_S, NEVER_S, eventually

STEP = "/api/environment/nobody/step"
CHUNKED = "Transfer-Encoding: chunked"
HEAD = b"POST %b HTTP/1.1\r\nHost: localhost\r\n" % STEP.encode()
TOKEN = "the-right-token"


@pytest.fixture(scope="module")
def hasty() -> Iterator[Served]:
    """A server that gives up soon."""
    made = Served(
        http_limits={"body_timeout_s": 0.5},
        connection_limits={"header_timeout_s": 0.5},
        uvicorn_options={"timeout_keep_alive": 1},
    )
    yield made
    made.stop()


@pytest.fixture(scope="module")
def narrow() -> Iterator[Served]:
    """A server that takes in little at a time."""
    made = Served(
        connection_limits={"max_header_bytes": 20_000, "max_headers": 50, "max_url_bytes": 500},
    )
    yield made
    made.stop()


@pytest.fixture
def wire(hasty: Served) -> Iterator[Wire]:
    made = Wire(hasty.port)
    yield made
    made.close()


@pytest.fixture
def narrow_wire(narrow: Served) -> Iterator[Wire]:
    made = Wire(narrow.port)
    yield made
    made.close()


def refused(wire: Wire) -> tuple[int, str]:
    """Status and code of the answer, after which the connection ends."""
    status, headers, body = wire.answer()
    assert headers[b"content-type"] == b"application/problem+json"
    assert headers[b"connection"] == b"close"
    assert headers[b"x-request-id"]
    assert wire.is_closed()
    return status, orjson.loads(body)["code"]


@contextmanager
def sending(wire: Wire, pieces: Iterable[bytes], pause_s: float = 0.0) -> Iterator[None]:
    """Send beside everything else, until the server has had enough; the connection is closed in the end."""

    def send() -> None:
        # The connection may be closed under its hands.
        with suppress(OSError):
            for piece in pieces:
                if not wire.send(piece):
                    return
                time.sleep(pause_s)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        wire.close()
        thread.join(HANG_S)


def dripping(wire: Wire, data: bytes, pause_s: float = 0.02) -> AbstractContextManager[None]:
    """As :func:`sending`, byte by byte."""
    return sending(wire, (bytes([byte]) for byte in data), pause_s)


def is_healthy(served: Served) -> bool:
    wire = Wire(served.port)
    wire.send(http_request("GET", "/healthz"))
    status, _, _ = wire.answer()
    wire.close()
    return status == 200


# --- time -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"\r\n\r\n\r\n"])
def test_a_connection_that_says_nothing_is_closed(wire: Wire, sent: bytes) -> None:
    started = time.monotonic()
    wire.send(sent)
    assert wire.is_closed()
    assert time.monotonic() - started > 0.4


def test_line_breaks_do_not_keep_a_connection(hasty: Served, wire: Wire) -> None:
    for request in (http_request("GET", "/healthz"), post(STEP, b"{}")):
        other = Wire(hasty.port)
        other.send(request)
        other.answer()
        with dripping(other, b"\r\n" * 1000):
            assert other.is_closed()


@pytest.mark.parametrize("sent", [b"P", b"POST /api", HEAD, HEAD + b"X-Part: of"])
def test_a_head_that_stalls_is_a_timeout(wire: Wire, sent: bytes) -> None:
    wire.send(sent)
    assert refused(wire) == (408, "header_timeout")


def test_a_head_that_drips_is_a_timeout(wire: Wire) -> None:
    with dripping(wire, HEAD + b"X: " + b"x" * 10_000):
        assert refused(wire) == (408, "header_timeout")


def test_a_second_head_on_a_connection_has_its_time_as_well(wire: Wire) -> None:
    for request in (post(STEP, b"{}"), http_request("GET", "/healthz")):
        wire.send(request)
        wire.answer()
    wire.send(HEAD)
    assert refused(wire) == (408, "header_timeout")


@pytest.mark.parametrize("path", [STEP, "/api/batch/step", "/mcp", "/nothing", "/docs", "/healthz"])
@pytest.mark.parametrize("framing", ["Content-Length: 1000", CHUNKED])
def test_a_body_that_drips_ends(wire: Wire, path: str, framing: str) -> None:
    body = b"x" * 1000 if "Length" in framing else b"1\r\nx\r\n" * 1000
    wire.send(
        http_request("POST", path, b"", framing, "Accept: application/json", "Content-Type: application/json")
    )
    with dripping(wire, body, 0.05):
        assert wire.answer()[0] in (404, 405, 408)
        # A page is answered without a look at what may come yet.
        assert wire.is_closed()


def test_an_unauthorised_body_is_not_waited_for() -> None:
    served = Served(auth_tokens=(TOKEN,), http_limits={"body_timeout_s": NEVER_S})
    try:
        for path in (STEP, "/api/batch/step", "/mcp", "/api/environment/initialize"):
            for framing in ("Content-Length: 40000", CHUNKED):
                wire = Wire(served.port)
                wire.send(http_request("POST", path, b"", "Authorization: Bearer wrong", framing))
                status, headers, _ = wire.answer()
                assert (status, headers[b"connection"]) == (401, b"close")
                wire.close()
        # One that is there already does no harm to the connection.
        wire = Wire(served.port)
        for path in (STEP, "/api/batch/step", "/mcp"):
            wire.send(post(path, b"{}"))
            status, headers, _ = wire.answer()
            assert (status, b"connection" in headers) == (401, False)
        wire.close()
    finally:
        served.stop()


def test_a_pipelined_request_waits_as_long_as_the_one_before_it_takes(hasty: Served, tmp_path: Any) -> None:
    gate, entered = tmp_path / "gate", tmp_path / "entered"
    env_id = hasty.initialize("slow/gated-v0")
    wire = Wire(hasty.port)
    action = orjson.dumps({"action": {"entered": str(entered), "gate": str(gate)}})
    wire.send(post(f"/api/environment/{env_id}/step", action) + HEAD)
    eventually(entered.exists)
    time.sleep(1.2)
    gate.touch()
    assert wire.answer()[0] == 200
    wire.send(b"Content-Length: 2\r\n\r\n{}")
    assert wire.answer()[0] == 422
    wire.close()


# --- size -----------------------------------------------------------------------------------------------------


# Made when they are sent: every process that runs tests collects all of them.
@pytest.mark.parametrize(
    "make",
    [
        lambda: HEAD + b"X: " + b"x" * 25_000 + b"\r\n\r\n",
        lambda: HEAD + b"".join(b"X-%d: %b\r\n" % (nth, b"x" * 1000) for nth in range(30)) + b"\r\n",
        lambda: HEAD + b"".join(b"X-%d: x\r\n" % nth for nth in range(60)) + b"\r\n",
        lambda: HEAD + b"X: " + b"x" * 50_000_000,
        lambda: HEAD + b"a:b\r\n" * 10_000_000,
        lambda: b"x" * 0 + HEAD + b"x" * 50_000_000,
    ],
    ids=["long", "together", "many", "endless value", "endless headers", "endless name"],
)
def test_heads_beyond_the_limits_are_refused(
    narrow: Served, narrow_wire: Wire, make: Callable[[], bytes]
) -> None:
    with sending(narrow_wire, [make()]):
        status, headers, body = narrow_wire.answer()
        assert (status, orjson.loads(body)["code"]) == (431, "headers_too_large")
        assert headers[b"connection"] == b"close"
        assert is_healthy(narrow)


@pytest.mark.parametrize("url", [b"/" + b"x" * 600, b"/?" + b"x" * 600, STEP.encode() + b"x" * 600])
def test_a_target_that_is_too_long_is_refused(narrow_wire: Wire, url: bytes) -> None:
    narrow_wire.send(b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % url)
    assert refused(narrow_wire) == (414, "url_too_long")


def test_heads_within_the_limits_are_read(narrow: Served, narrow_wire: Wire) -> None:
    for extra in (["X: " + "x" * 19_000], [f"X-{nth}: {nth}" for nth in range(45)]):
        narrow_wire.send(http_request("GET", "/healthz", b"", *extra))
        assert narrow_wire.answer()[0] == 200
    # Piece by piece, and with more than one request in a piece.
    big = http_request("GET", "/healthz", b"", "X: " + "x" * 15_000)
    narrow_wire.send(big[:9_000])
    time.sleep(0.05)
    narrow_wire.send(big[9_000:] + big + big)
    for _ in range(3):
        assert narrow_wire.answer()[0] == 200


@pytest.mark.parametrize(
    "make",
    [
        lambda: b"X: " + b"x" * 50_000_000,
        lambda: b"a: b\r\n" * 8_000_000,
        lambda: b"X: " + b"x" * 25_000 + b"\r\n\r\n",
    ],
    ids=["endless", "many", "long"],
)
@pytest.mark.parametrize("path", [STEP, "/mcp", "/docs"])
def test_trailers_beyond_the_limits_are_refused(
    narrow: Served, narrow_wire: Wire, path: str, make: Callable[[], bytes]
) -> None:
    narrow_wire.send(http_request("POST", path, b"2\r\n{}\r\n0\r\n", CHUNKED))
    with sending(narrow_wire, [make()]):
        assert narrow_wire.answer()[0] in (404, 405, 422, 431)
        assert narrow_wire.is_closed()
        assert is_healthy(narrow)


@pytest.mark.parametrize(
    ("path", "more", "first", "rest"),
    [
        ("/healthz", "X: " + "x" * 9_000, b"", b"a: b\r\n" * 60 + b"X: " + b"x" * 60_000),
        (STEP, CHUNKED, b"2\r\n{}\r\n0\r\n", b"X: " + b"x" * 40_000 + b"\r\ny: " + b"x" * 20_000),
    ],
    ids=["head", "trailers"],
)
def test_what_breaks_two_limits_at_once_is_refused_once(
    narrow: Served,
    narrow_wire: Wire,
    caplog: pytest.LogCaptureFixture,
    path: str,
    more: str,
    first: bytes,
    rest: bytes,
) -> None:
    request = http_request("POST" if first else "GET", path, first, more)
    narrow_wire.send(request if first else request[:-2])
    time.sleep(0.05)
    narrow_wire.send(rest)
    assert narrow_wire.answer()[0] in (422, 431)
    assert narrow_wire.is_closed()
    assert is_healthy(narrow)
    assert "Fatal error" not in caplog.text


def test_what_stands_around_chunks_is_limited(narrow: Served, narrow_wire: Wire) -> None:
    narrow_wire.send(http_request("POST", STEP, b"", CHUNKED))
    with sending(narrow_wire, [b"1;" + b"x" * 20_000_000]):
        assert narrow_wire.answer()[0] in (408, 431)
        assert is_healthy(narrow)


def test_a_trailer_is_no_header(narrow: Served, narrow_wire: Wire) -> None:
    late = b"X-Request-Id: from-a-trailer\r\nHost: evil.example\r\nOrigin: https://evil.example\r\n"
    narrow_wire.send(http_request("POST", STEP, b"2\r\n{}\r\n0\r\n" + late + b"\r\n", CHUNKED))
    status, headers, _ = narrow_wire.answer()
    assert status == 422
    assert headers[b"x-request-id"] != b"from-a-trailer"
    narrow_wire.send(http_request("GET", "/healthz"))
    assert narrow_wire.answer()[0] == 200


def test_the_end_of_a_large_body_does_not_count_as_head(narrow: Served, narrow_wire: Wire) -> None:
    first = post(STEP, b" " * 45_000)
    narrow_wire.send(first[:5_000])
    time.sleep(0.05)
    # The piece with the head's beginning is longer than a head may be.
    narrow_wire.send(first[5_000:] + HEAD)
    assert narrow_wire.answer()[0] == 400
    narrow_wire.send(b"Content-Length: 2\r\n\r\n{}")
    assert narrow_wire.answer()[0] == 422


def test_a_head_that_begins_in_a_large_piece_is_limited(narrow_wire: Wire) -> None:
    narrow_wire.send(post(STEP, b" " * 45_000) + HEAD + b"X: " + b"x" * 15_000)
    assert narrow_wire.answer()[0] == 400
    narrow_wire.send(b"x" * 15_000 + b"\r\n\r\n")
    assert refused(narrow_wire) == (431, "headers_too_large")


def test_trailers_of_one_request_do_not_count_for_the_next_one(narrow_wire: Wire) -> None:
    trailers = b"".join(b"X-%d: %b\r\n" % (nth, b"x" * 1_000) for nth in range(15))
    for _ in range(4):
        narrow_wire.send(http_request("POST", STEP, b"2\r\n{}\r\n0\r\n" + trailers + b"\r\n", CHUNKED))
        assert narrow_wire.answer()[0] == 422


# --- how many -------------------------------------------------------------------------------------------------


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    made: list[Served] = []

    def start(**settings: Any) -> Served:
        made.append(Served(**settings))
        return made[-1]

    yield start
    for server in made:
        server.stop()


def test_connections_beyond_the_limit_are_told_so_until_others_leave(serve: Callable[..., Served]) -> None:
    # All of these come from this machine, as those of a proxy here do: for one address there is no limit.
    served = serve(connection_limits={"max_connections": 5, "max_connections_per_address": 1})
    wires = [Wire(served.port) for _ in range(5)]
    for wire in wires:
        wire.send(http_request("GET", "/healthz"))
        assert wire.answer()[0] == 200
    many = [Wire(served.port) for _ in range(3)]
    for wire in many:
        status, headers, body = wire.answer()
        problem = orjson.loads(body)
        assert (status, problem["code"], problem["resource"], problem["limit"]) == (
            503,
            "at_capacity",
            "connections",
            5,
        )
        assert headers[b"retry-after"]
        assert wire.is_closed()
        wire.close()
    # Those that were there before notice nothing.
    for wire in wires:
        wire.send(post(STEP, b"{}"))
        assert wire.answer()[0] == 422
        wire.close()
    eventually(lambda: served.app.dispatcher.connections.open == 0)
    assert is_healthy(served)
    assert served.app.dispatcher.connections.closed["too_many"] == 3


def test_a_flood_of_connections_is_hung_up_on_without_a_word(serve: Callable[..., Served]) -> None:
    served = serve(connection_limits={"max_connections": 2})
    wires = [Wire(served.port) for _ in range(60)]
    eventually(lambda: served.app.dispatcher.connections.closed["too_many"] == 58)
    assert served.app.dispatcher.connections.open <= 2 + 32
    for wire in wires:
        wire.close()
    eventually(lambda: served.app.dispatcher.connections.open == 0)
    assert is_healthy(served)


# --- answers --------------------------------------------------------------------------------------------------


def test_a_client_that_does_not_read_its_answer_is_hung_up_on(serve: Callable[..., Served]) -> None:
    served = serve(connection_limits={"send_timeout_s": 0.5})
    served.app.metrics.text = lambda: b"x" * 50_000_000  # type: ignore[method-assign]
    reader = socket.create_connection(("127.0.0.1", served.port), timeout=HANG_S)
    reader.sendall(http_request("GET", "/metrics"))
    connections = served.app.dispatcher.connections
    eventually(lambda: connections.closed["slow_reader"] == 1)
    eventually(lambda: connections.open == 0)
    reader.close()
    assert is_healthy(served)


def test_a_slow_reader_gets_all_of_its_answer(serve: Callable[..., Served]) -> None:
    served = serve(connection_limits={"send_timeout_s": 0.5})
    served.app.metrics.text = lambda: b"x" * 20_000_000  # type: ignore[method-assign]
    with socket.create_connection(("127.0.0.1", served.port), timeout=HANG_S) as reader:
        reader.sendall(http_request("GET", "/metrics", b"", "Connection: close"))
        received = 0
        while part := reader.recv(400_000):
            received += len(part)
            time.sleep(0.02)
    assert received > 20_000_000
    assert served.app.dispatcher.connections.closed["slow_reader"] == 0


# --- upgrades -------------------------------------------------------------------------------------------------

UPGRADE = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEA")
"""What curl's --http2 and the client of Java ask for with every request."""


@pytest.mark.parametrize("piece_bytes", [1, 1 << 20], ids=["bytes", "whole"])
def test_a_request_that_asks_for_another_protocol_keeps_its_body(narrow: Served, piece_bytes: int) -> None:
    body = b'{"env_name":"frozen_lake","seed":7}'
    path = "/api/environment/initialize"
    chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    requests = [
        post(path, body, *UPGRADE),
        post(path, body),
        http_request("POST", path, chunk, *UPGRADE, CHUNKED),
        http_request("GET", "/healthz", b"", *UPGRADE),
    ]
    data = b"".join(requests)
    wire = Wire(narrow.port)
    with sending(wire, [data[at : at + piece_bytes] for at in range(0, len(data), piece_bytes)]):
        answers = [wire.answer() for _ in requests]
    assert [status for status, _, _ in answers] == [200] * 4
    assert [orjson.loads(made)["info"]["seed"] for _, _, made in answers[:3]] == [7, 7, 7]


def test_many_upgrades_in_one_piece_are_answered(narrow: Served) -> None:
    wire = Wire(narrow.port)
    with sending(wire, [http_request("GET", "/healthz", b"", *UPGRADE) * 2000]):
        assert [wire.answer()[0] for _ in range(2000)] == [200] * 2000


def test_a_head_is_limited_also_where_it_is_read_twice(narrow_wire: Wire) -> None:
    narrow_wire.send(http_request("GET", "/healthz", b"", *UPGRADE, f"X-Header: {'x' * 30_000}"))
    assert refused(narrow_wire) == (431, "headers_too_large")


def test_a_message_in_one_piece_with_its_handshake_is_answered(narrow: Served) -> None:
    uri = parse_uri(f"ws://127.0.0.1:{narrow.port}/openenv/frozen_lake/ws")
    client = ClientProtocol(uri)
    client.send_request(client.connect())
    handshake = b"".join(client.data_to_send())
    declined = http_request("GET", "/healthz", b"", *UPGRADE)
    for before in (b"", declined):
        wire = Wire(narrow.port)
        wire.send(before + handshake + Frame(Opcode.TEXT, b'{"type":"state"}').serialize(mask=True))
        if before:
            assert wire.answer()[0] == 200
        assert wire.answer()[0] == 101
        head = wire.read(2)
        assert head[0] == 0x81
        assert b'"step_count":0' in wire.read(head[1])
        wire.close()
