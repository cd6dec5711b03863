"""The written configuration, and what a real nginx makes of it before servers that echo."""

from __future__ import annotations

import getpass
import grp
import os
import pwd
import re
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.children import run
from tests.cluster.echo_servers import EchoServers
from tests.cluster.nginx_process import NginxProcess
from tests.cluster.redis_process import binary
from tests.ports import free_port
from tests.waiting import HANG_S, eventually
from verl_agent_env.cluster.nginx.config import NginxSettings, nginx_config, write_nginx_config
from verl_agent_env.cluster.ring import Ring
from verl_agent_env.types import MANY_SLOTS, NUM_SLOTS

PROBLEM_JSON = "application/problem+json"
# The processes of an nginx that root starts are another's, to whom a test's folder is closed.
USER = getpass.getuser() if os.geteuid() == 0 else ""


class Front:
    """nginx with the written configuration, and servers that echo behind it."""

    def __init__(self, folder: Path, count: int, **options: Any) -> None:
        self.workers = EchoServers(count)
        port = free_port()
        settings = NginxSettings(
            addresses=self.workers.addresses, folder=folder, port=port, host="127.0.0.1", user=USER, processes=2,
            **options,
        )  # fmt: skip
        write_nginx_config(settings, folder / "nginx.conf")
        self.nginx = NginxProcess(folder, port)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=HANG_S)

    def stop(self) -> None:
        """End all of it."""
        self.client.close()
        self.nginx.stop()
        self.workers.close()


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """Shared by tests that leave its workers alone."""
    made = Front(tmp_path_factory.mktemp("nginx"), 5)
    yield made
    made.stop()


@pytest.fixture
def own_front(tmp_path: Path) -> Iterator[Front]:
    """For one test, which may end its workers."""
    made = Front(tmp_path, 3)
    yield made
    made.stop()


def step_path(slot: int) -> str:
    return f"/api/environment/{slot:03x}-{uuid.uuid4().hex}/step"


def settings_with(**options: Any) -> NginxSettings:
    return NginxSettings(**{"addresses": ("127.0.0.1:8001",), "folder": Path("/run/nginx"), **options})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"addresses": ()},
        {"host": "[::1]", "processes": 3, "user": USER},
        {"user": f"{pwd.getpwuid(os.getuid()).pw_name}:{grp.getgrgid(os.getgid()).gr_name}"},
        {"addresses": tuple(f"10.0.0.{node}:{8001 + n}" for node in range(50) for n in range(16))},
        {"addresses": ("[::1]:8001", "[2001:db8::1]:8001"), "host": "::"},
        {"fronts": ("10.0.0.5/255.0.0.0", "10.0.0.0/0.255.255.255", "::1", "10.0.0.5", "10.0.0.5")},
    ],
)
def test_nginx_accepts_the_text(tmp_path: Path, options: dict[str, Any]) -> None:
    options = {"folder": tmp_path / "deep" / "down", "port": free_port(), **options}
    write_nginx_config(settings_with(**options), tmp_path / "nginx.conf")
    done = run(binary("nginx"), "-t", "-e", "stderr", "-c", str(tmp_path / "nginx.conf"))
    assert done.returncode == 0, done.stderr
    assert "network" not in done.stderr


def test_same_workers_give_the_same_text_in_any_order() -> None:
    there, back = ("b:1", "a:2"), ("a:2", "b:1")
    assert nginx_config(settings_with(addresses=there)) == nginx_config(settings_with(addresses=back))


@pytest.mark.parametrize(("num_slots", "digits"), [(NUM_SLOTS, 3), (MANY_SLOTS, 4)])
def test_slots_are_read_by_as_many_digits_as_the_cluster_has(num_slots: int, digits: int) -> None:
    text = nginx_config(settings_with(num_slots=num_slots))
    assert text.count(f"[0-9a-f]{{{digits}}})-[0-9a-f]{{32}}") == 2


def test_a_note_stands_with_its_worker_in_both_groups_and_cannot_break_out() -> None:
    text = nginx_config(settings_with(addresses=("a:1", "b:1"), notes={"a:1": "10.0.0.1\nserver evil:1;"}))
    lines = [
        line.strip() for line in text.splitlines() if line.strip().startswith("server ") and ":1" in line
    ]
    assert [line.partition(" max_fails")[0] for line in lines] == ["server a:1", "server b:1"] * 2
    assert lines[0].endswith("# 10.0.0.1 server evil:1;")


@pytest.mark.parametrize(
    "wrong",
    [
        {"addresses": ("no-port",)},
        {"addresses": ("a:65536",)},
        {"addresses": ("a:0",)},
        {"addresses": (":1",)},
        {"addresses": ("a:1", "a:1")},
        {"addresses": ("a b:1",)},
        {"addresses": ("a;b:1",)},
        {"folder": Path("/run/with space")},
        {"addresses": ("[::1:2:3:4:5:6:7:8:9]:1",)},
        {"host": "a;"},
        {"host": "unix:/run/nginx.sock"},
        {"host": "127.0.0.1:9000"},
        {"user": "www data"},
        {"error_log": "{"},
        {"port": 0},
        {"port": 65_536},
        {"processes": -1},
        {"max_connections": 0},
        {"answer_timeout_s": 0},
        {"num_slots": 256},
        {"fronts": ("10.0.0.1; }",)},
        {"fronts": ("fe80::1%eth0",)},
    ],
)
def test_what_nginx_would_misread_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must|is no (address|host)|more than once"):
        settings_with(**wrong)


def test_each_process_of_nginx_can_hold_all_clients_and_their_connections_to_workers() -> None:
    text = nginx_config(settings_with(max_connections=16_384))
    found = {name: int(value) for name, value in re.findall(r"(worker_\w+) (\d+);", text)}
    assert found["worker_connections"] >= 2 * 16_384
    assert found["worker_rlimit_nofile"] > found["worker_connections"]


def test_writing_leaves_nothing_beside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "conf" / "nginx.conf"
    for addresses in (("a:1",), ("a:1", "b:1")):
        write_nginx_config(settings_with(addresses=addresses, folder=tmp_path / "run"), path)
    assert "server b:1" in path.read_text("utf-8")
    assert [entry.name for entry in path.parent.iterdir()] == ["nginx.conf"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_calls_on_an_environment_go_where_the_ring_says(front: Front) -> None:
    ring = Ring(front.workers.addresses)
    slots = range(0, 4096, 13)
    assert len(slots) > 300
    answers = [front.client.post(step_path(slot), json={}).json()["address"] for slot in slots]
    assert answers == [ring.assignments[slot] for slot in slots]
    env_id = f"abc-{uuid.uuid4().hex}"
    for path in (f"/api/environment/{env_id}", f"/api/environment/{env_id}/render?mode=svg"):
        assert front.client.get(path).json()["address"] == ring.assignments[0xABC]


def test_all_other_calls_spread_over_the_workers(front: Front) -> None:
    paths = [
        "/api/batch/step",
        "/api/environment/initialize",
        "/api/environment/ABC-nothing/step",
        "/healthz",
    ]
    asked = {front.client.get(path).json()["address"] for path in paths * 5}
    assert len(asked) == len(front.workers.addresses)


@pytest.mark.parametrize(
    "path", ["/internal", "/internal/batch/step", "//internal/worker", "/x/../internal/worker", "/%69nternal/worker"]
)  # fmt: skip
def test_what_is_between_workers_is_hidden(front: Front, path: str) -> None:
    # httpx would mend the path first.
    with socket.create_connection(("127.0.0.1", front.nginx.port), 5) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65_536), b"")).decode()
    assert answer.startswith("HTTP/1.1 404 ")
    assert f"Content-Type: {PROBLEM_JSON}\r\n" in answer
    assert '"code":"not_found"' in answer
    assert not any("internal" in asked["target"] for asked in front.workers.asked)


def test_a_client_cannot_pose_as_a_worker(front: Front) -> None:
    sent = {"X-Env-Hop": "1", "x_env_hop": "1", "Authorization": "Bearer abc", "Idempotency-Key": "k"}
    seen = front.client.post(step_path(1), headers=sent, json={}).json()["headers"]
    assert not [name for name in seen if "hop" in name]
    assert (seen["authorization"], seen["idempotency-key"]) == ("Bearer abc", "k")
    assert seen["x-forwarded-for"] == "127.0.0.1"


def test_connections_to_workers_are_kept(front: Front) -> None:
    for _ in range(50):
        assert front.client.get(step_path(7)).status_code == 200
    port = int(Ring(front.workers.addresses).assignments[7].rpartition(":")[2])
    # One for each process of nginx and group of workers.
    assert len(front.workers._open[port]) <= 4


@pytest.mark.parametrize("size", [10, 5_000_000])
def test_bodies_of_any_size_pass(front: Front, size: int) -> None:
    front.workers.answer_size = size
    try:
        answer = front.client.post("/api/batch/step", content=b"x" * size)
    finally:
        front.workers.answer_size = 0
    assert answer.json()["size"] == size
    assert len(answer.json()["filler"]) == size


@pytest.mark.parametrize("given", ["mine-1", "", "two words", "y" * 129])
def test_a_request_id_that_workers_take_passes_and_any_other_is_replaced(front: Front, given: str) -> None:
    seen = front.client.get("/healthz", headers={"X-Request-Id": given}).json()["headers"]["x-request-id"]
    assert seen == given if given == "mine-1" else re.fullmatch(r"[0-9a-f]{32}", seen)


def test_each_request_is_an_operation_of_its_own_whatever_its_client_calls_it(front: Front) -> None:
    given = {"X-Request-Id": "mine", "X-Operation-Id": "mine"}
    answers = [front.client.get("/healthz", headers=given).json() for _ in range(20)]
    assert {answer["headers"]["x-request-id"] for answer in answers} == {"mine"}
    operations = {answer["headers"]["x-operation-id"] for answer in answers}
    assert len(operations) == 20
    assert all(re.fullmatch(r"[0-9a-f]{32}", operation) for operation in operations)


def test_an_nginx_before_it_says_which_attempts_are_of_one_request(tmp_path: Path) -> None:
    behind = Front(folder_in(tmp_path, "behind"), 2, fronts=("127.0.0.0/8", "::1"))
    # Another one, which hangs up after it has sent the request on.
    dying = EchoServers(1)
    dying.mute = set(dying.addresses)
    port = free_port()
    settings = NginxSettings(
        addresses=(*dying.addresses, f"127.0.0.1:{behind.client.base_url.port}"),
        folder=folder_in(tmp_path, "before"), port=port, host="127.0.0.1", user=USER, processes=1,
    )  # fmt: skip
    write_nginx_config(settings, settings.folder / "nginx.conf")
    nginx = NginxProcess(settings.folder, port)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=HANG_S) as client:
            given = {"X-Request-Id": "mine", "X-Operation-Id": "mine"}
            answers = [client.post(step_path(slot), json={}, headers=given).json() for slot in range(20)]
    finally:
        nginx.stop()
        behind.stop()
        dying.close()
    assert {answer["headers"]["x-request-id"] for answer in answers} == {"mine"}
    arrived = {request["target"]: request["headers"]["x-operation-id"] for request in behind.workers.asked}
    assert len(set(arrived.values()) - {"mine"}) == 20
    repeated = {request["target"]: request["headers"]["x-operation-id"] for request in dying.asked}
    assert repeated
    assert repeated.items() <= arrived.items()


def folder_in(parent: Path, name: str) -> Path:
    """Make a folder, which other accounts may enter."""
    folder = parent / name
    folder.mkdir()
    return folder


def test_large_answers_are_compressed_for_who_accepts_it(tmp_path: Path) -> None:
    front = Front(tmp_path, 1, compresses=True)
    try:
        front.workers.answer_size = 100_000
        front.workers.media_type = "application/json"
        packed = front.client.get("/healthz", headers={"Accept-Encoding": "gzip"})
        assert packed.headers["content-encoding"] == "gzip"
        assert int(packed.headers.get("content-length", 0)) < 10_000
        assert len(packed.json()["filler"]) == 100_000
        plain = front.client.get("/healthz", headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in plain.headers
        front.workers.answer_size = 1000
        small = front.client.get("/healthz", headers={"Accept-Encoding": "gzip"})
        assert "content-encoding" not in small.headers
    finally:
        front.stop()


def test_a_step_whose_worker_is_dead_is_answered_by_the_next_of_the_ring(own_front: Front) -> None:
    dead, *alive = own_front.workers.addresses
    ring = Ring(own_front.workers.addresses)
    slots = [slot for slot in range(4096) if ring.assignments[slot] == dead][:20]
    own_front.workers.keep(alive)
    answers = [own_front.client.post(step_path(slot), json={"action": "up"}) for slot in slots]
    assert [answer.status_code for answer in answers] == [200] * 20
    without = Ring(alive).assignments
    assert [answer.json()["address"] for answer in answers] == [without[slot] for slot in slots]
    assert all(answer.json()["size"] == len('{"action":"up"}') for answer in answers)


@pytest.mark.parametrize("given", [{}, {"X-Request-Id": "mine", "X-Operation-Id": "mine, too"}])
def test_a_step_sent_again_by_nginx_has_the_same_ids(own_front: Front, given: dict[str, str]) -> None:
    ring = Ring(own_front.workers.addresses)
    own_front.workers.mute = {ring.assignments[5]}
    answer = own_front.client.post(step_path(5), json={"action": "up"}, headers=given)
    assert answer.status_code == 200
    first, second = own_front.workers.asked
    assert first["address"] == ring.assignments[5] != second["address"]
    for name in ("x-request-id", "x-operation-id"):
        assert first["headers"][name] == second["headers"][name] != ""
    assert (first["target"], first["size"]) == (second["target"], second["size"])


@pytest.mark.parametrize(
    "path", ["/api/environment/initialize", "/api/batch/initialize", "/mcp", "/api/cluster/drain?undo=1"]
)
def test_what_may_have_ended_its_worker_and_is_not_known_again_is_asked_of_nobody_else(
    own_front: Front, path: str
) -> None:
    own_front.workers.mute = set(own_front.workers.addresses)
    answer = own_front.client.post(path, json={})
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (503, "worker_unreachable")
    assert (problem["retryable"], problem["may_have_run"]) == (True, True)
    assert [asked["target"] for asked in own_front.workers.asked] == [path]


@pytest.mark.parametrize("path", ["/api/environment/initialize", "/api/batch/initialize", "/mcp"])
def test_what_was_not_begun_is_asked_of_another_worker(own_front: Front, path: str) -> None:
    living = own_front.workers.addresses[0]
    own_front.workers.keep([living])
    answers = [own_front.client.post(path, json={}) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 6
    assert {answer.json()["address"] for answer in answers} == {living}


@pytest.mark.parametrize("call", ["environment/initialize", "batch/initialize"])
def test_what_makes_environments_under_a_key_is_sent_again_as_it_was(own_front: Front, call: str) -> None:
    own_front.workers.mute = set(own_front.workers.addresses[:2])
    # Until one of them was the first to be asked.
    for number in range(30):
        own_front.workers.asked.clear()
        answer = own_front.client.post(
            f"/api/{call}?a=1%2F", json={"env_name": "x"}, headers={"Idempotency-Key": f"key-{number}"}
        )
        assert answer.status_code == 200
        first, *_ = last = own_front.workers.asked
        for asked in last:
            assert (asked["method"], asked["target"]) == ("POST", f"/api/{call}?a=1%2F")
            assert asked["size"] == len('{"env_name":"x"}')
            assert asked["headers"]["idempotency-key"] == f"key-{number}"
            assert asked["headers"]["x-operation-id"] == first["headers"]["x-operation-id"]
        if len(last) > 1:
            return
    raise AssertionError("no worker hung up")


@pytest.mark.parametrize("call", ["batch/step", "batch/reset", "batch/close"])
def test_batches_of_calls_that_are_known_again_are_sent_again(own_front: Front, call: str) -> None:
    own_front.workers.mute = set(own_front.workers.addresses[:2])
    answers = [own_front.client.post(f"/api/{call}", json={}) for _ in range(10)]
    assert [answer.status_code for answer in answers] == [200] * 10
    assert len(own_front.workers.asked) > 10


def test_where_keyed_calls_go_inside_is_nothing_that_a_client_can_ask_for(own_front: Front) -> None:
    assert own_front.client.post("/keyed", json={}).status_code == 404
    assert own_front.workers.asked == []


def test_no_worker_at_all_is_a_problem_document_that_says_retry(own_front: Front) -> None:
    own_front.workers.keep(())
    for path in (step_path(1), "/api/batch/step"):
        answer = own_front.client.post(path, json={}, headers={"X-Request-Id": "mine"})
        problem = answer.json()
        assert (answer.status_code, problem["status"], problem["code"]) == (503, 503, "worker_unreachable")
        assert problem["retryable"] is True
        assert problem["may_have_run"] is True
        assert answer.headers["content-type"] == PROBLEM_JSON
        assert (answer.headers["retry-after"], answer.headers["x-request-id"]) == ("1", "mine")


def test_the_only_worker_that_runs_is_found_among_many_that_were_planned(tmp_path: Path) -> None:
    front = Front(tmp_path, 9)
    try:
        living = front.workers.addresses[4]
        front.workers.keep([living])
        # Slots all around the ring, so that some pass by all the others; and a call that any worker may answer.
        paths = [step_path(slot) for slot in range(0, 4096, 256)] + ["/api/batch/step"]
        answers = [front.client.post(path, json={}) for path in paths]
        assert [answer.status_code for answer in answers] == [200] * len(paths)
        assert {answer.json()["address"] for answer in answers} == {living}
    finally:
        front.stop()


def test_a_worker_that_comes_back_is_found_again(own_front: Front) -> None:
    own_front.workers.keep(())
    assert own_front.client.get("/healthz").status_code == 503
    own_front.workers.keep(own_front.workers.addresses)
    eventually(lambda: own_front.client.get("/healthz").status_code == 200)


def test_no_declared_worker_is_a_problem_document_too(tmp_path: Path) -> None:
    port = free_port()
    write_nginx_config(NginxSettings((), tmp_path, port=port, host="127.0.0.1"), tmp_path / "nginx.conf")
    nginx = NginxProcess(tmp_path, port)
    try:
        answers = [
            httpx.post(f"http://127.0.0.1:{port}{path}", timeout=HANG_S)
            for path in ("/api/batch/step", step_path(3))
        ]
    finally:
        nginx.stop()
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [
        (503, "worker_unreachable")
    ] * 2


def test_a_worker_that_does_not_answer_in_time_is_a_problem_document(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address, port = f"127.0.0.1:{silent.getsockname()[1]}", free_port()
        settings = NginxSettings((address,), tmp_path, port=port, host="127.0.0.1", answer_timeout_s=1)
        write_nginx_config(settings, tmp_path / "nginx.conf")
        nginx = NginxProcess(tmp_path, port)
        try:
            answer = httpx.post(f"http://127.0.0.1:{port}/api/batch/step", timeout=HANG_S)
        finally:
            nginx.stop()
    assert (answer.status_code, answer.json()["code"]) == (503, "worker_unreachable")


def test_a_body_beyond_the_limit_is_a_problem_document(tmp_path: Path) -> None:
    front = Front(tmp_path, 1, max_body_bytes=1000)
    try:
        answer = front.client.post("/api/batch/step", content=b"x" * 1001)
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
        assert answer.json()["max_body_bytes"] == 1000
        assert answer.headers["content-type"] == PROBLEM_JSON
        assert front.workers.asked == []
    finally:
        front.stop()
