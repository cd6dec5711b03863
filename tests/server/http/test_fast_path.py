"""The fast path of requests: on real sockets, and by feeding the protocol piece by piece."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, cast

import httpx
import orjson
import pytest
import uvicorn
from uvicorn.server import ServerState

from tests.conftest import StartServer
from tests.server.conftest import RIGHT, Wire
from tests.server.served import RUDE, STEERED, Served, WatchedProtocol, http_request, post
from tests.waiting import HANG_S, eventually, no_hang
from verl_agent_env.config import ConnectionLimits, HttpLimits, ServerSettings
from verl_agent_env.engine import AwaitableOrValue, PendingAnswer, await_maybe
from verl_agent_env.engine.group_commit.groups import Group, OnEnd
from verl_agent_env.errors import MovedError, StoreUnavailableError, VerlAgentEnvError
from verl_agent_env.server import create_app
from verl_agent_env.server.cluster.identity import WorkerIdentity
from verl_agent_env.server.http.admission import Admission
from verl_agent_env.server.http.connections import Connections
from verl_agent_env.server.http.dispatcher import DISPATCHER_STATE, Dispatcher
from verl_agent_env.server.http.exchange import Exchange
from verl_agent_env.server.http.logs import JsonFormatter, current_request_id
from verl_agent_env.server.http.peer import Peer
from verl_agent_env.server.http.proxies import TrustedProxies
from verl_agent_env.server.http.types import Handler, Request, Response, Route
from verl_agent_env.types import new_env_id

MAPPED = {"desc": ["SFF", "FFF", "FFG"], "is_slippery": False, "max_steps": 1_000_000}
STEP = orjson.dumps({"action": RIGHT})


def path_of(env_id: str, verb: str = "/step") -> str:
    return f"/api/environment/{env_id}{verb}"


def step(env_id: str, body: bytes = STEP, *headers: str) -> bytes:
    return post(path_of(env_id), body, *headers)


@pytest.fixture(scope="module")
def shared() -> Iterator[Served]:
    """A server with default settings and a small limit of the body."""
    made = Served()
    yield made
    made.stop()


@pytest.fixture
def served(shared: Served) -> Served:
    """The shared server, nothing noted of it yet."""
    WatchedProtocol.fallbacks.clear()
    return shared


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """A function that serves an application of its own with these settings."""
    made: list[Served] = []

    def start(**settings: Any) -> Served:
        made.append(Served(**settings))
        WatchedProtocol.fallbacks.clear()
        return made[-1]

    yield start
    for server in made:
        server.stop()


@pytest.fixture
def wire(served: Served) -> Iterator[Wire]:
    made = Wire(served.port)
    yield made
    made.close()


@pytest.fixture
def lake(served: Served) -> str:
    env_id = served.initialize(env_kwargs=MAPPED)
    WatchedProtocol.fallbacks.clear()
    return env_id


# --- which way ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "verb"), [("POST", "/step"), ("POST", "/reset"), ("POST", "/close"), ("GET", "")]
)
def test_calls_that_need_not_wait_take_the_fast_path(wire: Wire, lake: str, method: str, verb: str) -> None:
    body = STEP if verb == "/step" else b""
    wire.send(http_request(method, path_of(lake, verb), body, f"Content-Length: {len(body)}"))
    status, headers, _ = wire.answer()
    assert (status, headers[b"content-type"]) == (200, b"application/json")
    assert WatchedProtocol.fallbacks == []


def test_an_environment_that_does_not_run_inline_takes_the_fast_path_too(served: Served, wire: Wire) -> None:
    env_id = served.initialize("single_turn_chat", env_kwargs={"task_prompt": "?"})
    WatchedProtocol.fallbacks.clear()
    wire.send(step(env_id, b'{"action":"an answer","seq":0}'))
    status, _, body = wire.answer()
    assert (status, orjson.loads(body)["done"]) == (200, True)
    assert WatchedProtocol.fallbacks == []


@pytest.mark.parametrize("sign", "%?#")
def test_a_target_with_more_than_a_path_takes_the_slow_path(wire: Wire, lake: str, sign: str) -> None:
    target = path_of(f"%{ord(lake[0]):x}{lake[1:]}", "") if sign == "%" else f"{path_of(lake, '')}{sign}x"
    wire.send(http_request("GET", target))
    assert wire.answer()[0] == 200
    assert WatchedProtocol.fallbacks == [target.encode()]


@pytest.mark.parametrize(("size", "status", "ways"), [(100, 400, 0), (101, 413, 1), (1000, 413, 1)])
def test_a_body_above_its_limit_is_left_to_the_slow_path(
    serve: Callable[..., Served], size: int, status: int, ways: int
) -> None:
    served = serve(http_limits={"max_body_bytes": 100})
    wire = Wire(served.port)
    wire.send(step("nobody", b"x" * size))
    assert wire.answer()[0] == status
    assert len(WatchedProtocol.fallbacks) == ways
    wire.close()


@pytest.mark.parametrize(
    "options", [{"limit_concurrency": 1000}, {"root_path": "/mounted"}, {"access_log": True}], ids=str
)
def test_what_uvicorn_is_told_of_every_request_holds(
    serve: Callable[..., Served], options: dict[str, Any]
) -> None:
    served = serve(uvicorn_options=options)
    wire = Wire(served.port)
    wire.send(http_request("GET", path_of("nobody", "")))
    assert wire.answer()[0] == 404
    wire.close()
    assert WatchedProtocol.fallbacks == [b"/api/environment/nobody"]


def test_another_application_is_served_as_by_uvicorn() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = [(b"content-length", b"2")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"hi"})

    async def exchange() -> bytes:
        protocol, transport = connected(app, {})
        protocol.data_received(step("any"))
        return await transport.written_up_to(b"hi")

    assert asyncio.run(exchange()).startswith(b"HTTP/1.1 200 OK\r\n")


# --- how requests arrive --------------------------------------------------------------------------------------


def test_a_request_in_many_packets_is_one_request(wire: Wire, lake: str) -> None:
    request = step(lake, b'{"action":"down","seq":0}')
    cuts = [0, 10, 60, len(request) - 30, len(request) - 12, len(request)]
    for start, end in itertools.pairwise(cuts):
        wire.send(request[start:end])
        time.sleep(0.005)
    assert wire.answer()[0] == 200


def test_a_body_that_comes_late_is_waited_for_on_the_slow_path(wire: Wire, lake: str) -> None:
    request = step(lake, b'{"action":"down","seq":0}')
    wire.send(request[:-10])
    eventually(lambda: WatchedProtocol.fallbacks == [path_of(lake).encode()])
    wire.send(request[-10:])
    assert wire.answer()[0] == 200
    wire.send(step(lake, b'{"action":"down","seq":1}'))
    assert wire.answer()[0] == 200
    assert len(WatchedProtocol.fallbacks) == 1


def test_a_body_that_never_comes_is_a_timeout(serve: Callable[..., Served]) -> None:
    served = serve(http_limits={"body_timeout_s": 0.3})
    wire = Wire(served.port)
    wire.send(step("nobody")[:-1])
    status, headers, body = wire.answer()
    assert (status, orjson.loads(body)["code"]) == (408, "body_timeout")
    assert headers[b"connection"] == b"close"
    assert wire.is_closed()
    wire.close()


def test_pipelined_requests_are_answered_in_order(wire: Wire, lake: str) -> None:
    count = 40
    requests = []
    for seq in range(count):
        requests += [
            step(lake, b'{"action":"%b","seq":%d}' % (b"left" if seq % 2 else b"right", seq)),
            http_request("GET", path_of(lake, "")),
            http_request("GET", "/healthz"),
        ]
    wire.send(b"".join(requests))
    for seq in range(count):
        status, _, stepped = wire.answer()
        assert (status, orjson.loads(stepped)["info"]["num_steps"]) == (200, seq + 1)
        assert orjson.loads(wire.answer()[2])["seq"] == seq + 1
        assert wire.answer()[0] == 200
    # One of each piece that came in; the others give way to whoever else has sent something.
    assert len(WatchedProtocol.fallbacks) > count


def test_a_client_that_leaves_before_its_answer_leaves_no_trace(served: Served, lake: str) -> None:
    for piece in (step(lake)[:-1], step(lake)[:40], step(lake)):
        leaver = Wire(served.port)
        leaver.send(piece)
        leaver.close()
    state = served.server.server_state
    eventually(lambda: not state.connections and not state.tasks)


# --- what is counted and logged -------------------------------------------------------------------------------


def counted(served: Served, line: str) -> float:
    text = served.app.metrics.text().decode()
    return sum(float(found.rsplit(" ", 1)[1]) for found in text.splitlines() if found.startswith(line))


def test_every_request_is_counted_once(served: Served, wire: Wire, lake: str) -> None:
    chat = served.initialize("single_turn_chat", env_kwargs={"task_prompt": "?"})
    route = 'verl_agent_env_request_seconds_count{route="/api/environment/{env_id}/step"}'
    errors = 'verl_agent_env_errors_total{code="malformed_body"}'
    before = counted(served, route), counted(served, errors), served.server.server_state.total_requests
    for request in (
        step(lake),
        step(chat, b'{"action":"a"}'),
        step(lake, b"{"),
        step(chat, b"{"),
        step(lake),
    ):
        wire.send(request)
        wire.answer()
    after = counted(served, route), counted(served, errors), served.server.server_state.total_requests
    assert [now - then for now, then in zip(after, before, strict=True)] == [5, 2, 5]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What is logged, as JSON lines made where it is logged."""
    for name in ("uvicorn", "uvicorn.error"):
        # A server with uvicorn's own logging may have run in this process before.
        logger = logging.getLogger(name)
        for attribute, value in (("propagate", True), ("disabled", False), ("level", logging.NOTSET)):
            monkeypatch.setattr(logger, attribute, value)
    written: list[dict[str, Any]] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            written.append(orjson.loads(JsonFormatter().format(record)))

    keeper = Keeper()
    root = logging.getLogger()
    level = root.level
    root.addHandler(keeper)
    root.setLevel("INFO")
    yield written
    root.setLevel(level)
    root.removeHandler(keeper)


@pytest.mark.parametrize(
    ("action", "code"),
    [
        ("raise", "environment_failed"),
        ("exit", "environment_failed"),
        ("interrupt", "internal_error"),
    ],
)
def test_what_an_environment_raises_is_answered_and_logged_under_the_requests_id(
    served: Served, wire: Wire, lines: list[dict[str, Any]], action: str, code: str
) -> None:
    env_id = served.initialize(RUDE)
    WatchedProtocol.fallbacks.clear()
    wire.send(step(env_id, orjson.dumps({"action": action}), f"X-Request-Id: rude-{action}"))
    status, headers, body = wire.answer()
    assert (status, orjson.loads(body)["code"]) == (500, code)
    assert headers[b"x-request-id"] == f"rude-{action}".encode()
    fault, request = (line for line in lines if line.get("request_id") == f"rude-{action}")
    assert "told to" in fault["traceback"]
    assert (request["message"], request["status"], request["code"]) == ("request", 500, code)
    wire.send(step(env_id, b'{"action":"nothing"}'))
    assert wire.answer()[0] == 200
    assert WatchedProtocol.fallbacks == []


def test_an_id_ends_with_its_request(wire: Wire, lake: str, lines: list[dict[str, Any]]) -> None:
    wire.send(step(lake, STEP, "X-Request-Id: earlier-1"))
    wire.answer()
    wire.send(b"nonsense\r\n\r\n")
    assert wire.answer()[0] == 400
    (warning,) = (line for line in lines if "Invalid HTTP" in line["message"])
    assert "request_id" not in warning


def test_all_requests_are_logged_if_told_so(
    serve: Callable[..., Served], lines: list[dict[str, Any]]
) -> None:
    served = serve(access_log=True)
    wire = Wire(served.port)
    wire.send(http_request("GET", path_of("nobody", ""), b"", "X-Request-Id: logged-1"))
    assert wire.answer()[0] == 404
    wire.close()
    (line,) = (line for line in lines if line.get("request_id") == "logged-1")
    assert (line["method"], line["path"], line["status"]) == ("GET", path_of("nobody", ""), 404)
    assert line["code"] == "environment_not_found"


@pytest.mark.parametrize("raised", [RuntimeError, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
async def test_whatever_a_handler_raises_is_answered(raised: type[BaseException]) -> None:
    def handler(request: Request) -> Response:
        raise raised

    protocol, transport = served_by(handler)
    protocol.data_received(step("x"))
    (written,) = transport.written
    assert b" 500 " in written
    assert b'"internal_error"' in written
    protocol.connection_lost(None)


async def test_only_the_owner_of_an_environment_answers_at_once() -> None:
    pool = ("127.0.0.1:1", "127.0.0.1:2")
    app = create_app(ServerSettings(), identity=WorkerIdentity(pool[0], pool, "supervisor"))
    answers = set()
    for slot in range(64):
        env_id = new_env_id(slot)
        head = app.dispatcher.find("POST", path_of(env_id), {})
        assert head is not None
        answer = app.dispatcher.respond(head, Peer(), STEP)
        if isinstance(answer, Exchange):
            cast(Any, answer)._result.close()
        answers.add((app.worker.table.owns(slot), answer.status if isinstance(answer, Response) else None))
    assert answers == {(True, 404), (False, None)}


# --- responses that come later ----------------------------------------------------------------------------------


class Store:
    """Writes that are made when the test says so, and the calls whose answers wait for them."""

    def __init__(self) -> None:
        self.groups: list[Group] = []
        self.requests: list[Request] = []

    def deadline(self) -> float:
        return math.inf

    def call_at_end(self, group: Group, deadline: float, on_end: OnEnd) -> None:
        group.waiting.append((deadline, on_end))

    def handle(self, request: Request) -> PendingAnswer[Response]:
        """Carry out a request, whose response waits."""
        self.requests.append(request)
        self.groups.append(Group(""))
        response = Response(b'{"nth":%d}' % len(self.requests))
        return PendingAnswer(self, request.env_id, self.groups[-1], response)

    def make_writes(self, error: VerlAgentEnvError | None = None) -> None:
        """Make the writes that were asked for first; or say why not."""
        group = self.groups.pop(0)
        if error is not None:
            group.errors["x"] = error
        group.finish()


def served_by(
    handler: Handler, at_owner: Callable[[Request], Coroutine[Any, Any, Response]] | None = None
) -> tuple[WatchedProtocol, Pipe]:
    """A connection to an application with one route, and what it writes."""
    route = Route("POST", "/api/environment/{env_id}/step", handler, "", at_owner=at_owner)
    proxies = TrustedProxies()
    connections = Connections(ConnectionLimits(), proxies)
    metrics = create_app().metrics
    admission = Admission.by_settings(ServerSettings())
    dispatcher = Dispatcher([route], HttpLimits(), admission, metrics, connections)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found = dispatcher.match(scope["path"])
        assert found is not None
        await dispatcher.serve(*found, scope, receive, send)

    return connected(app, {DISPATCHER_STATE: dispatcher})


async def test_a_response_is_written_when_what_it_tells_of_is_written_and_costs_no_task() -> None:
    store = Store()
    protocol, transport = served_by(store.handle)
    protocol.data_received(step("x", STEP, "X-Request-Id: mine"))
    assert (transport.written, len(store.requests), protocol.tasks) == ([], 1, set())
    store.make_writes()
    (written,) = transport.written
    assert written.startswith(b"HTTP/1.1 200 ")
    assert b"x-request-id: mine\r\n" in written
    assert written.endswith(b'{"nth":1}')
    protocol.data_received(step("x"))
    store.make_writes()
    assert len(transport.written) == 2
    assert WatchedProtocol.fallbacks == []
    protocol.connection_lost(None)


async def test_a_refused_write_is_the_answer() -> None:
    store = Store()
    protocol, transport = served_by(store.handle)
    protocol.data_received(step("x"))
    store.make_writes(StoreUnavailableError("append", "no connection"))
    (written,) = transport.written
    assert b" 503 " in written
    assert b"retry-after: " in written
    protocol.connection_lost(None)


async def test_a_request_whose_slot_moves_before_its_write_is_made_goes_to_the_owner() -> None:
    store = Store()
    seen: list[bytes] = []

    async def at_owner(request: Request) -> Response:
        seen.append(request.body + current_request_id.get())
        return Response(b"{}there")

    protocol, transport = served_by(store.handle, at_owner)
    protocol.data_received(step("x", STEP, "X-Request-Id: mine"))
    store.make_writes(MovedError(1))
    assert (await transport.written_up_to(b"{}there")).startswith(b"HTTP/1.1 200 ")
    assert seen == [STEP + b"mine"]
    protocol.connection_lost(None)


@pytest.mark.parametrize("is_awaited", [False, True])
async def test_requests_behind_one_that_waits_are_answered_after_it(is_awaited: bool) -> None:
    store = Store()

    async def handle_later(request: Request) -> Response:
        return await await_maybe(store.handle(request))

    def handle(request: Request) -> AwaitableOrValue[Response]:
        first = handle_later if is_awaited else store.handle
        return Response(b'{"nth":2}') if store.requests else first(request)

    protocol, transport = served_by(handle)
    protocol.data_received(step("x") + step("x")[:40])
    protocol.data_received(step("x")[40:])
    for _ in range(5):
        await asyncio.sleep(0)
    assert transport.written == []
    store.make_writes()
    written = await transport.written_up_to(b'{"nth":2}', answers=2)
    assert written.index(b'{"nth":1}') < written.index(b'{"nth":2}')
    # The connection goes on as before.
    protocol.data_received(step("x"))
    await transport.written_up_to(b'{"nth":2}', answers=3)
    protocol.connection_lost(None)


async def test_a_client_that_leaves_before_its_write_is_made_hears_nothing() -> None:
    store = Store()
    protocol, transport = served_by(store.handle)
    protocol.data_received(step("x"))
    transport.close()
    protocol.connection_lost(ConnectionResetError())
    store.make_writes()
    assert (transport.written, protocol.server_state.total_requests) == ([], 1)


async def test_a_response_that_waits_is_given_before_the_server_stops() -> None:
    store = Store()
    protocol, transport = served_by(store.handle)
    protocol.data_received(step("x"))
    protocol.shutdown()
    assert not transport.is_closing()
    store.make_writes()
    (written,) = transport.written
    assert b" 200 " in written
    assert b"connection: close\r\n" in written
    assert transport.is_closing()
    protocol.connection_lost(None)


@pytest.mark.parametrize("is_awaited", [False, True])
async def test_a_server_that_waits_no_longer_says_so(is_awaited: bool) -> None:
    store = Store()

    async def handle(request: Request) -> Response:
        return await await_maybe(store.handle(request))

    protocol, transport = served_by(handle if is_awaited else store.handle)
    protocol.data_received(step("x"))
    await asyncio.sleep(0)
    protocol.shutdown()
    # As uvicorn at the end of its patience, and then the application's end.
    tasks = list(protocol.tasks)
    assert len(tasks) == is_awaited
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    dispatcher = protocol._dispatcher
    assert dispatcher is not None
    dispatcher.reject_pending()
    (written,) = transport.written
    assert b" 503 " in written
    assert b'"shutting_down"' in written
    # What comes afterwards is nobody's.
    store.make_writes()
    assert len(transport.written) == 1
    protocol.connection_lost(None)


# --- connections ----------------------------------------------------------------------------------------------


def test_an_idle_connection_is_closed_and_every_answer_counts_anew(serve: Callable[..., Served]) -> None:
    # The limit on the time of a head is not what is looked at.
    served = serve(
        uvicorn_options={"timeout_keep_alive": 1000, **STEERED},
        connection_limits={"header_timeout_s": 10_000.0},
    )
    short, long = step("x"), http_request("GET", "/healthz")
    talks = [
        (Wire(served.port), requests)
        for requests in ((short, short, short), (short, long, short), (long, short, long))
    ]
    for nth in range(3):
        # More than half of the time that it may be idle: it does not end while it is used. A new one may not be silent
        # for so long.
        served.pass_time(600 if nth else 0)
        for wire, requests in talks:
            wire.send(requests[nth])
            assert wire.answer()[0] in (200, 404)
    served.pass_time(1000)
    for wire, _ in talks:
        assert wire.is_closed()
        wire.close()


def test_a_request_under_way_is_not_idle(serve: Callable[..., Served], lines: list[dict[str, Any]]) -> None:
    # The limit on the time of a head is not what is looked at.
    served = serve(
        uvicorn_options={"timeout_keep_alive": 1000, **STEERED},
        connection_limits={"header_timeout_s": 10_000.0},
    )
    wire = Wire(served.port)
    wire.send(step("x"))
    assert wire.answer()[0] == 404
    request = step("x")
    (connection,) = served.server.server_state.connections
    assert isinstance(connection, WatchedProtocol)
    wire.send(request[:30])
    eventually(lambda: connection.timeout_keep_alive_task is None, what="the beginning of a request")
    served.pass_time(2000)
    wire.send(request[30:])
    assert wire.answer()[0] == 404
    served.pass_time(1000)
    assert wire.is_closed()
    wire.close()


def test_a_client_that_does_not_read_is_not_read_from(served: Served, wire: Wire) -> None:
    env_id = served.initialize(env_kwargs={"size": 64, "frozen_prob": 1.0, "max_steps": 1_000_000})
    state = served.server.server_state
    request = step(env_id, b'{"action":"left"}')
    sent = 0
    eventually(lambda: len(state.connections) == 1, what="this connection alone")
    (connection,) = state.connections
    assert isinstance(connection, WatchedProtocol)

    def is_answered() -> bool:
        before = state.total_requests
        assert wire.send(request)
        eventually(lambda: state.total_requests > before or connection.flow.write_paused, what="an answer")
        return state.total_requests > before

    # One after the other until the answers have filled the buffers of both ends, and then a few more.
    while is_answered():
        sent += 1
        assert sent < 20_000
    assert wire.send(request * 3)
    eventually(lambda: connection.flow.read_paused)
    assert connection.flow.write_paused
    assert connection.transport.get_write_buffer_size() < 200_000
    for _ in range(sent + 4):
        status, _, body = wire.answer()
        assert (status, body[-1:]) == (200, b"}")


def test_a_server_that_stops_leaves_no_answer_half(start_server: StartServer) -> None:
    server = start_server()
    with httpx.Client(base_url=server.url, timeout=HANG_S) as client:
        made = client.post(
            "/api/environment/initialize", json={"env_name": "frozen_lake", "env_kwargs": MAPPED}
        )
    request = step(made.json()["env_id"], b'{"action":"left"}')
    answered = [0] * 4
    faults: list[str] = []
    begun = threading.Barrier(5)

    def play(nth: int) -> None:
        wire = Wire(server.port)
        begun.wait()
        while wire.send(request):
            try:
                status, _, body = wire.answer()
            except (ConnectionError, AssertionError) as ended:
                if "after b''" not in str(ended) and not isinstance(ended, ConnectionError):
                    faults.append(str(ended))
                break
            if status != 200 or not body.endswith(b"}"):
                faults.append(f"{status} {body!r}")
            answered[nth] += 1
        wire.close()

    players = [threading.Thread(target=play, args=(nth,)) for nth in range(4)]
    for player in players:
        player.start()
    begun.wait()
    while min(answered) < 50:
        time.sleep(0.005)
    assert server.stop(signal.SIGTERM) == 0
    for player in players:
        player.join(HANG_S)
    assert faults == []


# --- piece by piece -------------------------------------------------------------------------------------------


class Pipe(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self._news = asyncio.Event()
        self._closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))
        self._news.set()

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True

    def abort(self) -> None:
        self._closing = True

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self.written))

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    async def written_up_to(self, end: bytes, answers: int = 1) -> bytes:
        """All that was written, once it is so many answers and ends so."""
        async with no_hang():
            while True:
                written = b"".join(self.written)
                if written.count(b"HTTP/1.1 ") == answers and written.endswith(end):
                    return written
                self._news.clear()
                await self._news.wait()


def connected(app: Any, state: dict[str, Any]) -> tuple[WatchedProtocol, Pipe]:
    """A protocol on a connection that was just made."""
    WatchedProtocol.fallbacks.clear()
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none")
    config.load()
    protocol = WatchedProtocol(config, ServerState(), state, asyncio.get_running_loop())
    transport = Pipe()
    protocol.connection_made(transport)
    return protocol, transport


def quick() -> tuple[WatchedProtocol, Pipe]:
    """A protocol whose application answers at once."""
    app = create_app()
    return connected(app, {DISPATCHER_STATE: app.dispatcher})


async def test_a_request_may_be_cut_anywhere() -> None:
    protocol, transport = quick()
    request = step("nobody", STEP, "X-Request-Id: cut-1")
    protocol.data_received(request)
    (whole,) = transport.written
    for cut in range(1, len(request)):
        transport.written.clear()
        protocol.data_received(request[:cut])
        assert transport.written == []
        protocol.data_received(request[cut:])
        assert transport.written == [whole]
    assert WatchedProtocol.fallbacks == []
    protocol.connection_lost(None)


async def test_of_many_requests_at_once_one_is_answered_before_others_get_their_turn() -> None:
    protocol, transport = quick()
    requests = [step("nobody", STEP, f"X-Request-Id: id-{nth}") for nth in range(4)]
    protocol.data_received(b"".join(requests[:3]))
    assert len(transport.written) == 1
    # Those before it are waiting still.
    protocol.data_received(requests[3])
    assert len(transport.written) == 1
    written = await transport.written_up_to(b"}", answers=4)
    given = [part.partition(b"\r\n")[0] for part in written.split(b"x-request-id: ")[1:]]
    assert given == [b"id-0", b"id-1", b"id-2", b"id-3"]
    protocol.connection_lost(None)


async def test_a_connection_that_is_lost_leaves_no_timer() -> None:
    protocol, _ = quick()
    request = step("nobody")
    protocol.data_received(request)
    protocol.data_received(request[:-1])
    timers = protocol._idle_timer, protocol._body_timer
    protocol.connection_lost(ConnectionResetError())
    assert [timer is not None and timer.cancelled() for timer in timers] == [True, True]


class CountingEvent(asyncio.Event):
    """Counts how often it is set."""

    count = 0

    def set(self) -> None:
        self.count += 1
        super().set()


async def test_the_tiny_chunks_of_a_piece_are_put_together_once() -> None:
    protocol, transport = quick()
    head = http_request("POST", "/api/environment/nobody/step", b"", "Transfer-Encoding: chunked")
    protocol.data_received(head)
    protocol.cycle.message_event = event = CountingEvent()
    protocol.data_received(b"".join(b"1\r\n%c\r\n" % byte for byte in STEP * 100 + b" " * 40_000))
    # uvicorn copies all that there is of a body each time.
    assert event.count == 1
    assert protocol.cycle.body == STEP * 100 + b" " * 40_000
    protocol.data_received(b"0\r\n\r\n")
    assert b" 400 " in await transport.written_up_to(b"}")
    protocol.connection_lost(None)


async def test_nothing_is_answered_at_once_while_the_client_does_not_read() -> None:
    protocol, transport = quick()
    protocol.pause_writing()
    protocol.data_received(step("nobody"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert transport.written == []
    protocol.resume_writing()
    assert b" 404 " in await transport.written_up_to(b"}")
    protocol.connection_lost(None)


async def test_a_request_whose_body_is_under_way_is_answered_before_the_server_stops() -> None:
    protocol, transport = quick()
    request = step("nobody")
    protocol.data_received(request[:-5])
    protocol.shutdown()
    assert not transport.is_closing()
    protocol.data_received(request[-5:])
    written = await transport.written_up_to(b"}")
    assert b" 404 " in written
    assert b"connection: close\r\n" in written
    assert transport.is_closing()
    protocol.connection_lost(None)


async def test_a_connection_without_a_request_ends_when_the_server_stops() -> None:
    protocol, transport = quick()
    protocol.data_received(step("nobody"))
    protocol.shutdown()
    assert transport.is_closing()
    protocol.connection_lost(None)


async def test_headers_that_uvicorn_adds_are_added() -> None:
    protocol, transport = quick()
    protocol.server_state.default_headers = [(b"date", b"today"), (b"server", b"uvicorn")]
    protocol.data_received(step("nobody"))
    (answer,) = transport.written
    head = answer.partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert head[:3] == [b"HTTP/1.1 404 Not Found", b"date: today", b"server: uvicorn"]
    protocol.connection_lost(None)
