"""What the holders of different tokens may do, and what they see of each other."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.children import cli
from tests.conftest import ServerProcess, StartServer
from tests.pool_process import Pool
from tests.server.conftest import GATED, LAKE, MakeClient, Problem, app_of
from tests.waiting import HANG_S, eventually
from verl_agent_env.engine.execution.slices import Slices
from verl_agent_env.turns import Tenant, current_tenant
from verl_agent_env.types import tag_of_holder

TOKENS = {
    "alice": "alice-token-0f3a",
    "bob": "bob-token-77c1",
    "watcher": "alice-reader-5d2e",
    "ops": "ops-token-91be",
}
UNKNOWN = "000-" + "0" * 32


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """Alice and Bob run, somebody else may read what is Alice's, and there is an operator."""
    path = tmp_path / "tokens"
    digest = hashlib.sha256(TOKENS["bob"].encode()).hexdigest()
    path.write_text(
        f"alice run {TOKENS['alice']}\nbob run sha256:{digest}\n"
        f"alice read {TOKENS['watcher']}\nops admin {TOKENS['ops']}\n"
    )
    return path


def as_(name: str) -> dict[str, str]:
    """The header of a token."""
    return {"authorization": f"Bearer {TOKENS[name]}"}


@pytest.fixture
async def client(make_client: MakeClient, token_file: Path) -> httpx.AsyncClient:
    return await make_client(auth_file=str(token_file))


async def begun(client: httpx.AsyncClient, name: str, **request: Any) -> str:
    body = {"env_name": LAKE, "seed": 1, **request}
    answer = await client.post("/api/environment/initialize", json=body, headers=as_(name))
    assert answer.status_code == 200
    return str(answer.json()["env_id"])


ON_ONE: list[tuple[str, str]] = [
    ("GET", ""), ("GET", "/action-space"), ("GET", "/task-prompt"), ("GET", "/allow-parallel-tool-call"),
    ("GET", "/tools-schema-openai"), ("GET", "/tools-schema-anthropic"), ("GET", "/render"), ("GET", "/trajectory"),
    ("POST", "/step"), ("POST", "/reset"), ("POST", "/close"), ("POST", "/read-action"), ("POST", "/propose-action"), ("GET", "/seat"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "verb"), ON_ONE)
async def test_another_holders_environment_is_not_there(
    client: httpx.AsyncClient, problem: Problem, method: str, verb: str
) -> None:
    duel = {"env_name": "connect_four", "env_kwargs": {"opponent": "self"}}
    env_id = await begun(client, "alice", **(duel if verb == "/seat" else {}))
    action = {"action": "up"}
    body = {"/step": action, "/read-action": action, "/propose-action": {"policy": "random"}}.get(verb, {})
    answers = []
    for asked in (env_id, UNKNOWN):
        path = f"/api/environment/{asked}{verb}"
        answer = await client.request(method, path, json=body, headers=as_("bob"))
        answers.append(problem(answer, 404, "environment_not_found"))
    # Nothing tells one that exists from one that does not.
    assert {**answers[0], "env_id": "", "detail": ""} == {**answers[1], "env_id": "", "detail": ""}
    for name in ("alice", "ops"):
        answer = await client.request(
            method, f"/api/environment/{env_id}{verb}", json=body, headers=as_(name)
        )
        assert answer.status_code == 200


async def test_batches_take_turns_by_token_and_run(
    monkeypatch: pytest.MonkeyPatch, make_client: MakeClient, token_file: Path
) -> None:
    seen: set[Tenant] = set()
    turn = Slices.turn

    async def noting(slices: Slices) -> None:
        seen.add(current_tenant.get())
        await turn(slices)

    monkeypatch.setattr(Slices, "turn", noting)
    client = await make_client(auth_file=str(token_file))
    for name in ("alice", "bob"):
        # One wrong seed: each item is looked at alone, before anything is known of a run.
        body = {"env_name": LAKE, "seeds": [*range(1_000), "wrong"], "run_id": "training"}
        answer = await client.post("/api/batch/initialize", json=body, headers=as_(name))
        env_ids = answer.json()["env_ids"][:-1]
        steps = {"env_ids": env_ids, "actions": ["right"] * len(env_ids)}
        assert (await client.post("/api/batch/step", json=steps, headers=as_(name))).json()["errors"] == []
    assert {tenant.tag for tenant in seen} == {tag_of_holder("alice"), tag_of_holder("bob")}
    assert {tenant.run_id for tenant in seen} <= {"", "training"}
    assert Tenant(tag_of_holder("alice"), "training") in seen


async def test_every_call_on_one_environment_is_tried_above(client: httpx.AsyncClient) -> None:
    prefix = "/api/environment/{env_id}"
    routes = app_of(client).dispatcher.routes
    found = {(r.method, r.path.removeprefix(prefix)) for r in routes if r.path.startswith(prefix)}
    assert found == set(ON_ONE)


async def test_in_a_batch_items_of_other_holders_are_not_there(client: httpx.AsyncClient) -> None:
    ids = {name: [await begun(client, name) for _ in range(2)] for name in ("alice", "bob", "ops")}
    mixed = [ids["bob"][0], ids["alice"][0], ids["ops"][0], ids["bob"][1], UNKNOWN, ids["alice"][1]]
    hidden = [1, 2, 4, 5]
    own = [0, 3]

    async def post(verb: str, **columns: Any) -> Any:
        body = {"env_ids": mixed, **columns}
        return (await client.post(f"/api/batch/{verb}", json=body, headers=as_("bob"))).json()

    for answer in (await post("reset", seeds=[5] * 6), await post("step", actions=["up"] * 6, seqs=[0] * 6)):
        codes = [(error["index"], error["code"], error["env_id"]) for error in answer["errors"]]
        assert codes == [(index, "environment_not_found", mixed[index]) for index in hidden]
        assert [index for index, each in enumerate(answer["observations"]) if each is not None] == own
    assert (await post("reset", seeds=[5] * 6))["infos"][3]["seed"] == 5
    closed = await post("close")
    assert closed["closed"] == 2
    assert [(error["index"], error["code"]) for error in closed["errors"]] == [
        (index, "environment_not_found") for index in hidden
    ]
    for name in ("alice", "ops"):
        for env_id in ids[name]:
            state = await client.get(f"/api/environment/{env_id}", headers=as_(name))
            assert (state.status_code, state.json()["episode"]) == (200, 0)


async def test_a_batch_of_others_environments_alone_does_nothing(client: httpx.AsyncClient) -> None:
    env_ids = [await begun(client, "alice") for _ in range(3)]
    for verb, columns in (("reset", {}), ("step", {"actions": ["up"] * 3}), ("close", {})):
        body = {"env_ids": env_ids, **columns}
        answer = await client.post(f"/api/batch/{verb}", json=body, headers=as_("bob"))
        assert [error["code"] for error in answer.json()["errors"]] == ["environment_not_found"] * 3


async def test_a_run_is_its_holders_own(make_client: MakeClient, token_file: Path) -> None:
    client = await make_client(host={"max_envs_per_run": 2}, auth_file=str(token_file))
    for name in ("alice", "bob", "ops"):
        # Nobody fills up the run of somebody else that has the same name.
        for _ in range(2):
            await begun(client, name, run_id="run")
    full = await client.post(
        "/api/environment/initialize", json={"env_name": LAKE, "run_id": "run"}, headers=as_("bob")
    )
    assert full.json()["code"] == "run_quota_exceeded"

    async def close(name: str) -> int:
        answer = await client.post("/api/batch/close", json={"run_id": "run"}, headers=as_(name))
        return int(answer.json()["closed"])

    assert await close("bob") == 2
    assert await close("bob") == 0
    assert await close("ops") == 4


async def test_scopes_say_which_calls_a_token_is_good_for(
    client: httpx.AsyncClient, problem: Problem
) -> None:
    env_id = await begun(client, "alice")
    reads = ["/api/environments", "/api/cluster", f"/api/environment/{env_id}"]
    for path in reads:
        assert (await client.get(path, headers=as_("watcher"))).status_code == 200
    runs = ["/api/environment/initialize", "/api/batch/initialize", "/api/batch/step", "/api/batch/close",
            f"/api/environment/{env_id}/step", f"/api/environment/{env_id}/reset", f"/api/environment/{env_id}/close"]  # fmt: skip
    for path in runs:
        refused = await client.post(path, json={}, headers=as_("watcher"))
        assert problem(refused, 403, "insufficient_scope")["scope"] == "run"
        assert refused.headers["www-authenticate"] == 'Bearer error="insufficient_scope", scope="run"'
    for method, path in (("GET", "/metrics"), ("HEAD", "/metrics"), ("POST", "/api/cluster/drain")):
        refused = await client.request(method, path, headers=as_("alice"))
        assert refused.status_code == 403
        assert (await client.request(method, path, headers=as_("ops"))).status_code != 403
    assert (await client.get(f"/api/environment/{env_id}", headers=as_("alice"))).status_code == 200


async def test_a_holders_tokens_share_its_environments(client: httpx.AsyncClient) -> None:
    env_id = await begun(client, "alice")
    assert (await client.get(f"/api/environment/{env_id}", headers=as_("watcher"))).status_code == 200
    other = await begun(client, "bob")
    assert (await client.get(f"/api/environment/{other}", headers=as_("watcher"))).status_code == 404


async def test_idempotency_keys_of_different_holders_are_different(client: httpx.AsyncClient) -> None:
    for path in ("/api/environment/initialize", "/api/batch/initialize"):
        made = {}
        for name in ("alice", "bob"):
            body = {"env_name": LAKE, **({"num_envs": 3} if "batch" in path else {})}
            headers = {**as_(name), "idempotency-key": f"key {path}".replace(" ", "-")}
            answers = [(await client.post(path, json=body, headers=headers)).json() for _ in range(2)]
            assert answers[0] == answers[1]
            made[name] = answers[0].get("env_ids", [answers[0].get("env_id")])
        assert set(made["alice"]).isdisjoint(made["bob"])
        for env_id in made["alice"]:
            assert (await client.get(f"/api/environment/{env_id}", headers=as_("alice"))).status_code == 200
            assert (await client.get(f"/api/environment/{env_id}", headers=as_("bob"))).status_code == 404


async def test_guesses_are_slowed_down_by_the_clients_address(client: httpx.AsyncClient) -> None:
    async def guess(nth: int, address: str) -> httpx.Response:
        headers = {"authorization": f"Bearer guess-{nth}", "x-forwarded-for": address}
        return await client.get("/api/cluster", headers=headers)

    assert (await client.get("/api/cluster", headers=as_("alice"))).status_code == 200
    answers = [await guess(nth, "192.0.2.7") for nth in range(12)]
    assert [answer.status_code for answer in answers] == [401] * 10 + [429] * 2
    assert int(answers[-1].headers["retry-after"]) >= 1
    # The proxy speaks for others, too.
    assert (await guess(0, "192.0.2.8")).status_code == 401
    assert (await client.get("/api/cluster", headers=as_("alice"))).status_code == 200


# --- processes ------------------------------------------------------------------------------------------------


def test_a_pool_keeps_holders_apart_whichever_worker_is_asked(
    start_server: StartServer, token_file: Path
) -> None:
    server = start_server("--workers", "2", "--auth-file", str(token_file))
    pool = Pool(server)
    for client in (*pool.at, pool.any):
        client.headers.update(as_("alice"))
    made = {
        env_id
        for client in pool.at
        for _ in range(4)
        for env_id in client.post(
            "/api/batch/initialize", json={"env_name": LAKE, "num_envs": 4, "run_id": "run"}
        ).json()["env_ids"]
    }
    env_ids = sorted(made)
    keyed = {
        client.post("/api/environment/initialize", json={"env_name": LAKE, "run_id": "run"},
                    headers={"Idempotency-Key": f"key-{nth}"}).json()["env_id"]
        for nth in range(8) for client in pool.at
    }  # fmt: skip
    assert len(keyed) == 8
    for client in pool.at:
        for env_id in (*env_ids[:4], *env_ids[-4:], *keyed):
            path = f"/api/environment/{env_id}"
            assert client.get(path).status_code == 200
            assert client.get(path, headers=as_("bob")).status_code == 404
        body = {"env_ids": env_ids, "actions": ["up"] * len(env_ids)}
        assert client.post("/api/batch/step", json=body).json()["errors"] == []
        refused = client.post("/api/batch/step", json=body, headers=as_("bob")).json()["errors"]
        assert {error["code"] for error in refused} == {"environment_not_found"}
        for path in ("/internal/worker", "/internal/batch/step"):
            method = "GET" if path.endswith("worker") else "POST"
            assert client.request(method, path).json()["code"] == "insufficient_scope"
            spoofed = {"X-Env-Peer": "x", "X-Env-Hop": "1", "X-Env-Principal": "admin ops"}
            assert client.request(method, path, headers=spoofed).json()["code"] == "insufficient_scope"
    closing = [
        pool.any.post("/api/batch/close", json={"run_id": "run"}, headers=as_(name)).json()["closed"]
        for name in ("bob", "alice")
    ]
    assert closing == [0, len(env_ids) + len(keyed)]
    pool.close()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_hangup_reads_the_tokens_again(start_server: StartServer, token_file: Path, workers: str) -> None:
    server = start_server("--auth-file", str(token_file), "--workers", workers)

    def status(token: str) -> int:
        headers = {"authorization": f"Bearer {token}"}
        return httpx.get(f"{server.url}/api/cluster", headers=headers, timeout=HANG_S).status_code

    assert status(TOKENS["alice"]) == 200
    token_file.write_text("alice run another-token\n")
    os.kill(server.process.pid, signal.SIGHUP)
    # By the log: who asks again and again with a token that is no longer known is told to wait, instead of 401.
    for _ in range(int(workers)):
        server.wait_for_line("token file read")
    assert {status(TOKENS["alice"]) for _ in range(8)} == {401}
    assert {status("another-token") for _ in range(8)} == {200}
    token_file.write_text("nonsense\n")
    os.kill(server.process.pid, signal.SIGHUP)
    server.wait_for_line("the tokens stay as they were")
    assert {status("another-token") for _ in range(8)} == {200}
    assert server.stop() == 0


def test_tokens_stand_nowhere(token_file: Path) -> None:
    plain = "plain-token,with-comma"
    # A program of its own: those that are forked for other tests have the command line of the tests.
    command = [
        sys.executable, "-m", "verl_agent_env.cli", "serve", "--port", "0", "--access-log", "--log-level", "debug",
        "--auth-file", str(token_file), "--auth-token", plain, "--workers", "2",
    ]  # fmt: skip
    server = ServerProcess([], {}, command)
    secrets = [*TOKENS.values(), plain, "guessed-token"]
    eventually(lambda: len(children_of(server.process.pid)) == 2)
    pids = [server.process.pid, *children_of(server.process.pid)]
    texts = [Path(f"/proc/{pid}/cmdline").read_text() for pid in pids]
    with httpx.Client(base_url=server.url, timeout=HANG_S) as client:
        for token in secrets:
            client.headers["authorization"] = f"Bearer {token}"
            for path in (
                "/api/environments",
                "/metrics",
                "/api/cluster",
                "/nothing",
                "/openapi.json",
                "/internal/worker",
            ):
                texts.append(client.get(path).text)
            texts.append(client.post("/api/environment/initialize", json={"env_name": GATED, "x": 1}).text)
            texts.append(client.post("/api/batch/step", content=b"{").text)
        client.headers["authorization"] = f"Bearer {plain}"
        assert client.get("/metrics").status_code == 200
    server.stop()
    texts += server.lines
    assert any("/api/cluster" in line for line in server.lines)
    for secret in secrets:
        assert [text for text in texts if secret in text] == []


def children_of(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


@pytest.mark.parametrize(
    "text", ["", "alice run", "alice walk some-token", f"alice run {TOKENS['bob']}\nbob run {TOKENS['bob']}"]
)
def test_a_wrong_file_ends_the_start_with_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(text)
    done = cli("serve", "--port", "0", "--auth-file", str(path))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert f"the token file {path}" in done.stderr
    for token in ("some-token", TOKENS["bob"]):
        assert token not in done.stderr


def test_the_document_names_the_scope_of_each_call(start_server: StartServer, token_file: Path) -> None:
    server = start_server("--auth-file", str(token_file))
    paths = orjson.loads(httpx.get(f"{server.url}/openapi.json", timeout=HANG_S).content)["paths"]
    assert paths["/metrics"]["get"]["description"] == "Needs a token with the scope `admin`."
    assert "403" in paths["/api/batch/step"]["post"]["responses"]
    assert "security" not in paths["/healthz"]["get"]
