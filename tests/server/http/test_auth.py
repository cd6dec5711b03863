"""Bearer tokens."""

from __future__ import annotations

import hashlib
import tracemalloc
from pathlib import Path

import httpx
import pytest

from tests.server.conftest import LAKE, MakeClient, Problem
from verl_agent_env.errors import TooManyAttemptsError, UnauthorizedError
from verl_agent_env.server.http.attempts import FailedAttempts
from verl_agent_env.server.http.auth import TokenGuard, peer_secret_of
from verl_agent_env.server.http.tokens import ANYBODY, Principal

TOKENS = tuple(f"token-{i}" for i in range(1000))


ANYWHERE = "192.0.2.1"


def asked(
    guard: TokenGuard, authorization: bytes | None, address: str = ANYWHERE, **more: bytes
) -> Principal:
    """Whose a request with this header is."""
    headers = {name.replace("_", "-").encode(): value for name, value in more.items()}
    if authorization is not None:
        headers[b"authorization"] = authorization
    return guard.principal_of(headers, address)


def test_without_tokens_everybody_may_do_everything() -> None:
    guard = TokenGuard()
    assert all(asked(guard, header) is ANYBODY for header in (None, b"", b"Bearer x"))


@pytest.mark.parametrize("token", ["token-0", "token-500", "token-999"])
def test_each_of_many_tokens_is_known(token: str) -> None:
    guard = TokenGuard(TOKENS)
    for scheme in ("Bearer", "bearer", "BEARER", "Bearer "):
        assert asked(guard, f"{scheme} {token}".encode()).is_admin


@pytest.mark.parametrize(
    "header",
    [None, b"", b"Bearer", b"Bearer ", b"Bearer token-1000", b"Bearer token-", b"Bearer token-00", b"token-0",
     b"Basic token-0", b"Bearer token-0 token-1", b"Bearer \xff\xfe", b"Bearer " + b"x" * 100_000, b"Bearertoken-0"],
)  # fmt: skip
def test_anything_else_is_not_known(header: bytes | None) -> None:
    guard = TokenGuard(TOKENS)
    for _ in range(2):
        with pytest.raises(UnauthorizedError):
            asked(guard, header)


def test_tokens_are_compared_as_digests_only() -> None:
    # How long it takes to find a digest says nothing of the token that it was made of.
    guard = TokenGuard(("a-token", "b-token"))
    assert set(guard._by_digest) == {hashlib.sha256(token).digest() for token in (b"a-token", b"b-token")}
    asked(guard, b"Bearer a-token")
    assert list(guard._seen) == [b"Bearer a-token"]


def test_a_file_of_tokens_says_who_they_are(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(
        f"alice run alice-1\nbob read sha256:{hashlib.sha256(b'bob-1').hexdigest()}\nops admin ops-1\n"
    )
    guard = TokenGuard(("plain",), str(path))
    found = [asked(guard, f"Bearer {token}".encode()) for token in ("alice-1", "bob-1", "ops-1", "plain")]
    assert [principal.name for principal in found] == ["alice", "bob", "ops", ""]
    assert [sorted(principal.scopes) for principal in found] == [
        ["read", "run"], ["read"], ["admin", "read", "run"], ["admin", "read", "run"],
    ]  # fmt: skip
    with pytest.raises(UnauthorizedError):
        asked(guard, b"Bearer " + hashlib.sha256(b"bob-1").hexdigest().encode())


def test_a_file_is_read_again_and_a_wrong_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "tokens"
    path.write_text("alice run first-token\n")
    guard = TokenGuard((), str(path))
    assert asked(guard, b"Bearer first-token").name == "alice"
    path.write_text("alice everything second-token\n")
    guard.reload()
    assert asked(guard, b"Bearer first-token").name == "alice"
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "second-token" not in caplog.text
    path.write_text("alice read second-token\n")
    guard.reload()
    assert asked(guard, b"Bearer second-token").scopes == {"read"}
    with pytest.raises(UnauthorizedError):
        asked(guard, b"Bearer first-token")


@pytest.mark.parametrize("text", ["", "# nobody\n", "alice run plain\n", "alice run"])
def test_a_file_that_cannot_be_used_ends_the_start(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(text)
    with pytest.raises(ValueError, match="token"):
        TokenGuard(("plain",), str(path))
    with pytest.raises(ValueError, match="cannot be read"):
        TokenGuard((), str(tmp_path / "nothing"))


def test_who_guesses_has_to_wait_and_nobody_else() -> None:
    now = [100.0]
    guard = TokenGuard(TOKENS, attempts=FailedAttempts(lambda: now[0]))
    assert asked(guard, b"Bearer token-1", ANYWHERE).is_admin
    codes = []
    for nth in range(30):
        with pytest.raises((UnauthorizedError, TooManyAttemptsError)) as caught:
            asked(guard, b"Bearer guess-%d" % nth)
        codes.append(caught.value.code)
    assert codes == ["unauthorized"] * 10 + ["too_many_attempts"] * 20
    # Then the right one is not looked at either, from there; what works goes on working.
    with pytest.raises(TooManyAttemptsError):
        asked(guard, b"Bearer token-2", ANYWHERE)
    assert asked(guard, b"Bearer token-1", ANYWHERE).is_admin
    assert asked(guard, b"Bearer token-2", "192.0.2.2").is_admin
    # A request without any is no guess.
    with pytest.raises(UnauthorizedError):
        asked(guard, None, ANYWHERE)
    now[0] += 6
    with pytest.raises(UnauthorizedError):
        asked(guard, b"Bearer guess", ANYWHERE)
    with pytest.raises(TooManyAttemptsError):
        asked(guard, b"Bearer guess", ANYWHERE)
    now[0] += 6
    assert asked(guard, b"Bearer token-3", ANYWHERE).is_admin


def test_a_token_is_remembered_once_however_it_is_written() -> None:
    guard = TokenGuard(TOKENS)
    headers = [b"Bearer " + b" " * count + b"token-1" for count in range(1, 2000)]
    tracemalloc.start()
    try:
        for header in headers:
            assert asked(guard, header, ANYWHERE).is_admin
        assert tracemalloc.get_traced_memory()[0] < 50_000
    finally:
        tracemalloc.stop()


def test_other_workers_show_a_secret_and_say_for_whom_they_call() -> None:
    secret = peer_secret_of("supervisor")
    guard = TokenGuard(TOKENS, peer_secret=secret)
    shown = secret.encode()
    assert asked(guard, None, x_env_peer=shown).is_admin
    named = asked(guard, None, x_env_peer=shown, x_env_principal=b"read,run alice")
    assert (named.name, sorted(named.scopes), named.is_forwarded) == ("alice", ["read", "run"], True)
    assert asked(guard, None, x_env_peer=shown, x_env_principal=b"admin,read,run").is_admin
    for wrong in (b"", b"alice", b"root alice", b"run", b"run a/b", b"run alice\xff", b"run alice bob"):
        with pytest.raises(UnauthorizedError):
            asked(guard, None, x_env_peer=shown, x_env_principal=wrong)
    for other in (b"", b"x", peer_secret_of("another").encode()):
        with pytest.raises(UnauthorizedError):
            asked(guard, None, x_env_peer=other, x_env_principal=b"run alice")
    # Nobody becomes somebody else by saying so.
    assert asked(guard, b"Bearer token-1", x_env_principal=b"run alice").name == ""
    with pytest.raises(UnauthorizedError):
        asked(TokenGuard(TOKENS), None, x_env_peer=b"")


@pytest.fixture
async def guarded(make_client: MakeClient) -> httpx.AsyncClient:
    return await make_client(auth_tokens=TOKENS)


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/api/environment/initialize"), ("POST", "/api/batch/step"), ("GET", "/api/environments"),
     ("GET", "/api/environment/nobody"), ("GET", "/metrics"), ("HEAD", "/metrics")],
)  # fmt: skip
async def test_calls_ask_for_a_token(
    guarded: httpx.AsyncClient, problem: Problem, method: str, path: str
) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}):
        answer = await guarded.request(method, path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        if method != "HEAD":
            problem(answer, 401, "unauthorized")
    admitted = await guarded.request(method, path, headers={"authorization": "Bearer token-7"})
    assert admitted.status_code != 401


async def test_a_request_without_token_is_refused_before_its_body_is_read(guarded: httpx.AsyncClient) -> None:
    answer = await guarded.post("/api/environment/initialize", content=b"{" * 1000)
    assert answer.status_code == 401


async def test_probes_stay_open(guarded: httpx.AsyncClient) -> None:
    assert (await guarded.get("/healthz")).json() == {"status": "ok"}
    assert (await guarded.get("/readyz")).json() == {"status": "ready"}


async def test_a_token_lets_an_episode_through(guarded: httpx.AsyncClient) -> None:
    guarded.headers["authorization"] = "Bearer token-3"
    made = await guarded.post("/api/environment/initialize", json={"env_name": LAKE})
    step = await guarded.post(f"/api/environment/{made.json()['env_id']}/step", json={"action": "up"})
    assert step.status_code == 200
