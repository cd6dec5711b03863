"""What a client gets that does something wrong: always a problem document, never a traceback or a hang."""

from __future__ import annotations

import time
from typing import Any

import httpx
import orjson
import pytest

from tests.cpu import slowness
from tests.server.conftest import GATED, LAKE, RIGHT, MakeClient, Problem, app_of

INITIALIZE = "/api/environment/initialize"


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/api", "/api/environment/", "/api/environment/x/fly", "/api/environment/initialize/",
     "/api/batch/fly", "/api/environment/" + "x" * 129, "/api/environment//step", "/%0d%0aset-cookie:a=b"],
)  # fmt: skip
async def test_an_unknown_path_is_not_found(client: httpx.AsyncClient, problem: Problem, path: str) -> None:
    for method in ("GET", "POST"):
        found = problem(await client.request(method, path), 404, "not_found")
        assert found["path"].startswith("/")
    assert app_of(client).metrics._errors["not_found"] == 2


async def test_a_long_unknown_path_is_not_echoed_whole(client: httpx.AsyncClient) -> None:
    answer = await client.get("/" + "x" * 50_000)
    assert answer.status_code == 404
    assert len(answer.content) < 2000


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", INITIALIZE, "OPTIONS, POST"),
        ("GET", "/api/batch/step", "OPTIONS, POST"),
        ("GET", "/api/environment/x/step", "OPTIONS, POST"),
        ("POST", "/api/environment/x/render", "GET, HEAD, OPTIONS"),
        ("DELETE", "/api/environment/x", "GET, HEAD, OPTIONS"),
        ("PATCH", "/api/environments", "GET, HEAD, OPTIONS"),
        ("BREW", "/healthz", "GET, HEAD, OPTIONS"),
    ],
)
async def test_another_method_is_not_allowed_and_told_which_is(
    client: httpx.AsyncClient, problem: Problem, method: str, path: str, allow: str
) -> None:
    answer = await client.request(method, path)
    found = problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == allow
    assert (found["method"], found["path"]) == (method, path)


async def test_another_method_on_a_page_is_not_allowed(client: httpx.AsyncClient) -> None:
    for path in ("/", "/docs", "/openapi.json"):
        answer = await client.post(path)
        assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
        assert "GET" in answer.headers["allow"]
        assert answer.headers["content-type"] == "application/problem+json"


async def test_options_names_the_methods_without_a_token(make_client: MakeClient) -> None:
    client = await make_client(auth_tokens=("secret",))
    answer = await client.options("/api/batch/step")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["allow"] == "OPTIONS, POST"


async def test_head_is_get_without_its_body(client: httpx.AsyncClient) -> None:
    for path in ("/healthz", "/api/environments", "/metrics"):
        answer = await client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
        assert int(answer.headers["content-length"]) > 0
    missing = await client.head("/api/environment/nobody")
    assert (missing.status_code, missing.content) == (404, b"")
    assert missing.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b"null", b"17", b'"text"', b"\xff\xfe", b"\xef\xbb\xbf{}", b'{"a": NaN}', b'{"a": 1e999}', b'{"action": %b}' % (b"9" * 400), b"\x00",
     b'{"action": "\\ud800"}', b"[" * 5000, b'{"a":' * 5000, "{}".encode("utf-16")],
)  # fmt: skip
async def test_a_body_that_is_no_json_object_is_malformed(
    client: httpx.AsyncClient, problem: Problem, body: bytes
) -> None:
    for path in (INITIALIZE, "/api/environment/x/step", "/api/batch/step"):
        found = problem(await client.post(path, content=body), 400, "malformed_body")
        assert found["reason"]
        assert not found["retryable"]


@pytest.mark.parametrize(
    ("request_", "loc"),
    [
        ({}, ["env_name"]),
        ({"env_name": 5}, ["env_name"]),
        ({"env_name": ""}, ["env_name"]),
        ({"env_name": "x" * 129}, ["env_name"]),
        ({"env_name": LAKE, "seed": -1}, ["seed"]),
        ({"env_name": LAKE, "seed": 1 << 63}, ["seed"]),
        ({"env_name": LAKE, "seed": 10**30}, ["seed"]),
        ({"env_name": LAKE, "seed": "1"}, ["seed"]),
        ({"env_name": LAKE, "seed": 1.0}, ["seed"]),
        ({"env_name": LAKE, "seed": True}, ["seed"]),
        ({"env_name": LAKE, "env_kwargs": []}, ["env_kwargs"]),
        ({"env_name": LAKE, "env_kwargs": {str(i): i for i in range(300)}}, ["env_kwargs"]),
        ({"env_name": LAKE, "ttl_s": 0}, ["ttl_s"]),
        ({"env_name": LAKE, "ttl_s": -3}, ["ttl_s"]),
        ({"env_name": LAKE, "ttl_s": 1e300}, ["ttl_s"]),
        ({"env_name": LAKE, "run_id": ""}, ["run_id"]),
        ({"env_name": LAKE, "env_nam": 1}, ["env_nam"]),
        ({"env_name": LAKE, "__class__": 1}, ["__class__"]),
    ],
)
async def test_a_body_that_breaks_the_schema_is_told_where(
    client: httpx.AsyncClient, problem: Problem, request_: dict[str, Any], loc: list[str]
) -> None:
    found = problem(await client.post(INITIALIZE, json=request_), 422, "invalid_request")
    assert [fault["loc"] for fault in found["errors"]] == [loc]
    assert app_of(client).env_host.env_table.created.total() == 0


async def test_a_million_unknown_fields_are_refused_quickly_and_briefly(
    client: httpx.AsyncClient, problem: Problem
) -> None:
    body = orjson.dumps({f"{'field' * 8}{i}": i for i in range(240_000)})
    started = time.process_time()
    answer = await client.post(INITIALIZE, content=body)
    cpu_s = time.process_time() - started
    found = problem(answer, 422, "invalid_request")
    assert len(found["errors"]) == 20
    # Refused for their number: not even the missing field was looked for.
    assert all(fault["loc"][0].startswith("field") for fault in found["errors"])
    assert len(answer.content) < 5000
    assert cpu_s < 2 * slowness()


@pytest.mark.parametrize(
    ("items", "status", "code"), [(1_900_000, 413, "batch_too_large"), (131_000, 422, "invalid_request")]
)
async def test_very_many_wrong_items_are_refused_quickly_and_briefly(
    client: httpx.AsyncClient, problem: Problem, items: int, status: int, code: str
) -> None:
    body = b'{"env_ids":[' + b"1," * items + b'1],"actions":[]}'
    started = time.process_time()
    answer = await client.post("/api/batch/step", content=body)
    cpu_s = time.process_time() - started
    problem(answer, status, code)
    assert len(answer.content) < 5000
    assert cpu_s < 2 * slowness()


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        (INITIALIZE, b'{"env_kwargs":{"a":[' + b"100," * 300_000 + b"1]}}", "body_too_complex"),
        ("/api/batch/step", b'{"env_ids":[' + b"1," * 2_000_000 + b'1],"actions":[]}', "body_too_complex"),
        (INITIALIZE, b'{"env_name":"' + b"x" * (16 << 20) + b'"}', "body_too_large"),
    ],
)
async def test_what_would_take_too_long_to_parse_is_refused_quickly(
    client: httpx.AsyncClient, problem: Problem, path: str, body: bytes, code: str
) -> None:
    started = time.process_time()
    answer = await client.post(path, content=body)
    cpu_s = time.process_time() - started
    problem(answer, 413, code)
    assert cpu_s < 2 * slowness()


@pytest.mark.parametrize(
    ("env_name", "env_kwargs"),
    [
        ("sokoban", {"dim_room": [1_000_000, 1_000_000]}),
        ("sokoban", {"dim_room": [10, 10], "num_boxes": 10**9}),
        ("sokoban", {"dim_room": [2**63, 1]}),
        ("sokoban", {"dim_room": "6x6"}),
        ("sokoban", {"dim_room": [6.5, 6]}),
        ("frozen_lake", {"size": 1_000_000}),
        ("frozen_lake", {"size": "eight"}),
        ("frozen_lake", {"desc": ["S" * 100_000] * 100}),
        ("frozen_lake", {"desc": ["FF", "FF"]}),
        ("frozen_lake", {"unknown": 1}),
        ("frozen_lake", {"max_steps": -5}),
    ],
)
async def test_arguments_out_of_range_are_refused_before_anything_is_built(
    client: httpx.AsyncClient, problem: Problem, env_name: str, env_kwargs: dict[str, Any]
) -> None:
    await client.post(INITIALIZE, json={"env_name": env_name})
    started = time.process_time()
    answer = await client.post(INITIALIZE, json={"env_name": env_name, "env_kwargs": env_kwargs})
    cpu_s = time.process_time() - started
    assert problem(answer, 422, "invalid_env_arguments")["errors"]
    assert cpu_s < slowness()
    assert len(app_of(client).env_host.env_table) == 1


async def test_an_unknown_name_gets_suggestions(client: httpx.AsyncClient, problem: Problem) -> None:
    found = problem(await client.post(INITIALIZE, json={"env_name": "sokobann"}), 422, "unknown_env_name")
    assert found["env_name"] == "sokobann"
    assert "verl_env/sokoban-v0" in found["suggestions"]


async def test_an_environment_that_raises_is_a_problem_of_its_own(
    client: httpx.AsyncClient, problem: Problem, initialize: Any
) -> None:
    env_id = await initialize(client, GATED)
    answer = await client.post(f"/api/environment/{env_id}/step", json={"action": "raise"})
    assert answer.json()["code"] in ("environment_lost", "environment_failed")
    problem(answer, answer.status_code, answer.json()["code"])
    assert b"told to raise" not in answer.content


async def test_an_environment_that_cannot_be_imported_is_a_problem_of_its_own(
    client: httpx.AsyncClient, problem: Problem
) -> None:
    problem(await client.post(INITIALIZE, json={"env_name": "broken/gone-v0"}), 500, "environment_failed")
    assert (await client.post(INITIALIZE, json={"env_name": LAKE})).status_code == 200


@pytest.mark.parametrize("depth", [200, 300, 900])
async def test_a_deeply_nested_action_is_an_answer_or_a_problem(
    client: httpx.AsyncClient, initialize: Any, depth: int
) -> None:
    env_id = await initialize(client)
    nested = b"[" * depth + b"]" * depth
    single = await client.post(f"/api/environment/{env_id}/step", content=b'{"action":%b}' % nested)
    assert single.status_code in (200, 422)
    batch = await client.post(
        "/api/batch/step",
        content=b'{"env_ids":["%b","%b"],"actions":[%b,"up"]}' % (env_id.encode(), env_id.encode(), nested),
    )
    assert batch.status_code == 200
    assert batch.json()["rewards"][1] == 0.0
    assert (await client.get(f"/api/environment/{env_id}/trajectory")).status_code == 200


async def test_a_deeply_nested_option_is_an_answer_or_a_problem(
    client: httpx.AsyncClient, initialize: Any
) -> None:
    env_id = await initialize(client)
    nested = b'{"options":{"a":' + b"[" * 400 + b"]" * 400 + b"}}"
    assert (await client.post(f"/api/environment/{env_id}/reset", content=nested)).status_code in (200, 422)
    made = await client.post(INITIALIZE, content=b'{"env_name":"frozen_lake","env_kwargs":' + nested + b"}")
    assert made.status_code == 422


@pytest.mark.parametrize("given", ["abc-123", "!~", "x" * 128])
async def test_a_request_id_is_echoed(client: httpx.AsyncClient, given: str) -> None:
    for path in ("/healthz", "/api/environment/nobody", "/nothing"):
        answer = await client.get(path, headers={"x-request-id": given})
        assert answer.headers["x-request-id"] == given


@pytest.mark.parametrize(
    "given", [b"", b"x" * 129, b"a b", b"a\r\nset-cookie: b=c", b"\x00", b"\x7f", b"\xe9", b"a\tb"]
)
async def test_a_request_id_that_is_no_token_is_replaced(client: httpx.AsyncClient, given: bytes) -> None:
    request = httpx.Request("GET", "http://server/healthz", headers=[(b"x-request-id", given)])
    answer = await client.send(request)
    assert answer.status_code == 200
    assert answer.headers["x-request-id"].encode() != given
    assert len(answer.headers["x-request-id"]) > 8
    assert "set-cookie" not in answer.headers


async def test_generated_request_ids_differ(client: httpx.AsyncClient) -> None:
    ids = {(await client.get("/healthz")).headers["x-request-id"] for _ in range(20)}
    assert len(ids) == 20


async def test_the_same_problem_for_single_and_batch(client: httpx.AsyncClient) -> None:
    single = (await client.post("/api/environment/nobody/step", json={"action": RIGHT})).json()
    batch = (await client.post("/api/batch/step", json={"env_ids": ["nobody"], "actions": [RIGHT]})).json()
    assert batch["errors"] == [{"index": 0, **single}]
