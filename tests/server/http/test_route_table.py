"""Routes of a path: which part of it is an environment's id, and what is no path of an environment."""

from __future__ import annotations

import pytest

from verl_agent_env.server.http.route_table import RouteTable
from verl_agent_env.server.http.types import Request, Response, Route


def answer(_: Request) -> Response:
    return Response(b"")


CREATE, STATE, STEP = (
    Route(method, path, answer, "Do something")
    for method, path in (
        ("POST", "/api/environment/initialize"),
        ("GET", "/api/environment/{env_id}"),
        ("POST", "/api/environment/{env_id}/step"),
    )
)
TABLE = RouteTable([CREATE, STATE, STEP])


@pytest.mark.parametrize(
    "env_id", ["e", "0a1-" + "f" * 32, "x" * 128, "initialized", "with space", "line\nbreak", "ü"]
)
def test_environment_is_named_between_prefix_and_verb(env_id: str) -> None:
    assert TABLE.match(f"/api/environment/{env_id}") == ({"GET": STATE}, env_id)
    assert TABLE.match(f"/api/environment/{env_id}/step") == ({"POST": STEP}, env_id)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/step",
        "x" * 129 + "/step",
        "initialize/step",
        "e/stop",
        "e/step/",
        "e//step",
        "/e/step",
        "e/step/step",
    ],
)
def test_other_paths_below_the_prefix_have_no_routes(path: str) -> None:
    assert TABLE.match(f"/api/environment/{path}") is None


def test_word_for_creation_is_no_id() -> None:
    assert TABLE.match("/api/environment/initialize") == ({"POST": CREATE}, "")
