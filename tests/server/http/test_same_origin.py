"""Which hosts a server may be called by, and which pages may use it."""

from __future__ import annotations

import socket

import pytest

from verl_agent_env.errors import (
    ContentTypeNotAllowedError,
    HostNotAllowedError,
    OriginNotAllowedError,
    VerlAgentEnvError,
)
from verl_agent_env.server.http import same_origin
from verl_agent_env.server.http.peer import Peer
from verl_agent_env.server.http.same_origin import HostPort, SameOriginPolicy, parse_host

LOOPBACK = Peer("127.0.0.1", "127.0.0.1")
OUTSIDE = Peer("10.0.0.9", "10.0.0.5")
JSON = {b"content-type": b"application/json"}


def refusal(
    policy: SameOriginPolicy, headers: dict[bytes, bytes], peer: Peer = LOOPBACK, method: str = "POST"
) -> type[VerlAgentEnvError] | None:
    """What the policy says of a request, twice: what it remembers must not change that."""
    found: list[type[VerlAgentEnvError] | None] = []
    for _ in range(2):
        try:
            policy.check(method, headers, peer)
            found.append(None)
        except VerlAgentEnvError as error:
            found.append(type(error))
    assert found[0] is found[1]
    return found[0]


# --- Host -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "parsed"),
    [
        (b"localhost", HostPort("localhost", None)),
        (b"LocalHost.:8000", HostPort("localhost", 8000)),
        (b"localhost:", HostPort("localhost", None)),
        (b"[::1]:80", HostPort("::1", 80)),
        (b"[0:0:0:0:0:0:0:1]", HostPort("::1", None)),
        (b"a_b-c.example.ORG", HostPort("a_b-c.example.org", None)),
        (b"localhost..", HostPort("localhost.", None)),
        *((raw, None) for raw in (b"", b":80", b"[::1", b"::1", b"[]", b"[localhost]", b"a b", b"a@b", b"a/b", b"a:b",
                                  b"a:99999", b"a:0", b"a:-1", b"a,b", b"\xff", b"a\x00", b"x" * 300)),
    ],
)  # fmt: skip
def test_host_is_parsed(raw: bytes, parsed: HostPort | None) -> None:
    assert parse_host(raw) == parsed


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8000", "LOCALHOST.:1", "127.0.0.1", "127.0.0.1:80", "127.1.2.3", "[::1]", "[::1]:65535",
     "[::ffff:127.0.0.1]", "0.0.0.0:8000", "[::]", "my.localhost", socket.gethostname()],
)  # fmt: skip
def test_names_of_this_machine_are_known_on_loopback(host: str) -> None:
    assert refusal(SameOriginPolicy(), {b"host": host.encode()}) is None


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "evil.localhost.example",
     "xlocalhost", "localhost..", "10.0.0.5", "[2001:db8::1]", "128.0.0.1", "[::ffff:10.0.0.1]", "", "local host",
     "localhost@evil.example", "localhost,evil.example", "127.1", "2130706433", "0x7f.0.0.1", "localhost:8000:1"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_any_other_host_is_refused_on_loopback(host: str, method: str) -> None:
    headers = {b"host": host.encode()}
    assert refusal(SameOriginPolicy(), headers, method=method) is HostNotAllowedError


def test_no_host_is_no_name_that_somebody_made_up() -> None:
    assert refusal(SameOriginPolicy(), {}) is None


def test_hosts_are_not_checked_where_others_reach_the_server_until_some_are_listed() -> None:
    headers = {b"host": b"any.example"}
    assert refusal(SameOriginPolicy(), headers, OUTSIDE) is None
    assert refusal(SameOriginPolicy(["server.example"]), headers, OUTSIDE) is HostNotAllowedError


@pytest.mark.parametrize(
    ("host", "is_known"),
    [("server.example", True), ("SERVER.example.:443", True), ("node-1:8001", True), ("a.wild.example", True),
     ("a.b.wild.example", True), ("wild.example", False), ("awild.example", False), ("xserver.example", False),
     ("[2001:db8::7]", True), ("localhost", True), ("10.0.0.5:8000", True), ("10.0.0.6:8000", False)],
)  # fmt: skip
def test_listed_hosts_are_known_and_those_of_the_connection(host: str, is_known: bool) -> None:
    policy = SameOriginPolicy(
        ["Server.example.", "*.wild.example", "[2001:DB8:0::7]"], own_names=["node-1", ""]
    )
    headers = {b"host": host.encode()}
    assert refusal(policy, headers, OUTSIDE) is (None if is_known else HostNotAllowedError)


def test_an_address_is_known_only_to_connections_that_arrived_there() -> None:
    policy, headers = SameOriginPolicy(["server.example"]), {b"host": b"10.0.0.5"}
    assert refusal(policy, headers, OUTSIDE) is None
    assert refusal(policy, headers, Peer("10.0.0.9", "10.0.0.7")) is HostNotAllowedError


def test_any_host_is_known_if_the_operator_says_so() -> None:
    policy = SameOriginPolicy(["*"])
    assert refusal(policy, {b"host": b"any.example"}) is None
    own = {b"host": b"any.example", b"origin": b"http://any.example", **JSON}
    assert refusal(policy, own) is None


@pytest.mark.parametrize("host", [b"localhost:8000", b"127.0.0.1:8000", b"[::1]:8000"])
def test_a_host_that_was_accepted_is_not_read_again(host: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, own_address = SameOriginPolicy(), host.rpartition(b":")[0].strip(b"[]").decode()
    peer = Peer("127.0.0.1", own_address if own_address != "localhost" else "127.0.0.1")
    policy.check("POST", {b"host": host}, peer)
    monkeypatch.setattr(same_origin, "parse_host", lambda _: pytest.fail("it was read again"))
    policy.check("POST", {b"host": host}, peer)


def test_remembered_hosts_are_bounded() -> None:
    policy = SameOriginPolicy()
    for nth in range(3000):
        policy.check("GET", {b"host": b"n%d.localhost" % nth}, LOOPBACK)
    assert len(policy._known) <= 1024


# --- Origin ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "host"),
    [("http://localhost:8000", "localhost:8000"), ("http://LOCALHOST:8000", "localhost.:8000"),
     ("http://127.0.0.1", "127.0.0.1"), ("http://localhost", "localhost:80"), ("https://localhost", "localhost"),
     ("https://localhost", "localhost:443"), ("http://[::1]:8000", "[0:0::1]:8000")],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_pages_of_the_server_itself_may_use_it(origin: str, host: str, method: str) -> None:
    headers = {b"host": host.encode(), b"origin": origin.encode(), **JSON}
    assert refusal(SameOriginPolicy(), headers, method=method) is None


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "", "http://localhost", "http://localhost:3000", "http://127.0.0.1:8000",
     "file://", "chrome-extension://localhost:8000", "ftp://localhost:8000", "http://localhost:8000.evil.example",
     "http://localhost:8000/", "http://localhost:8000 http://evil.example", "http://user@localhost:8000",
     "http://evil.example#localhost:8000", "\xff", "*", "localhost:8000", "http://localhost.evil.example:8000"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "DELETE"])
def test_pages_of_other_sites_are_refused(origin: str, method: str) -> None:
    headers = {b"host": b"localhost:8000", b"origin": origin.encode("latin-1"), **JSON}
    assert refusal(SameOriginPolicy(), headers, method=method) is OriginNotAllowedError


def test_a_page_whose_name_was_pointed_here_is_refused() -> None:
    rebound = {b"host": b"evil.example:8000", b"origin": b"http://evil.example:8000", **JSON}
    for peer in (LOOPBACK, OUTSIDE):
        assert refusal(SameOriginPolicy(), rebound, peer) is HostNotAllowedError
    assert refusal(SameOriginPolicy(["evil.example"]), rebound, OUTSIDE) is None
    # It has no token; a page of the operator's own may be called anything.
    assert refusal(SameOriginPolicy(has_tokens=True), rebound, OUTSIDE) is None
    assert refusal(SameOriginPolicy(has_tokens=True), rebound, LOOPBACK) is HostNotAllowedError


@pytest.mark.parametrize(
    ("origin", "is_listed"),
    [("https://app.example", True), ("https://APP.example:443", True), ("http://app.example", False),
     ("https://app.example:8443", False), ("http://[2001:db8::1]:3000", True), ("https://sub.app.example", False),
     ("https://app.example.evil.example", False), ("null", False)],
)  # fmt: skip
def test_listed_origins_may_use_the_server_and_read_its_answers(origin: str, is_listed: bool) -> None:
    policy = SameOriginPolicy(allowed_origins=["https://App.example", "http://[2001:db8::1]:3000"])
    headers = {b"host": b"localhost", b"origin": origin.encode(), b"sec-fetch-site": b"cross-site", **JSON}
    assert refusal(policy, headers) is (None if is_listed else OriginNotAllowedError)
    granted = dict(policy.grants("POST", headers))
    assert granted.get(b"access-control-allow-origin") == (origin.encode() if is_listed else None)
    assert b"access-control-allow-methods" not in granted
    asked = dict(policy.grants("OPTIONS", headers))
    assert (b"access-control-allow-methods" in asked) is is_listed


def test_nobody_is_granted_anything_if_no_origin_is_listed() -> None:
    for origin in (b"http://localhost", b"https://evil.example", b"null"):
        assert SameOriginPolicy().grants("OPTIONS", {b"host": b"localhost", b"origin": origin}) == ()


@pytest.mark.parametrize("site", [b"cross-site", b"same-site"])
def test_what_a_page_of_another_site_loads_is_refused_but_not_a_link(site: bytes) -> None:
    host = {b"host": b"localhost", b"sec-fetch-site": site}
    link = {b"sec-fetch-mode": b"navigate", b"sec-fetch-dest": b"document"}
    picture = {b"sec-fetch-mode": b"no-cors", b"sec-fetch-dest": b"image"}
    frame = {b"sec-fetch-mode": b"navigate", b"sec-fetch-dest": b"iframe"}
    assert refusal(SameOriginPolicy(), host | link, method="GET") is None
    assert refusal(SameOriginPolicy(), host | picture, method="GET") is OriginNotAllowedError
    assert refusal(SameOriginPolicy(), host | frame, method="GET") is OriginNotAllowedError
    assert refusal(SameOriginPolicy(), host | link | JSON, method="POST") is OriginNotAllowedError


# --- Content-Type ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "is_json"),
    [("application/json", True), ("Application/JSON; charset=utf-8", True), ("application/problem+json", True),
     ("text/plain", False), ("application/x-www-form-urlencoded", False), ("multipart/form-data; boundary=x", False),
     ("text/plain; application/json", False), ("", False), ("application/jsonx", False), ("application/x-json", False)],
)  # fmt: skip
@pytest.mark.parametrize(
    "mark",
    [{b"origin": b"http://localhost"}, {b"cookie": b"a=b"}, {b"sec-fetch-site": b"same-origin"},
     {b"sec-fetch-site": b"none"}],
)  # fmt: skip
def test_a_browser_declares_its_body_as_json(
    mark: dict[bytes, bytes], content_type: str, is_json: bool
) -> None:
    headers = {b"host": b"localhost", b"content-type": content_type.encode(), **mark}
    assert refusal(SameOriginPolicy(), headers) is (None if is_json else ContentTypeNotAllowedError)
    assert refusal(SameOriginPolicy(), headers, method="GET") is None


@pytest.mark.parametrize("content_type", [b"application/x-www-form-urlencoded", b"text/plain", b""])
def test_other_programs_need_no_content_type(content_type: bytes) -> None:
    headers = {b"host": b"localhost", b"content-type": content_type, b"user-agent": b"curl/8"}
    assert refusal(SameOriginPolicy(), headers) is None
