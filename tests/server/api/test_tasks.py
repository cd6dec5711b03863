"""The calls on an environment's tasks, and environments that begin with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import httpx
import orjson
import pytest

from tests.server.conftest import GATED, LAKE, MakeClient, Problem, app_of
from verl_agent_env.envs.base import ChatEnv, EnvArguments
from verl_agent_env.envs.layouts import layout_hash
from verl_agent_env.envs.registry import EnvSpec, default_registry
from verl_agent_env.errors import InvalidEnvArgumentsError

INITIALIZE = "/api/environment/initialize"
BATCH = "/api/batch/initialize"


class OwnSplitsEnv(ChatEnv):
    """Lists its own tasks."""

    @classmethod
    def task_lists(cls) -> dict[str, list[dict[str, Any]]]:
        return {"easy": [{"seed": 4, "env_kwargs": {"max_steps": 3}}], "test": [{"id": "last"}]}

    def task_prompt_text(self) -> str:
        return "Say anything."

    def begin_episode(self, options: Any) -> None:
        return


class FewLayoutsEnv(OwnSplitsEnv):
    """Has four layouts, and no episode for every third seed."""

    Arguments: ClassVar[type[EnvArguments]] = EnvArguments

    @classmethod
    def task_lists(cls) -> dict[str, list[dict[str, Any]]]:
        return {}

    def begin_episode(self, options: Any) -> None:
        if self.episode_seed % 3 == 0:
            raise InvalidEnvArgumentsError("few", [])

    def layout(self) -> Any:
        return self.episode_seed % 4


def register(client: httpx.AsyncClient, env_class: type[ChatEnv]) -> str:
    name = f"tasks/{env_class.__name__}-v0"
    app_of(client).env_host.registry.register(EnvSpec(name, f"{__name__}:{env_class.__name__}"))
    return name


async def tasks_of(
    client: httpx.AsyncClient, name: str, split: str, offset: int = 0, limit: int = 20
) -> list[dict[str, Any]]:
    """Ask for pages until all tasks are there: on a busy machine one may end sooner."""
    tasks: list[dict[str, Any]] = []
    at: int | None = offset
    while at is not None and len(tasks) < limit:
        query: dict[str, str | int] = {"split": split, "offset": at, "limit": limit - len(tasks)}
        answer = await client.get(f"/api/environments/{name}/tasks", params=query)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        tasks += page["tasks"]
        at = page["next_offset"]
    return tasks


def layout_of(name: str, seed: int, **kwargs: Any) -> str:
    kind = default_registry().kind(name)
    env = kind.build(kind.validate(kwargs))
    return layout_hash(env, env.reset(seed=seed)[0])


async def test_kinds_without_lists_have_a_train_and_a_test_split_without_end(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.get(f"/api/environments/{LAKE}/splits")
    assert answer.json() == {
        "env_name": LAKE,
        "splits": [
            {"name": "train", "type": "train", "num_tasks": 2**41, "infinite": True},
            {"name": "test", "type": "test", "num_tasks": 2**41, "infinite": True},
        ],
    }


@pytest.mark.parametrize("name", ["frozen_lake", "countdown", "verl_env/sokoban-v0"])
async def test_train_and_test_share_no_layout(client: httpx.AsyncClient, name: str) -> None:
    seeds = {
        split: [task["seed"] for task in await tasks_of(client, name, split, limit=24)] for split in ("train", "test")
    }  # fmt: skip
    layouts = {split: {layout_of(name, seed) for seed in found} for split, found in seeds.items()}
    assert not layouts["train"] & layouts["test"]
    assert {split: len(set(found)) for split, found in seeds.items()} == {"train": 24, "test": 24}


async def test_pages_follow_each_other(client: httpx.AsyncClient) -> None:
    whole = await tasks_of(client, "frozen_lake", "train", limit=5)
    later = await tasks_of(client, "frozen_lake", "train", offset=3, limit=2)
    assert [task["index"] for task in whole] == [0, 1, 2, 3, 4]
    assert later == whole[3:]
    assert whole[1] == {**whole[1], "split": "train", "id": "train/1", "env_kwargs": {}}


async def test_an_environment_begins_with_its_task(client: httpx.AsyncClient) -> None:
    [task] = await tasks_of(client, "frozen_lake", "test", offset=4, limit=1)
    body = {"env_name": "frozen_lake", "task": {"split": "test", "index": 4}}
    begun = (await client.post(INITIALIZE, json=body)).json()
    plain = (await client.post(INITIALIZE, json={"env_name": "frozen_lake", "seed": task["seed"]})).json()
    assert begun["info"]["seed"] == task["seed"]
    assert begun["observation"] == plain["observation"]


async def test_arguments_of_the_client_divide_seeds_by_the_layouts_that_they_give(
    client: httpx.AsyncClient,
) -> None:
    layouts: dict[str, set[str]] = {"train": set(), "test": set()}
    for split, found in layouts.items():
        for index in range(12):
            body = {"env_name": LAKE, "env_kwargs": {"size": 3}, "task": {"split": split, "index": index}}
            begun = (await client.post(INITIALIZE, json=body)).json()
            found.add(layout_of(LAKE, begun["info"]["seed"], size=3))
    assert not layouts["train"] & layouts["test"]


async def test_a_map_that_is_given_is_for_training_alone(client: httpx.AsyncClient, problem: Problem) -> None:
    body = {"env_name": LAKE, "env_kwargs": {"map_name": "4x4"}, "task": {"split": "test", "index": 0}}
    refused = problem(await client.post(INITIALIZE, json=body), 404, "task_not_found")
    assert refused["num_tasks"] == 0
    assert (
        await client.post(INITIALIZE, json={**body, "task": {"split": "train", "index": 8}})
    ).status_code == 200


async def test_a_kind_of_few_layouts_keeps_one_of_them_for_tests(make_client: MakeClient) -> None:
    client = await make_client()
    name = register(client, FewLayoutsEnv)
    seeds = {
        split: [task["seed"] for task in await tasks_of(client, name, split)] for split in ("train", "test")
    }
    layouts = {split: {seed % 4 for seed in found} for split, found in seeds.items()}
    assert not layouts["train"] & layouts["test"]
    assert len(layouts["test"]) == 1
    assert all(seed % 3 for found in seeds.values() for seed in found)


async def test_a_kind_lists_its_own_tasks(make_client: MakeClient, problem: Problem) -> None:
    client = await make_client()
    name = register(client, OwnSplitsEnv)
    splits = (await client.get(f"/api/environments/{name}/splits")).json()["splits"]
    assert [(split["name"], split["num_tasks"], split["infinite"]) for split in splits] == [
        ("easy", 1, False),
        ("test", 1, False),
    ]
    assert await tasks_of(client, name, "easy") == [
        {"split": "easy", "index": 0, "id": "easy/0", "seed": 4, "env_kwargs": {"max_steps": 3}}
    ]
    assert (await tasks_of(client, name, "test"))[0]["id"] == "last"
    body = {"env_name": name, "task": {"split": "easy", "index": 1}}
    assert problem(await client.post(INITIALIZE, json=body), 404, "task_not_found")["num_tasks"] == 1


async def test_a_file_takes_the_place_of_seeds(
    make_client: MakeClient, tmp_path: Path, problem: Problem
) -> None:
    path = tmp_path / "hard.jsonl"
    path.write_bytes(orjson.dumps({"seed": 11, "env_kwargs": {"size": 3}, "id": "row-1"}))
    client = await make_client(tasks=(f"frozen_lake={path}",))
    problem(await client.get(f"/api/environments/{LAKE}/tasks"), 404, "unknown_split")
    assert [task["id"] for task in await tasks_of(client, "frozen_lake", "hard")] == ["row-1"]
    body = {
        "env_name": LAKE,
        "task": {"split": "hard", "index": 0},
        "env_kwargs": {"size": 9, "max_steps": 5},
    }
    begun = (await client.post(INITIALIZE, json=body)).json()
    # The row's own arguments count; others may be added.
    plain = {"env_name": LAKE, "seed": 11, "env_kwargs": {"size": 3, "max_steps": 5}}
    assert begun["observation"] == (await client.post(INITIALIZE, json=plain)).json()["observation"]


async def test_a_task_under_an_idempotency_key_is_made_once(client: httpx.AsyncClient) -> None:
    body = {"env_name": LAKE, "task": {"split": "train", "index": 1}}
    headers = {"Idempotency-Key": "task-1"}
    answers = [(await client.post(INITIALIZE, json=body, headers=headers)).json() for _ in range(2)]
    assert answers[0] == answers[1]


async def test_what_is_not_deterministic_is_for_training_alone(client: httpx.AsyncClient) -> None:
    splits = (await client.get(f"/api/environments/{GATED}/splits")).json()["splits"]
    assert [(split["name"], bool(split["num_tasks"])) for split in splits] == [
        ("train", True),
        ("test", False),
    ]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("frozen_lake/tasks?split=dev", 404, "unknown_split"),
        ("frozen_lake/tasks?limit=0", 422, "invalid_request"),
        ("frozen_lake/tasks?limit=1001", 422, "invalid_request"),
        ("frozen_lake/tasks?offset=-1", 422, "invalid_request"),
        ("frozen_lake/tasks?offset=x", 422, "invalid_request"),
        ("sokobn/splits", 422, "unknown_env_name"),
        ("broken/gone-v0/splits", 500, "environment_failed"),
        ("frozen_lake/nothing", 422, "unknown_env_name"),
    ],
)
async def test_what_cannot_be_listed_is_said(
    client: httpx.AsyncClient, problem: Problem, path: str, status: int, code: str
) -> None:
    problem(await client.get(f"/api/environments/{path}"), status, code)


async def test_a_page_behind_the_last_task_is_empty(client: httpx.AsyncClient) -> None:
    answer = (await client.get("/api/environments/frozen_lake/tasks?offset=99999999999999")).json()
    assert (answer["tasks"], answer["next_offset"]) == ([], None)


async def test_a_task_of_other_arguments_has_a_seed_of_its_own(
    client: httpx.AsyncClient, make_client: MakeClient
) -> None:
    async def seeds(asked: httpx.AsyncClient, size: int) -> list[int]:
        body = {
            "env_name": LAKE,
            "env_kwargs": {"size": size},
            "tasks": named(*(("test", i) for i in range(6))),
        }
        return [info["seed"] for info in (await asked.post(BATCH, json=body)).json()["infos"]]

    small = await seeds(client, 3)
    assert await seeds(client, 6) == await seeds(await make_client(), 6) != small


@pytest.mark.parametrize(
    "task", [{"split": "train"}, {"split": "train", "index": -1}, {"index": 1}, "train/1"]
)
async def test_a_task_that_is_none_is_refused(client: httpx.AsyncClient, problem: Problem, task: Any) -> None:
    problem(await client.post(INITIALIZE, json={"env_name": LAKE, "task": task}), 422, "invalid_request")


async def test_a_seed_beside_a_task_is_refused(client: httpx.AsyncClient, problem: Problem) -> None:
    body = {"env_name": LAKE, "seed": 1, "task": {"split": "train", "index": 1}}
    problem(await client.post(INITIALIZE, json=body), 422, "invalid_request")


def named(*tasks: tuple[str, int]) -> list[dict[str, Any]]:
    return [{"split": split, "index": index} for split, index in tasks]


async def test_a_batch_begins_with_tasks_as_single_environments_do(client: httpx.AsyncClient) -> None:
    tasks = named(("test", 4), ("train", 2), ("test", 0))
    answer = (await client.post(BATCH, json={"env_name": LAKE, "tasks": tasks})).json()
    assert answer["errors"] == []
    for task, observation, info in zip(tasks, answer["observations"], answer["infos"], strict=True):
        alone = (await client.post(INITIALIZE, json={"env_name": LAKE, "task": task})).json()
        assert (observation, info) == (alone["observation"], alone["info"])


async def test_tasks_of_a_batch_stand_beside_seeds_and_fail_alone(client: httpx.AsyncClient) -> None:
    body = {
        "env_names": [LAKE, "countdown", LAKE, "no_such"],
        "seeds": [None, 5, None, None],
        "tasks": [*named(("train", 1)), None, *named(("dev", 0), ("train", 0))],
        "env_kwargs": [{"size": 3}, {}, {}, {}],
    }
    answer = (await client.post(BATCH, json=body)).json()
    assert [(error["index"], error["code"]) for error in answer["errors"]] == [
        (2, "unknown_split"),
        (3, "unknown_env_name"),
    ]
    assert [bool(env_id) for env_id in answer["env_ids"]] == [True, True, False, False]
    assert answer["infos"][1]["seed"] == 5
    alone = {"env_name": LAKE, "task": {"split": "train", "index": 1}, "env_kwargs": {"size": 3}}
    assert answer["observations"][0] == (await client.post(INITIALIZE, json=alone)).json()["observation"]


async def test_a_batch_of_listed_tasks_has_their_arguments(make_client: MakeClient, tmp_path: Path) -> None:
    path = tmp_path / "hard.jsonl"
    path.write_bytes(b"\n".join(orjson.dumps({"env_kwargs": {"size": size}}) for size in (3, 5)))
    client = await make_client(tasks=(f"frozen_lake={path}",))
    body = {
        "env_name": LAKE,
        "tasks": named(("hard", 1), ("hard", 0)),
        "env_kwargs": {"include_task_prompt": False},
    }
    headers: dict[str, str]
    for headers in ({}, {"Idempotency-Key": "tasks"}, {"Idempotency-Key": "tasks"}):
        answer = (await client.post(BATCH, json=body, headers=headers)).json()
        boards = [observation[-1]["content"].splitlines() for observation in answer["observations"]]
        assert [len(board) for board in boards] == [5, 3]
        assert [info["seed"] for info in answer["infos"]] == [1, 0]


async def test_looking_for_the_tasks_of_a_batch_costs_no_more_than_its_environments_may(
    make_client: MakeClient,
) -> None:
    client = await make_client(host={"max_batch_compute_s": 0.001})
    body = {
        "env_name": "sokoban",
        "env_kwargs": {"dim_room": [40, 40], "num_boxes": 8},
        "tasks": named(("train", 0), ("train", 1)),
    }
    answer = (await client.post(BATCH, json=body)).json()
    assert [error["code"] for error in answer["errors"]] == ["batch_too_costly"] * 2


@pytest.mark.parametrize(
    "body",
    [
        {"env_name": LAKE, "tasks": named(("train", 1)), "seeds": [1]},
        {"env_name": LAKE, "tasks": named(("train", 1)), "num_envs": 2},
        {"env_name": LAKE, "tasks": [{"split": "train"}]},
        {"env_name": LAKE, "tasks": {"split": "train", "index": 1}},
    ],
)
async def test_a_batch_whose_tasks_are_none_is_refused(
    client: httpx.AsyncClient, problem: Problem, body: dict[str, Any]
) -> None:
    problem(await client.post(BATCH, json=body), 422, "invalid_request")
