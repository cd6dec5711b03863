"""The same requests by the short way and by uvicorn's own: nobody can tell them apart."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from tests.server.conftest import RIGHT, Wire
from tests.server.served import MAX_BODY_BYTES, RUDE, Served, WatchedProtocol, http_request, post

TOKEN = "the-right-token"
LAKE = {"desc": ["SFF", "FFF", "FFG"], "is_slippery": False}
CHUNKED = "Transfer-Encoding: chunked"
SHORT, LONG, REFUSED = "short", "long", "refused by the parser"
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


def long_ways() -> list[bytes]:
    """What took the long way, without the looks whether a connection lives on."""
    return [url for url in WatchedProtocol.long_ways if url != LAST_LOOK.encode()]


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


def on(name: str, verb: str = "/step") -> str:
    return f"/api/environment/{NAMES[name]}{verb}"


def step(document: Any, name: str = "lake", *headers: str) -> bytes:
    return post(on(name), orjson.dumps(document), *headers)


def raw_step(body: bytes, *headers: str) -> bytes:
    return post(on("lake"), body, *headers)


def get(path: str, *headers: str) -> bytes:
    return http_request("GET", path, b"", *headers)


REQUESTS = {
    "a tool call": (SHORT, raw_step(STEP)),
    "a text": (SHORT, step({"action": "<action>down</action>", "seq": 0})),
    "several moves": (SHORT, step({"action": "<answer>right || down || down || right</answer>"})),
    "a numbered step out of turn": (SHORT, step({"action": "down", "seq": 7})),
    "a negative number": (SHORT, step({"action": "down", "seq": -1})),
    "a number that is true": (SHORT, step({"action": "down", "seq": True})),
    "an action that is none": (SHORT, step({"action": "fly"})),
    "an action of another type": (SHORT, step({"action": 12})),
    "no action": (SHORT, step({})),
    "a field too many": (SHORT, step({"action": "down", "other": 1})),
    "a list": (SHORT, step(["down"])),
    "half a document": (SHORT, raw_step(b'{"action":')),
    "no text": (SHORT, raw_step(b'{"action":"\xff\xfe"}')),
    "too deep": (SHORT, raw_step(b'{"action":' + b"[" * 300 + b"]" * 300 + b"}")),
    "an empty body": (SHORT, raw_step(b"")),
    "no body": (SHORT, http_request("POST", on("lake"))),
    "spaces": (SHORT, raw_step(b"  {}  ")),
    "a long body": (SHORT, step({"action": "x" * 30_000})),
    "the longest body": (SHORT, raw_step(STEP.ljust(MAX_BODY_BYTES))),
    "a body too long": (LONG, raw_step(STEP.ljust(MAX_BODY_BYTES + 1))),
    "a body far too long": (LONG, raw_step(STEP.ljust(3 * MAX_BODY_BYTES))),
    "a length with zeros": (SHORT, http_request("POST", on("lake"), b"{}", "Content-Length: 0002")),
    "a length with many zeros": (LONG, http_request("POST", on("lake"), b"{}", "Content-Length: 000000002")),
    "two equal lengths": (REFUSED, http_request("POST", on("lake"), b"{}", *["Content-Length: 2"] * 2)),
    "a length that is none": (REFUSED, http_request("POST", on("lake"), b"{}", "Content-Length: +2")),
    "an ended episode": (SHORT, step({"action": "down"}, "ended")),
    "a closed environment": (SHORT, step({"action": "down"}, "closed")),
    "an unknown environment": (SHORT, post("/api/environment/nobody/step", STEP)),
    "an id with strange characters": (SHORT, post("/api/environment/a;b=c,d:e@f!$&'()*+~/step", STEP)),
    "an id of 128 characters": (SHORT, post(f"/api/environment/{'x' * 128}/step", STEP)),
    "an id of 129 characters": (LONG, post(f"/api/environment/{'x' * 129}/step", STEP)),
    "no id": (LONG, post("/api/environment//step", STEP)),
    "the id of no environment": (LONG, post("/api/environment/initialize/step", STEP)),
    "an environment that raises": (SHORT, step({"action": "raise"}, "rude")),
    "an environment that exits": (SHORT, step({"action": "exit"}, "rude")),
    "an environment that is awaited": (LONG, step({"action": "42"}, "chat")),
    "a fault in a call that is awaited": (SHORT, step({"action": "42", "seq": "x"}, "chat")),
    "a request id": (SHORT, raw_step(STEP, "X-Request-Id: mine-1")),
    "two request ids": (SHORT, raw_step(STEP, "X-Request-Id: mine-1", "X-Request-ID: mine-2")),
    "a request id of two words": (SHORT, raw_step(STEP, "X-Request-Id: mine and yours")),
    "a request id too long": (SHORT, raw_step(STEP, f"X-Request-Id: {'x' * 129}")),
    "a request id of other letters": (SHORT, raw_step(STEP, "X-Request-Id: \xe9")),
    "a reset": (SHORT, post(on("lake", "/reset"), b"")),
    "a reset with a seed": (SHORT, post(on("ended", "/reset"), b'{"seed":5}')),
    "a reset with a wrong seed": (SHORT, post(on("lake", "/reset"), b'{"seed":-5}')),
    "a reset with options": (SHORT, post(on("lake", "/reset"), b'{"options":{"a":1}}')),
    "a reset of what is closed": (SHORT, post(on("closed", "/reset"), b"{}")),
    "a reset that is awaited": (LONG, post(on("chat", "/reset"), b"{}")),
    "a close": (SHORT, post(on("lake", "/close"), b"")),
    "a close with a body": (SHORT, post(on("chat", "/close"), b"anything")),
    "a second close": (SHORT, post(on("closed", "/close"), b"")),
    "a close of nobody": (SHORT, post("/api/environment/nobody/close", b"")),
    "a state": (SHORT, get(on("lake", ""))),
    "a state with a body": (SHORT, http_request("GET", on("chat", ""), b"abc", "Content-Length: 3")),
    "a state of what is closed": (SHORT, get(on("closed", ""))),
    "a state with a query": (LONG, get(on("lake", "?a=b"))),
    "a state with an empty query": (LONG, get(on("lake", "?"))),
    "a state with a fragment": (LONG, get(on("lake", "#a"))),
    "an escaped path": (LONG, post(on("lake", "/st%65p"), STEP)),
    "a path that ends in a slash": (LONG, post(on("lake", "/step/"), STEP)),
    "a path beyond a step": (LONG, post(on("lake", "/step/more"), STEP)),
    "an absolute address": (LONG, post(f"http://localhost{on('lake')}", STEP)),
    "other letters in the path": (REFUSED, post("/api/environment/\xe9/step", STEP)),
    "the options of a step": (LONG, http_request("OPTIONS", on("lake"))),
    "a step that is got": (LONG, get(on("lake"))),
    "a step that is put": (LONG, http_request("PUT", on("lake"), STEP, f"Content-Length: {len(STEP)}")),
    "a state that is posted": (LONG, post(on("lake", ""), b"{}")),
    "chunks": (LONG, http_request("POST", on("lake"), b"2\r\n{}\r\n0\r\n\r\n", CHUNKED)),
    "an expectation": (LONG, raw_step(STEP, "Expect: 100-continue")),
    "another expectation": (LONG, raw_step(b"{", "Expect: something")),
    "the connection's end": (LONG, raw_step(STEP, "Connection: close")),
    "the connection's end after a fault": (LONG, raw_step(b"{", "Connection: Close")),
    "the connection's end, and not": (LONG, raw_step(STEP, "Connection: close", "Connection: keep-alive")),
    "the connection's life": (SHORT, raw_step(STEP, "Connection: keep-alive")),
    "an older version": (LONG, http_request("GET", on("lake", ""), version="1.0")),
    "an older version that stays": (
        LONG, http_request("GET", on("lake", ""), b"", "Connection: keep-alive", version="1.0"),
    ),
    "a version that is none": (REFUSED, http_request("GET", on("lake", ""), version="9.9")),
    "an upgrade": (LONG, get(on("lake", ""), "Connection: Upgrade", "Upgrade: websocket")),
    "an upgrade to HTTP/2": (LONG, get(on("lake", ""), "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c")),
    "half an upgrade": (SHORT, get(on("lake", ""), "Connection: Upgrade")),
    "headers in capitals": (SHORT, http_request("POST", on("lake"), b"{", "CONTENT-LENGTH: 1", "X-REQUEST-ID: a")),
    "a header without a name": (REFUSED, get(on("lake", ""), ": x")),
    "many headers": (SHORT, raw_step(STEP, *[f"X-Header-{nth}: {nth}" for nth in range(100)])),
    "tools": (LONG, get(on("lake", "/tools-schema-openai"))),
    "a picture": (LONG, get(on("lake", "/render?mode=svg"))),
    "the story": (LONG, get(on("lake", "/trajectory"))),
    "another page": (LONG, get("/healthz")),
    "no page": (LONG, get("/nothing")),
}  # fmt: skip


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_is_answered_the_same_on_both_ways(quick: Served, plain: Served, name: str) -> None:
    way, request = REQUESTS[name]
    twins = Twin.begin(quick), Twin.begin(plain)
    WatchedProtocol.long_ways.clear()
    by_short_way = twins[0].exchange(request)
    assert len(long_ways()) == (way is LONG)
    assert by_short_way == twins[1].exchange(request)
    # What the request did is the same as well.
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
    WatchedProtocol.long_ways.clear()
    answers = [
        Twin(served, dict.fromkeys(NAMES, "nobody")).exchange(raw_step(body, *headers)) for served in guarded
    ]
    assert answers[0] == answers[1]
    assert answers[0][0][0][0] in (400, 401, 404)
    assert long_ways() == []


def test_any_byte_in_a_path_is_answered_the_same_on_both_ways(quick: Served, plain: Served) -> None:
    for byte in range(256):
        request = post(f"/api/environment/a{chr(byte)}b/step", STEP, "X-Request-Id: same")
        answers = [
            Twin(served, dict.fromkeys(NAMES, "nobody")).exchange(request) for served in (quick, plain)
        ]
        assert answers[0] == answers[1], byte
