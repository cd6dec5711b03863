"""What the cluster is doing, as server-sent events: for whom, for how long, and that it holds up nobody."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import httpx
import orjson

from tests.conftest import ServerProcess, StartServer
from tests.server.conftest import LAKE, Problem
from tests.waiting import HANG_S, NEVER_S, eventually

PATH = "/api/cluster/events"


def events_in(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """Read events, as a browser does."""
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, orjson.loads(line.removeprefix("data: "))


def listen(url: str, number: int, query: str = "", **headers: str) -> list[tuple[str, Any]]:
    """Read so many events."""
    with (
        httpx.Client(base_url=url, timeout=HANG_S, headers=headers) as client,
        client.stream("GET", PATH + query) as answer,
    ):
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["x-accel-buffering"] == "no"
        return list(itertools.islice(events_in(answer.iter_lines()), number))


def test_a_listener_hears_of_rights_slots_its_run_and_the_cluster(server: ServerProcess) -> None:
    made = {"env_name": LAKE, "run_id": "heard"}
    httpx.post(f"{server.url}/api/environment/initialize", json=made, timeout=HANG_S)
    heard = listen(server.url, 6, "?run=heard")
    assert [name for name, _ in heard] == ["you", "slots", "run", "cluster", "run", "cluster"]
    by_name = dict(heard)
    assert by_name["you"] == {"admin": True}
    assert by_name["slots"]["owners"] == [0] * 4096
    assert by_name["run"] == {"run_id": "heard", "live_envs": 1}
    cluster = by_name["cluster"]
    (worker,) = cluster["nodes"][0]["workers"]
    assert (worker["name"], worker["slots"], worker["state"]) == (
        by_name["slots"]["workers"][0],
        4096,
        "ready",
    )
    assert cluster["live"][LAKE] >= 1
    assert cluster["steps_per_s"] is not None
    # Without a run there is none to tell of.
    assert [name for name, _ in listen(server.url, 3)] == ["you", "slots", "cluster"]


async def test_a_stream_ends_by_itself_and_asking_for_its_head_or_wrongly_begins_none(
    client: httpx.AsyncClient, problem: Problem
) -> None:
    answer = await client.get(PATH, params={"seconds": 1})
    assert [name for name, _ in events_in(iter(answer.text.split("\n")))][:3] == ["you", "slots", "cluster"]
    head = await client.head(PATH)
    assert (head.status_code, head.content) == (200, b"")
    for wrong in ("0", "301", "x"):
        problem(await client.get(PATH, params={"seconds": wrong}), 422, "invalid_request")


def test_tokens_and_origins_are_asked_for_as_by_any_call(start_server: StartServer, tmp_path: Any) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("eve read eves-token\nann run anns-token\n")
    guarded = start_server("--auth-file", str(tokens))
    refused = httpx.get(f"{guarded.url}{PATH}", timeout=HANG_S)
    assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
    made = {"env_name": LAKE, "run_id": "ann"}
    as_ann = {"authorization": "Bearer anns-token"}
    httpx.post(f"{guarded.url}/api/environment/initialize", json=made, headers=as_ann, timeout=HANG_S)
    heard = dict(listen(guarded.url, 4, "?run=ann", authorization="Bearer eves-token"))
    assert heard["you"] == {"admin": False}
    assert heard["run"]["live_envs"] == 0
    assert dict(listen(guarded.url, 4, "?run=ann", **as_ann))["run"]["live_envs"] == 1
    elsewhere = {"origin": "http://elsewhere.example", **as_ann}
    foreign = httpx.get(f"{guarded.url}{PATH}", headers=elsewhere, timeout=HANG_S)
    assert (foreign.status_code, foreign.json()["code"]) == (403, "origin_not_allowed")


def test_listeners_who_leave_leave_nothing_behind_and_open_streams_do_not_hold_up_the_end(
    start_server: StartServer,
) -> None:
    lone = start_server("--shutdown-grace-s", str(int(NEVER_S)))
    for _ in range(3):
        listen(lone.url, 2)
    with httpx.Client(base_url=lone.url, timeout=HANG_S) as client:

        def connections() -> float:
            text = client.get("/metrics").text
            (line,) = [line for line in text.split("\n") if line.startswith("verl_agent_env_connections ")]
            return float(line.split()[1])

        eventually(lambda: connections() == 1)
        with client.stream("GET", PATH) as answer:
            lines = answer.iter_lines()
            next(lines)
            lone.stop()
            # In order: the stream has an end, as any other response has.
            assert list(lines)
