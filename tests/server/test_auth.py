"""Bearer tokens."""

from __future__ import annotations

import hmac

import httpx
import pytest

from tests.server.conftest import LAKE, MakeClient, Problem
from verl_agent_env.server.auth import TokenGuard

TOKENS = tuple(f"token-{i}" for i in range(1000))


def test_without_tokens_everybody_is_admitted() -> None:
    guard = TokenGuard(())
    assert all(guard.admits(header) for header in (None, b"", b"Bearer x"))


@pytest.mark.parametrize("token", ["token-0", "token-500", "token-999"])
def test_each_of_many_tokens_is_admitted(token: str) -> None:
    guard = TokenGuard(TOKENS)
    for scheme in ("Bearer", "bearer", "BEARER"):
        assert guard.admits(f"{scheme} {token}".encode())


@pytest.mark.parametrize(
    "header",
    [None, b"", b"Bearer", b"Bearer ", b"Bearer token-1000", b"Bearer token-", b"Bearer token-00", b"token-0",
     b"Basic token-0", b"Bearer token-0 token-1", b"Bearer \xff\xfe", b"Bearer " + b"x" * 100_000, b"Bearertoken-0"],
)  # fmt: skip
def test_anything_else_is_not_admitted(header: bytes | None) -> None:
    assert TokenGuard(TOKENS).admits(header) is False


def test_all_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def note(given: bytes, token: bytes) -> bool:
        compared.append(token)
        return given == token

    # Only watched: how long a comparison takes cannot be asserted reliably.
    monkeypatch.setattr(hmac, "compare_digest", note)
    assert TokenGuard(("a", "b", "c")).admits(b"Bearer a")
    assert compared == [b"a", b"b", b"c"]


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
