"""The calls on many environments, in process."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.server.conftest import GATED, LAKE, RIGHT, Problem

MAPPED = {"desc": ["SFF", "FFF", "FFG"], "is_slippery": False}


async def make(client: httpx.AsyncClient, **request: Any) -> dict[str, Any]:
    answer = await client.post(
        "/api/batch/initialize", json={"env_name": LAKE, "env_kwargs": MAPPED, **request}
    )
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_initialize_answers_columns_in_request_order(client: httpx.AsyncClient) -> None:
    made = await make(client, seeds=[5, None, 7])
    assert set(made) == {"env_ids", "observations", "infos", "errors"}
    assert len(set(made["env_ids"])) == 3
    assert len(made["observations"]) == 3
    assert (made["infos"][0]["seed"], made["infos"][2]["seed"]) == (5, 7)
    assert made["errors"] == []


@pytest.mark.parametrize(
    "columns",
    [
        {"env_names": [LAKE, "frozen_lake"], "env_name": None},
        {"env_kwargs": [{"size": 4}, {"size": 5}]},
        {"num_envs": 2},
        {"seeds": [1, 2], "num_envs": 2},
    ],
)
async def test_initialize_counts_by_any_column(client: httpx.AsyncClient, columns: dict[str, Any]) -> None:
    request = {key: value for key, value in columns.items() if value is not None}
    if "env_names" in columns:
        answer = await client.post("/api/batch/initialize", json=request)
        assert len(answer.json()["env_ids"]) == 2
    else:
        assert len((await make(client, **request))["env_ids"]) == 2


async def test_initialize_of_mixed_kinds_fails_item_by_item(client: httpx.AsyncClient) -> None:
    names = [LAKE, "frozen_lak", GATED, "gone"]
    answer = await client.post("/api/batch/initialize", json={"env_names": names, "seeds": [1, 2, 3, 4]})
    made = answer.json()
    assert answer.status_code == 200
    assert [env_id is None for env_id in made["env_ids"]] == [False, True, False, True]
    assert [made["observations"][1], made["infos"][1]] == [None, None]
    assert [(error["index"], error["code"]) for error in made["errors"]] == [
        (1, "unknown_env_name"),
        (3, "environment_failed"),
    ]
    assert LAKE in made["errors"][0]["suggestions"]
    for error in made["errors"]:
        assert {"type", "title", "status", "detail", "code", "retryable", "index"} <= set(error)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"env_name": "frozen_lak", "num_envs": 10_000}, "unknown_env_name"),
        ({"env_name": LAKE, "num_envs": 10_000, "env_kwargs": {"size": -1}}, "invalid_env_arguments"),
        ({"env_name": LAKE, "num_envs": 10_000, "env_kwargs": {"sise": 1}}, "invalid_env_arguments"),
    ],
)
async def test_what_is_wrong_for_all_items_fails_each_of_them_without_looking_each_time(
    client: httpx.AsyncClient, request_: dict[str, Any], code: str
) -> None:
    made = await make(client, **request_)
    assert {error["code"] for error in made["errors"]} == {code}
    assert [error["index"] for error in made["errors"]] == list(range(10_000))
    assert made["env_ids"] == [None] * 10_000


async def test_initialize_of_a_broken_kind_fails_item_by_item(client: httpx.AsyncClient) -> None:
    made = await make(client, env_name="gone", env_kwargs={}, num_envs=2)
    assert [(error["index"], error["code"]) for error in made["errors"]] == [
        (0, "environment_failed"),
        (1, "environment_failed"),
    ]


async def test_wrong_arguments_of_many_items_do_not_multiply(client: httpx.AsyncClient) -> None:
    kwargs = {f"{'x' * 100}{i}": 0 for i in range(200)}
    answer = await client.post("/api/batch/initialize", json={"env_names": [LAKE] * 20, "env_kwargs": kwargs})
    errors = answer.json()["errors"]
    assert [error["code"] for error in errors] == ["invalid_env_arguments"] * 20
    assert all(0 < len(error["errors"]) <= 3 for error in errors)
    assert len(answer.content) < 20 * 2000


async def test_step_answers_columns_and_nulls_where_it_failed(client: httpx.AsyncClient) -> None:
    env_ids = (await make(client, num_envs=2))["env_ids"]
    answer = await client.post(
        "/api/batch/step",
        json={
            "env_ids": [env_ids[0], "nobody", env_ids[1]],
            "actions": [RIGHT, RIGHT, 17],
            "seqs": [0, 0, None],
        },
    )
    body = answer.json()
    assert answer.status_code == 200
    assert set(body) == {"observations", "rewards", "terminations", "truncations", "infos", "errors"}
    assert body["rewards"] == [0.0, None, 0.0]
    assert body["terminations"] == [False, None, False]
    assert body["truncations"] == [False, None, False]
    assert body["observations"][1] is None
    assert body["observations"][0][0]["tool_call_id"] == "call_1"
    assert [info and info["action_is_valid"] for info in body["infos"]] == [True, None, False]
    (error,) = body["errors"]
    assert (error["index"], error["code"], error["status"]) == (1, "environment_not_found", 404)
    assert error["env_id"] == "nobody"


async def test_a_batch_step_equals_single_steps(client: httpx.AsyncClient) -> None:
    batch = (await make(client, seeds=[3, 4]))["env_ids"]
    single = (await make(client, seeds=[3, 4]))["env_ids"]
    for action in (RIGHT, "down", "nonsense", "<answer>right || down</answer>"):
        body = (
            await client.post("/api/batch/step", json={"env_ids": batch, "actions": [action, action]})
        ).json()
        for i, env_id in enumerate(single):
            one = (await client.post(f"/api/environment/{env_id}/step", json={"action": action})).json()
            assert one["observation"] == body["observations"][i]
            assert one["info"] == body["infos"][i]
            assert (one["reward"], one["terminated"], one["truncated"]) == (
                body["rewards"][i], body["terminations"][i], body["truncations"][i],
            )  # fmt: skip


async def test_one_environment_twice_in_a_batch_takes_its_actions_in_order(client: httpx.AsyncClient) -> None:
    (env_id,) = (await make(client, num_envs=1))["env_ids"]
    actions = ["right", "right", "down", "down", "up"]
    body = (
        await client.post(
            "/api/batch/step", json={"env_ids": [env_id] * 5, "actions": actions, "seqs": [0, 1, 2, 3, 4]}
        )
    ).json()
    assert body["rewards"] == [0.0, 0.0, 0.0, 1.0, None]
    assert body["terminations"] == [False, False, False, True, None]
    assert [error["code"] for error in body["errors"]] == ["episode_ended"]


async def test_a_repeated_batch_step_is_answered_as_before(client: httpx.AsyncClient) -> None:
    env_ids = (await make(client, num_envs=3))["env_ids"]
    request = {"env_ids": env_ids, "actions": [RIGHT] * 3, "seqs": [0] * 3}
    first = await client.post("/api/batch/step", json=request)
    again = await client.post("/api/batch/step", json=request)
    assert again.content == first.content
    assert (await client.get(f"/api/environment/{env_ids[0]}")).json()["seq"] == 1


async def test_slow_and_fast_environments_share_a_batch(client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/batch/initialize", json={"env_names": [GATED, LAKE, GATED]})
    env_ids = answer.json()["env_ids"]
    body = (
        await client.post("/api/batch/step", json={"env_ids": env_ids, "actions": ["", "up", "raise"]})
    ).json()
    assert body["rewards"][:2] == [1.0, 0.0]
    assert [error["index"] for error in body["errors"]] == [2]


async def test_reset_takes_seeds_and_options_by_column(client: httpx.AsyncClient) -> None:
    env_ids = (await make(client, num_envs=2))["env_ids"]
    body = (
        await client.post("/api/batch/reset", json={"env_ids": [*env_ids, "nobody"], "seeds": [8, 9, 10]})
    ).json()
    assert set(body) == {"observations", "infos", "errors"}
    assert [info and info["seed"] for info in body["infos"]] == [8, 9, None]
    assert [(error["index"], error["code"]) for error in body["errors"]] == [(2, "environment_not_found")]
    options: Any
    for options in ({}, [{}, None]):
        answer = await client.post("/api/batch/reset", json={"env_ids": env_ids, "options": options})
        assert answer.json()["errors"] == []


async def test_close_by_id_is_repeatable_and_names_unknown_ones(client: httpx.AsyncClient) -> None:
    env_ids = (await make(client, num_envs=2))["env_ids"]
    for _ in range(2):
        body = (await client.post("/api/batch/close", json={"env_ids": [*env_ids, "nobody"]})).json()
        assert body["closed"] == 2
        assert [(error["index"], error["code"]) for error in body["errors"]] == [(2, "environment_not_found")]
    state = await client.get(f"/api/environment/{env_ids[0]}")
    assert state.json()["code"] == "environment_closed"


async def test_close_by_run_closes_that_run_only(client: httpx.AsyncClient) -> None:
    mine = (await make(client, num_envs=3, run_id="run-a"))["env_ids"]
    other = (await make(client, num_envs=1, run_id="run-b"))["env_ids"]
    body = (await client.post("/api/batch/close", json={"run_id": "run-a"})).json()
    assert body == {"closed": 3, "errors": []}
    assert (await client.get(f"/api/environment/{mine[0]}")).status_code == 404
    assert (await client.get(f"/api/environment/{other[0]}")).status_code == 200
    assert (await client.post("/api/batch/close", json={"run_id": "run-a"})).json()["closed"] == 0


@pytest.mark.parametrize("call", ["step", "reset", "close"])
async def test_an_empty_batch_is_answered_empty(client: httpx.AsyncClient, call: str) -> None:
    request: dict[str, Any] = {"env_ids": [], **({"actions": []} if call == "step" else {})}
    answer = await client.post(f"/api/batch/{call}", json=request)
    assert answer.status_code == 200
    assert answer.json()["errors"] == []


@pytest.mark.parametrize(
    ("path", "request_"),
    [
        ("step", {"env_ids": ["a", "b"], "actions": [""]}),
        ("step", {"env_ids": ["a"], "actions": [""], "seqs": [0, 1]}),
        ("step", {"env_ids": ["a"]}),
        ("step", {"env_ids": "a", "actions": ["x"]}),
        ("step", {"env_ids": [""], "actions": ["x"]}),
        ("step", {"env_ids": ["a"], "actions": {"0": "x"}}),
        ("step", {"env_ids": ["a"], "actions": ["x"], "seqs": [-1]}),
        ("step", {"env_ids": ["a"], "actions": ["x"], "seqs": [1.5]}),
        ("reset", {"env_ids": ["a", "b"], "seeds": [1]}),
        ("reset", {"env_ids": ["a"], "seeds": ["1"]}),
        ("reset", {"env_ids": ["a"], "options": [{}, {}]}),
        ("reset", {}),
        ("initialize", {"env_name": LAKE}),
        ("initialize", {"num_envs": 1}),
        ("initialize", {"env_name": LAKE, "env_names": [LAKE]}),
        ("initialize", {"env_name": LAKE, "num_envs": 2, "seeds": [1]}),
        ("initialize", {"env_names": [LAKE, LAKE], "env_kwargs": [{}]}),
        ("initialize", {"env_name": LAKE, "num_envs": -1}),
        ("initialize", {"env_name": LAKE, "num_envs": True}),
        ("close", {}),
        ("close", {"env_ids": [], "run_id": "x"}),
        ("close", {"env_ids": None, "run_id": None}),
    ],
)
async def test_ill_formed_batches_are_refused_whole(
    client: httpx.AsyncClient, problem: Problem, path: str, request_: dict[str, Any]
) -> None:
    found = problem(await client.post(f"/api/batch/{path}", json=request_), 422, "invalid_request")
    assert found["errors"]
    assert all(set(fault) == {"loc", "msg"} for fault in found["errors"])


async def test_a_wrong_item_fails_alone_in_every_batch(client: httpx.AsyncClient) -> None:
    def failed(answer: httpx.Response) -> list[tuple[int, str]]:
        assert answer.status_code == 200, answer.text
        return [(error["index"], error["code"]) for error in answer.json()["errors"]]

    wanted = {"env_name": LAKE, "env_kwargs": MAPPED, "seeds": [5, -1, 7, "8"]}
    made = await client.post("/api/batch/initialize", json=wanted)
    assert failed(made) == [(1, "invalid_request"), (3, "invalid_request")]
    env_ids = made.json()["env_ids"]
    assert [env_id is None for env_id in env_ids] == [False, True, False, True]
    mixed = [env_ids[0], "", env_ids[2]]
    # As Python's own JSON writes half a surrogate pair.
    body = json.dumps({"env_ids": [env_ids[0], env_ids[2]], "actions": ["\ud800", "right"]})
    stepped = await client.post("/api/batch/step", content=body)
    assert failed(stepped) == [(0, "invalid_request")]
    assert stepped.json()["infos"][1]["num_steps"] == 1
    assert (await client.get(f"/api/environment/{env_ids[0]}")).json()["seq"] == 0
    reset = await client.post("/api/batch/reset", json={"env_ids": mixed, "seeds": [1, 2, 3]})
    assert failed(reset) == [(1, "invalid_request")]
    assert reset.json()["infos"][2]["seed"] == 3
    closed = await client.post("/api/batch/close", json={"env_ids": mixed})
    assert failed(closed) == [(1, "invalid_request")]
    assert closed.json()["closed"] == 2
