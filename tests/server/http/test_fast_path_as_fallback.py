"""The same requests on the fast path and on uvicorn's own: nobody can tell them apart."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from tests.cluster.redis_process import RedisProcess
from tests.server.conftest import RIGHT, Wire
from tests.server.served import MAX_BODY_BYTES, RUDE, Served, WatchedProtocol, http_request, post
from tests.waiting import eventually
from verl_agent_env.config import ClusterSettings

TOKEN = "the-right-token"
LAKE = {"desc": ["SFF", "FFF", "FFG"], "is_slippery": False}
CHUNKED = "Transfer-Encoding: chunked"
FAST, SLOW, REFUSED = "fast", "slow", "refused by the parser"
# Of the same length as what stands for them.
NAMES = {name: f"<{name:-^34}>" for name in ("lake", "ended", "closed", "chat", "rude")}
STEP = orjson.dumps({"action": RIGHT})


LAST_LOOK = "/readyz"


@dataclass
class Twin:
    """A server, and its environments by name."""

    served: Served
    env_ids: dict[str, str]

    @classmethod
    def begin(cls, served: Served) -> Twin:
        """The same environments in the same state, each time new ones."""
        env_ids = {
            "lake": served.initialize(env_kwargs=LAKE, run_id="run"),
            "ended": served.initialize(env_kwargs={**LAKE, "max_steps": 1}),
            "closed": served.initialize(),
            "chat": served.initialize("single_turn_chat", env_kwargs={"task_prompt": "?"}),
            "rude": served.initialize(RUDE),
        }
        served.call(f"/api/environment/{env_ids['ended']}/step", {"action": "left"})
        served.call(f"/api/environment/{env_ids['closed']}/close", {})
        return cls(served, env_ids)

    def exchange(self, request: bytes) -> tuple[list[tuple[int, dict[bytes, bytes], bytes]], bool]:
        """All answers to a request, with what differs by chance made equal, and whether the connection lives on."""
        for name, shown in NAMES.items():
            request = request.replace(shown.encode(), self.env_ids[name].encode())
        wire = Wire(self.served.port)
        wire.send(request)
        answers = [self._even(wire.answer())]
        if answers[0][0] == 100:
            answers.append(self._even(wire.answer()))
        try:
            wire.send(http_request("GET", LAST_LOOK))
            lives_on = wire.answer()[0] == 200
        except (AssertionError, ConnectionError):
            lives_on = False
        wire.close()
        return answers, lives_on

    def _even(self, answer: tuple[int, dict[bytes, bytes], bytes]) -> tuple[int, dict[bytes, bytes], bytes]:
        status, headers, body = answer
        if body == b"Invalid HTTP request received." or b'"code":"malformed_head"' in body:
            # What the parser refuses is said in uvicorn's own words by its protocol, and as a problem by ours.
            return status, {b"connection": headers[b"connection"]}, b"refused by the parser"
        for name, shown in NAMES.items():
            body = body.replace(self.env_ids[name].encode(), shown.encode())
        body, ages = re.subn(rb'(age_s|idle_s)":[0-9.]+', rb'\1":0', body)
        if ages:
            headers[b"content-length"] = b"any"
        made_up = re.fullmatch(rb"[0-9a-f]{8}-[0-9a-f]+", headers.get(b"x-request-id", b""))
        if made_up:
            headers[b"x-request-id"] = b"made up"
        return status, dict(enumerate_headers(headers)), body


def enumerate_headers(headers: dict[bytes, bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Headers whose names tell their place, so that their order counts."""
    for nth, (name, value) in enumerate(headers.items()):
        yield b"%d %b" % (nth, name), value


def fallbacks() -> list[bytes]:
    """What fell back, without the looks whether a connection lives on."""
    return [url for url in WatchedProtocol.fallbacks if url != LAST_LOOK.encode()]


@pytest.fixture(scope="module")
def quick() -> Iterator[Served]:
    served = Served(WatchedProtocol)
    yield served
    served.stop()


@pytest.fixture(scope="module")
def plain() -> Iterator[Served]:
    served = Served("httptools")
    yield served
    served.stop()


@pytest.fixture(scope="module")
def guarded() -> Iterator[tuple[Served, Served]]:
    """Both kinds, with a bearer token."""
    both = Served(WatchedProtocol, auth_tokens=(TOKEN,)), Served("httptools", auth_tokens=(TOKEN,))
    yield both
    for served in both:
        served.stop()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Served]]:
    """Both kinds, each as the only worker of a cluster: what happens is written before it is answered."""
    redis = RedisProcess(tmp_path_factory.mktemp("redis"))
    both = tuple(
        Served(http, cluster=ClusterSettings(node="node", redis=redis.url, namespace=name))
        for name, http in (("fast", WatchedProtocol), ("slow", "httptools"))
    )
    eventually(lambda: all(not served.app.worker.unready_reason for served in both), what="the workers")
    yield both[0], both[1]
    for served in both:
        served.stop()
    redis.stop()


def on(name: str, verb: str = "/step") -> str:
    return f"/api/environment/{NAMES[name]}{verb}"


def step(document: Any, name: str = "lake", *headers: str) -> bytes:
    return post(on(name), orjson.dumps(document), *headers)


def raw_step(body: bytes, *headers: str) -> bytes:
    return post(on("lake"), body, *headers)


def get(path: str, *headers: str) -> bytes:
    return http_request("GET", path, b"", *headers)


REQUESTS = {
    "a tool call": (FAST, raw_step(STEP)),
    "a text": (FAST, step({"action": "<action>down</action>", "seq": 0})),
    "several moves": (FAST, step({"action": "<answer>right || down || down || right</answer>"})),
    "a numbered step out of turn": (FAST, step({"action": "down", "seq": 7})),
    "a negative number": (FAST, step({"action": "down", "seq": -1})),
    "a number that is true": (FAST, step({"action": "down", "seq": True})),
    "an action that is none": (FAST, step({"action": "fly"})),
    "an action of another type": (FAST, step({"action": 12})),
    "no action": (FAST, step({})),
    "a field too many": (FAST, step({"action": "down", "other": 1})),
    "a list": (FAST, step(["down"])),
    "half a document": (FAST, raw_step(b'{"action":')),
    "no text": (FAST, raw_step(b'{"action":"\xff\xfe"}')),
    "too deep": (FAST, raw_step(b'{"action":' + b"[" * 300 + b"]" * 300 + b"}")),
    "an empty body": (FAST, raw_step(b"")),
    "no body": (FAST, http_request("POST", on("lake"))),
    "spaces": (FAST, raw_step(b"  {}  ")),
    "a long body": (FAST, step({"action": "x" * 30_000})),
    "the longest body": (FAST, raw_step(STEP.ljust(MAX_BODY_BYTES))),
    "a body too long": (SLOW, raw_step(STEP.ljust(MAX_BODY_BYTES + 1))),
    "a body far too long": (SLOW, raw_step(STEP.ljust(3 * MAX_BODY_BYTES))),
    "a length with zeros": (FAST, http_request("POST", on("lake"), b"{}", "Content-Length: 0002")),
    "a length with many zeros": (SLOW, http_request("POST", on("lake"), b"{}", "Content-Length: 000000002")),
    "two equal lengths": (REFUSED, http_request("POST", on("lake"), b"{}", *["Content-Length: 2"] * 2)),
    "a length that is none": (REFUSED, http_request("POST", on("lake"), b"{}", "Content-Length: +2")),
    "an ended episode": (FAST, step({"action": "down"}, "ended")),
    "a closed environment": (FAST, step({"action": "down"}, "closed")),
    "an unknown environment": (FAST, post("/api/environment/nobody/step", STEP)),
    "an id with strange characters": (FAST, post("/api/environment/a;b=c,d:e@f!$&'()*+~/step", STEP)),
    "an id of 128 characters": (FAST, post(f"/api/environment/{'x' * 128}/step", STEP)),
    "an id of 129 characters": (SLOW, post(f"/api/environment/{'x' * 129}/step", STEP)),
    "no id": (SLOW, post("/api/environment//step", STEP)),
    "the id of no environment": (SLOW, post("/api/environment/initialize/step", STEP)),
    "an environment that raises": (FAST, step({"action": "raise"}, "rude")),
    "an environment that exits": (FAST, step({"action": "exit"}, "rude")),
    "an environment that is awaited": (FAST, step({"action": "42"}, "chat")),
    "a fault in a call that is awaited": (FAST, step({"action": "42", "seq": "x"}, "chat")),
    "a request id": (FAST, raw_step(STEP, "X-Request-Id: mine-1")),
    "two request ids": (FAST, raw_step(STEP, "X-Request-Id: mine-1", "X-Request-ID: mine-2")),
    "a request id of two words": (FAST, raw_step(STEP, "X-Request-Id: mine and yours")),
    "a request id too long": (FAST, raw_step(STEP, f"X-Request-Id: {'x' * 129}")),
    "a request id of other letters": (FAST, raw_step(STEP, "X-Request-Id: \xe9")),
    "a reset": (FAST, post(on("lake", "/reset"), b"")),
    "a reset with a seed": (FAST, post(on("ended", "/reset"), b'{"seed":5}')),
    "a reset with a wrong seed": (FAST, post(on("lake", "/reset"), b'{"seed":-5}')),
    "a reset with options": (FAST, post(on("lake", "/reset"), b'{"options":{"a":1}}')),
    "a reset of what is closed": (FAST, post(on("closed", "/reset"), b"{}")),
    "a reset that is awaited": (FAST, post(on("chat", "/reset"), b"{}")),
    "a close": (FAST, post(on("lake", "/close"), b"")),
    "a close with a body": (FAST, post(on("chat", "/close"), b"anything")),
    "a second close": (FAST, post(on("closed", "/close"), b"")),
    "a close of nobody": (FAST, post("/api/environment/nobody/close", b"")),
    "a state": (FAST, get(on("lake", ""))),
    "a state with a body": (FAST, http_request("GET", on("chat", ""), b"abc", "Content-Length: 3")),
    "a state of what is closed": (FAST, get(on("closed", ""))),
    "a state with a query": (SLOW, get(on("lake", "?a=b"))),
    "a state with an empty query": (SLOW, get(on("lake", "?"))),
    "a state with a fragment": (SLOW, get(on("lake", "#a"))),
    "an escaped path": (SLOW, post(on("lake", "/st%65p"), STEP)),
    "a path that ends in a slash": (SLOW, post(on("lake", "/step/"), STEP)),
    "a path beyond a step": (SLOW, post(on("lake", "/step/more"), STEP)),
    "an absolute address": (SLOW, post(f"http://localhost{on('lake')}", STEP)),
    "other letters in the path": (REFUSED, post("/api/environment/\xe9/step", STEP)),
    "the options of a step": (SLOW, http_request("OPTIONS", on("lake"))),
    "a step that is got": (SLOW, get(on("lake"))),
    "a step that is put": (SLOW, http_request("PUT", on("lake"), STEP, f"Content-Length: {len(STEP)}")),
    "a state that is posted": (SLOW, post(on("lake", ""), b"{}")),
    "chunks": (SLOW, http_request("POST", on("lake"), b"2\r\n{}\r\n0\r\n\r\n", CHUNKED)),
    "an expectation": (SLOW, raw_step(STEP, "Expect: 100-continue")),
    "another expectation": (SLOW, raw_step(b"{", "Expect: something")),
    "the connection's end": (SLOW, raw_step(STEP, "Connection: close")),
    "the connection's end after a fault": (SLOW, raw_step(b"{", "Connection: Close")),
    "the connection's end, and not": (SLOW, raw_step(STEP, "Connection: close", "Connection: keep-alive")),
    "the connection's life": (FAST, raw_step(STEP, "Connection: keep-alive")),
    "an older version": (SLOW, http_request("GET", on("lake", ""), version="1.0")),
    "an older version that stays": (
        SLOW, http_request("GET", on("lake", ""), b"", "Connection: keep-alive", version="1.0"),
    ),
    "a version that is none": (REFUSED, http_request("GET", on("lake", ""), version="9.9")),
    "an upgrade": (SLOW, get(on("lake", ""), "Connection: Upgrade", "Upgrade: websocket")),
    "an upgrade to HTTP/2": (FAST, get(on("lake", ""), "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c")),
    "half an upgrade": (FAST, get(on("lake", ""), "Connection: Upgrade")),
    "headers in capitals": (FAST, http_request("POST", on("lake"), b"{", "CONTENT-LENGTH: 1", "X-REQUEST-ID: a")),
    "a header without a name": (REFUSED, get(on("lake", ""), ": x")),
    "many headers": (FAST, raw_step(STEP, *[f"X-Header-{nth}: {nth}" for nth in range(100)])),
    "tools": (FAST, get(on("lake", "/tools-schema-openai"))),
    "a picture": (SLOW, get(on("lake", "/render?mode=svg"))),
    "the story": (SLOW, get(on("lake", "/trajectory"))),
    "another page": (FAST, get("/healthz")),
    "no page": (SLOW, get("/nothing")),
}  # fmt: skip


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_is_answered_the_same_on_both_paths(quick: Served, plain: Served, name: str) -> None:
    require_same(quick, plain, *REQUESTS[name])


@pytest.mark.parametrize("name", [name for name, (_, request) in REQUESTS.items() if b"<" in request])
def test_a_request_is_answered_the_same_on_both_paths_where_it_is_written_before(
    kept: tuple[Served, Served], name: str
) -> None:
    require_same(*kept, *REQUESTS[name])


def require_same(fast: Served, slow: Served, path: str, request: bytes) -> None:
    """Send a request to both; its answers and what it did have to be the same."""
    twins = Twin.begin(fast), Twin.begin(slow)
    WatchedProtocol.fallbacks.clear()
    by_fast_path = twins[0].exchange(request)
    # The look whether the connection lives on may meet one that ends.
    fallbacks = [url for url in WatchedProtocol.fallbacks if url != LAST_LOOK.encode()]
    assert len(fallbacks) == (path is SLOW)
    assert by_fast_path == twins[1].exchange(request)
    for env in NAMES:
        state = get(on(env, ""))
        assert twins[0].exchange(state) == twins[1].exchange(state)


@pytest.mark.parametrize("body", [STEP, b"{"])
@pytest.mark.parametrize(
    "header",
    [None, "Authorization: Bearer the-right-token", "authorization: bearer  the-right-token ", "Authorization: Bearer wrong",
     "Authorization: Basic the-right-token", "Authorization:", "X-Authorization: Bearer the-right-token"],
)  # fmt: skip
def test_tokens_are_asked_for_the_same_on_both_ways(
    guarded: tuple[Served, Served], header: str | None, body: bytes
) -> None:
    headers = [] if header is None else [header]
    WatchedProtocol.fallbacks.clear()
    answers = [
        Twin(served, dict.fromkeys(NAMES, "nobody")).exchange(raw_step(body, *headers)) for served in guarded
    ]
    assert answers[0] == answers[1]
    assert answers[0][0][0][0] in (400, 401, 404)
    assert [url for url in WatchedProtocol.fallbacks if url != LAST_LOOK.encode()] == []


def test_any_byte_in_a_path_is_answered_the_same_on_both_ways(quick: Served, plain: Served) -> None:
    for byte in range(256):
        request = post(f"/api/environment/a{chr(byte)}b/step", STEP, "X-Request-Id: same")
        answers = [
            Twin(served, dict.fromkeys(NAMES, "nobody")).exchange(request) for served in (quick, plain)
        ]
        assert answers[0] == answers[1], byte
