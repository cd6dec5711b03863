"""What a browser and a person see: the front, the documentation, the OpenAPI document."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from tests.server.conftest import MakeClient, app_of
from verl_agent_env import __version__


@pytest.fixture
async def document(client: httpx.AsyncClient) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get("/openapi.json")).json()
    return found


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


async def test_the_front_tells_a_program_that_the_server_runs(client: httpx.AsyncClient) -> None:
    answer = await client.get("/", headers={"accept": "*/*"})
    assert answer.status_code == 200
    assert answer.json() == {"status": "running"}
    assert answer.headers["content-type"] == "application/json"


async def test_the_front_sends_a_browser_to_a_page(client: httpx.AsyncClient) -> None:
    answer = await client.get("/", headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert answer.is_redirect
    assert answer.headers["vary"] == "Accept"
    page = await client.get(f"/{answer.headers['location']}")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")


async def test_the_front_answers_head(client: httpx.AsyncClient) -> None:
    answer = await client.head("/")
    assert (answer.status_code, answer.content) == (200, b"")


async def test_readiness_ends_with_the_application(make_client: MakeClient) -> None:
    client = await make_client()
    app = app_of(client)
    assert (await client.get("/readyz")).status_code == 200
    app.server_handlers.ready = False
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()["code"]) == (503, "shutting_down")
    assert answer.headers["retry-after"] == "1"


async def test_the_document_is_openapi_3_1_of_this_version(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    assert document["info"]["title"] == "verl-agent-env"
    assert document["info"]["version"] == __version__


WIRES = ("/openenv/", "/ors/")
"""Other projects' calls, which their own documents describe, and docs/wires.md."""


async def test_every_route_of_the_api_is_documented(
    client: httpx.AsyncClient, document: dict[str, Any]
) -> None:
    documented = {(method.upper(), path) for method, path, _ in operations(document)}
    served = {(route.method, route.path) for route in app_of(client).dispatcher.routes}
    assert documented == {(method, path) for method, path in served if not path.startswith(WIRES)}


async def test_operations_have_unique_ids_summaries_and_known_references(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(ids) == len(set(ids))
    for _, _, operation in operations(document):
        assert operation["summary"]
        assert operation["description"]
    schemas = document["components"]["schemas"]
    for reference in _references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas


async def test_every_body_has_an_example_that_fits_its_schema(document: dict[str, Any]) -> None:
    bodies = [
        operation["requestBody"] for _, _, operation in operations(document) if "requestBody" in operation
    ]
    assert len(bodies) == 10
    resolver = Registry().with_resource("urn:api", DRAFT202012.create_resource(document))
    for body in bodies:
        content = body["content"]["application/json"]
        validator = Draft202012Validator({"$ref": f"urn:api{content['schema']['$ref']}"}, registry=resolver)
        examples = [example["value"] for example in content["examples"].values()]
        assert examples
        for example in examples:
            validator.validate(example)


async def test_every_schema_of_the_document_is_a_schema(document: dict[str, Any]) -> None:
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


async def test_examples_do_what_they_say(client: httpx.AsyncClient, document: dict[str, Any]) -> None:
    def example(path: str) -> dict[str, Any]:
        content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        value: dict[str, Any] = next(iter(content["examples"].values()))["value"]
        return value

    made = await client.post("/api/environment/initialize", json=example("/api/environment/initialize"))
    env_id = made.json()["env_id"]
    for verb in ("step", "reset"):
        path = f"/api/environment/{{env_id}}/{verb}"
        answer = await client.post(path.format(env_id=env_id), json=example(path))
        assert answer.status_code == 200, answer.text
    batch = (await client.post("/api/batch/initialize", json=example("/api/batch/initialize"))).json()
    assert batch["errors"] == []
    for verb in ("step", "reset"):
        path = f"/api/batch/{verb}"
        request = {**example(path), "env_ids": [env_id]}
        assert (await client.post(path, json=request)).json()["errors"] == []


async def test_errors_are_documented_as_problems(document: dict[str, Any]) -> None:
    for _, _, operation in operations(document):
        for status, response in operation["responses"].items():
            if status != "200":
                assert list(response["content"]) == ["application/problem+json"]
                assert response["description"]


async def test_with_tokens_the_document_says_so(make_client: MakeClient) -> None:
    client = await make_client(auth_tokens=("a",))
    document = (await client.get("/openapi.json")).json()
    assert document["paths"]["/api/batch/step"]["post"]["security"] == [{"bearer": []}]
    assert "401" in document["paths"]["/api/batch/step"]["post"]["responses"]
    assert "security" not in document["paths"]["/healthz"]["get"]


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [found for value in node.values() for found in _references(value)]
    if isinstance(node, list):
        return [found for value in node for found in _references(value)]
    return []


async def test_below_the_path_of_a_proxy_the_document_names_it_and_pages_stay_relative(
    make_client: MakeClient,
) -> None:
    plain, below = await make_client(), await make_client(root_path="/team/envs")
    named = {"X-Forwarded-Prefix": "/other"}
    documents = [
        (await client.get("/openapi.json", headers=headers)).json()
        for client, headers in ((plain, {}), (below, {}), (below, named), (plain, named), (plain, {}))
    ]
    servers = [document.pop("servers", []) for document in documents]
    paths = ["/team/envs", "/other", "/other"]
    assert servers == [[], *([{"url": path}] for path in paths), []]
    assert all(document == documents[0] for document in documents)
    for path in ("/", "/web", "/docs"):
        answer = await below.get(path, headers={"Accept": "text/html"})
        assert not answer.headers["location"].startswith(("/", "http")), path
    # The proxy takes the path away; calls are what they are without it.
    assert (await below.get("/healthz")).status_code == 200
    assert (await below.get("/web/app.js")).status_code == 200
