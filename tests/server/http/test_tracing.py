"""Spans of the calls of one server, as OpenTelemetry's SDK gets them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from tests.children import python
from tests.pool_process import LASTING
from tests.server.api.wires.openenv.client import OpenEnvSocket
from tests.server.api.wires.ors.client import OrsSession
from tests.server.conftest import GATED
from tests.server.served import RUDE, Served
from tests.spans_seen import SpansSeen, is_child_of, ours, parent_of, trace_of, traceparent, waits
from tests.waiting import HANG_S, eventually

INITIALIZE = "POST /api/environment/initialize"
STEP = "POST /api/environment/{env_id}/step"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture(scope="module")
def traced() -> Iterator[tuple[Served, SpansSeen]]:
    seen = SpansSeen()
    served = Served(tracer_provider=seen.provider)
    yield served, seen
    served.stop()


@pytest.fixture
def seen(traced: tuple[Served, SpansSeen]) -> SpansSeen:
    traced[1].clear()
    return traced[1]


@pytest.fixture
def http(traced: tuple[Served, SpansSeen]) -> Iterator[httpx.Client]:
    url = f"http://127.0.0.1:{traced[0].port}"
    with httpx.Client(base_url=url, timeout=HANG_S) as client:
        yield client


def make(http: httpx.Client, env_name: str = "frozen_lake", **fields: Any) -> str:
    answer = http.post("/api/environment/initialize", json={"env_name": env_name, "seed": 1, **fields})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["env_id"])


def step(http: httpx.Client, env_id: str, action: Any = "right", **options: Any) -> httpx.Response:
    return http.post(f"/api/environment/{env_id}/step", json={"action": action}, **options)


def status_of(span: ReadableSpan) -> Any:
    return (span.attributes or {})["http.response.status_code"]


def test_a_call_has_one_span_that_says_what_was_done(http: httpx.Client, seen: SpansSeen) -> None:
    env_id = make(http, run_id="run-7")
    answer = step(http, env_id, headers={"traceparent": traceparent(TRACE_ID)})
    begun, taken = seen.one(INITIALIZE), seen.one(STEP)
    about = {"env_id": env_id, "env_name": "verl_env/frozen_lake-v1", "run_id": "run-7", "outcome": "ok"}
    assert ours(begun).items() >= about.items()
    assert ours(taken).items() >= {**about, "seq": 0}.items()
    assert ours(taken)["worker"] == "local:8000"
    assert ours(taken)["request_id"] == answer.headers["x-request-id"]
    assert (taken.kind, status_of(taken)) == (SpanKind.SERVER, 200)
    assert (trace_of(taken), parent_of(taken)) == (TRACE_ID, "5" * 16)
    assert trace_of(begun) != TRACE_ID


def test_a_step_that_is_sent_again_is_the_same_step(http: httpx.Client, seen: SpansSeen) -> None:
    env_id = make(http, env_kwargs=LASTING)
    for _ in range(2):
        http.post(f"/api/environment/{env_id}/step", json={"action": "right", "seq": 0})
    step(http, env_id, "left")
    assert [ours(span)["seq"] for span in seen.named(STEP)] == [0, 0, 1]


@pytest.mark.parametrize("env_name", ["frozen_lake", RUDE, GATED])
def test_what_fails_is_told_by_its_code(http: httpx.Client, seen: SpansSeen, env_name: str) -> None:
    env_id = make(http, env_name)
    seen.clear()
    if env_name == "frozen_lake":
        http.post(f"/api/environment/{env_id}/close")
    answer = step(http, env_id, "raise")
    span = seen.one(STEP)
    assert ours(span)["outcome"] == answer.json()["code"]
    assert status_of(span) == answer.status_code
    assert (span.status.status_code == StatusCode.ERROR) == (answer.status_code >= 500)


def test_a_call_that_waits_for_another_on_its_environment_says_for_how_long(
    traced: tuple[Served, SpansSeen], http: httpx.Client, seen: SpansSeen, tmp_path: Path
) -> None:
    env_id = make(http, GATED)
    entered, gate = tmp_path / "entered", tmp_path / "gate"
    first = threading.Thread(target=step, args=(http, env_id, {"entered": str(entered), "gate": str(gate)}))
    second = threading.Thread(target=step, args=(http, env_id, "go on"))
    first.start()
    eventually(entered.exists, what="the first step")
    second.start()
    eventually(lambda: len(traced[0].app.env_host.calls.under_way) == 2, what="the second step")
    gate.touch()
    for thread in (first, second):
        thread.join(HANG_S)
    assert [waits(span) for span in seen.named(STEP)] == [{"queued": "environment"}] * 2
    waited = [(span.events[0].attributes or {})["verl_agent_env.waited_ms"] for span in seen.named(STEP)]
    assert waited[0] < waited[1]  # type: ignore[operator]


def test_a_batch_has_one_span_with_its_size(http: httpx.Client, seen: SpansSeen) -> None:
    env_ids = [make(http) for _ in range(3)]
    http.post("/api/batch/step", json={"env_ids": env_ids, "actions": ["right"] * 3})
    assert ours(seen.one("POST /api/batch/step")).items() >= {"batch_size": 3, "outcome": "ok"}.items()
    assert seen.named(STEP) == []


@pytest.mark.parametrize(
    "header",
    [
        "",
        "nonsense",
        f"00-{'0' * 32}-{'5' * 16}-01",
        f"ff-{TRACE_ID}-{'5' * 16}-01",
        "\xe4" * 55,
        "00-" * 2000,
    ],
)
def test_a_header_that_names_no_trace_does_no_harm(http: httpx.Client, seen: SpansSeen, header: str) -> None:
    env_id = make(http)
    assert step(http, env_id, headers={"traceparent": header.encode("latin-1")}).status_code == 200
    span = seen.one(STEP)
    assert (span.parent, trace_of(span) != TRACE_ID) == (None, True)


def test_a_trace_that_is_not_recorded_is_not_recorded_here(http: httpx.Client, seen: SpansSeen) -> None:
    env_id = make(http)
    step(http, env_id, headers={"traceparent": traceparent(TRACE_ID, sampled=False)})
    assert seen.named(STEP) == []


def test_those_who_watch_leave_no_spans(http: httpx.Client, seen: SpansSeen) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert http.get(path).status_code == 200
        assert seen.named(f"GET {path}") == []


def test_messages_of_a_socket_are_of_the_trace_of_its_handshake(
    traced: tuple[Served, SpansSeen], seen: SpansSeen
) -> None:
    headers = {"traceparent": traceparent(TRACE_ID)}
    with OpenEnvSocket(
        f"http://127.0.0.1:{traced[0].port}", "frozen_lake", additional_headers=headers
    ) as socket:
        socket.reset(seed=1)
        socket.step(text="<action>right</action>")
    spans = [seen.one(INITIALIZE), seen.one(STEP)]
    assert [(trace_of(span), parent_of(span)) for span in spans] == [(TRACE_ID, "5" * 16)] * 2


def test_a_call_of_another_protocol_has_the_operation_within_it(http: httpx.Client, seen: SpansSeen) -> None:
    session = OrsSession(http, "frozen_lake", traceparent=traceparent(TRACE_ID))
    session.create(task_spec={"seed": 1})
    session.call("move_right")
    called, stepped = seen.one("POST /ors/call"), seen.one(STEP)
    assert is_child_of(stepped, called)
    assert (called.kind, stepped.kind) == (SpanKind.SERVER, SpanKind.INTERNAL)
    assert trace_of(stepped) == TRACE_ID
    assert ours(stepped)["seq"] == 0


def test_without_a_tracer_provider_no_handler_is_another_than_before() -> None:
    code = """
import sys
import verl_agent_env.client.transport, verl_agent_env.spans
print(*(name for name in sys.modules if name.startswith("opentelemetry")))
from verl_agent_env.server import create_app
app = create_app()
print(*(route.path for route in app.dispatcher.routes if "tracing" in route.handler.__module__))
print(*(name for name in sys.modules if name == "verl_agent_env.server.http.tracing"))
print(*verl_agent_env.spans.trace_headers())
"""
    done = python("-W", "error", "-c", code)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


def test_the_programs_own_tracer_provider_is_used() -> None:
    code = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from verl_agent_env.server import create_app
untraced = create_app()
trace.set_tracer_provider(TracerProvider())
traced = create_app()
for app in (untraced, traced):
    print(sum("tracing" in route.handler.__module__ for route in app.dispatcher.routes) > 10)
"""
    done = python("-W", "error", "-c", code)
    assert (done.returncode, done.stdout.split()) == (0, ["False", "True"]), done.stderr
