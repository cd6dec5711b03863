"""The list of environments: in full without a query, in pages with one."""

from __future__ import annotations

import dataclasses
from typing import Any

import httpx
import orjson
import pytest

from tests.server.conftest import Problem
from verl_agent_env.envs.catalogue.families import FAMILIES
from verl_agent_env.envs.registry import BUILT_IN, Registry
from verl_agent_env.server.api.catalogue import CatalogueHandlers

URL = "/api/environments"


async def page(client: httpx.AsyncClient, **query: Any) -> dict[str, Any]:
    answer = await client.get(URL, params=query)
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def test_pages_hold_every_environment_once(client: httpx.AsyncClient) -> None:
    names: list[str] = []
    offset: int | None = 0
    while offset is not None:
        shown = await page(client, offset=offset, limit=150)
        names += [row["name"] for row in shown["environments"]]
        assert len(shown["environments"]) <= 150
        offset = shown["next_offset"]
    assert len(names) == len(set(names)) == shown["total"]
    assert names == sorted(names)
    assert {spec.name for family in FAMILIES for spec in family.specs.values()} < set(names)


async def test_words_tags_and_costs_narrow_it(client: httpx.AsyncClient) -> None:
    chess = await page(client, search="Chess open_spiel", tag=["2-player", "search-opponent"], limit=1)
    (row,) = chess["environments"]
    assert row["name"] == "open_spiel/antichess"
    assert row["extra"] == "open-spiel"
    assert set(row["costs"]) == {"reset_ms", "step_ms", "load_ms"}
    cheap = await page(client, search="reasoning_gym/knight_swap", max_ms=5)
    assert cheap == {"environments": [], "total": 0, "next_offset": None}


async def test_whether_a_package_is_installed_is_told(client: httpx.AsyncClient) -> None:
    for family in FAMILIES:
        name = next(iter(family.specs.values())).name
        (row,) = (await page(client, search=name, limit=1))["environments"]
        assert row["installed"] is family.is_installed
    (lake,) = (await page(client, search="verl_env/frozen_lake-v1"))["environments"]
    assert lake["installed"] is True
    assert lake["description"].startswith("Walk over")


async def test_the_full_list_has_tags_and_leaves_the_catalogue_to_pages(client: httpx.AsyncClient) -> None:
    shown = await page(client)
    assert "total" not in shown
    by_name = {kind["name"]: kind for kind in shown["environments"]}
    assert "solver" in by_name["verl_env/sokoban-v0"]["tags"]
    assert by_name["verl_env/sokoban-v0"]["extra"] is None
    assert not [name for name in by_name if name.startswith("open_spiel/")]


@pytest.mark.parametrize("name", ["verl_env/sokoban_ragen-v1", "sokoban_ragen"])
async def test_one_environment_is_described_as_in_the_full_list(client: httpx.AsyncClient, name: str) -> None:
    answer = await client.get(f"{URL}/{name}")
    assert answer.status_code == 200, answer.text
    described = answer.json()
    assert described in (await page(client))["environments"]
    assert (described["family"], described["preset_of"]) == ("verl_env/sokoban-v0",) * 2
    assert described["presets"]["num_boxes"] == 1
    assert described["task_prompt"] == described["presets"]["task_prompt"]
    (row,) = (await page(client, search=described["name"]))["environments"]
    assert {**described, **row} == described


async def test_the_task_prompt_stands_apart_from_the_first_observation(client: httpx.AsyncClient) -> None:
    described = (await client.get(f"{URL}/frozen_lake")).json()
    made = {"env_name": "frozen_lake", "seed": 1}
    path = "/api/environment/initialize"
    whole = (await client.post(path, json=made)).json()["observation"][0]["content"]
    apart = {**made, "env_kwargs": {"include_task_prompt": False}}
    alone = (await client.post(path, json=apart)).json()["observation"][0]["content"]
    assert whole == f"{described['task_prompt']}\n\n{alone}"


async def test_each_argument_stands_in_one_group(client: httpx.AsyncClient) -> None:
    for kind in (await page(client))["environments"]:
        grouped = [name for group in kind["argument_groups"] for name in group["arguments"]]
        assert sorted(grouped) == sorted(kind["kwargs_schema"].get("properties", {})), kind["name"]
    (lake,) = (
        each for each in (await page(client))["environments"] if each["name"] == "verl_env/frozen_lake-v1"
    )
    assert [group["title"] for group in lake["argument_groups"]] == [
        "Keyword arguments of FrozenLake",
        "Keyword arguments of all grid worlds: the form of their observations",
        "Keyword arguments of all environments",
    ]
    assert (lake["preset_of"], lake["presets"]) == (None, {})


async def test_an_environment_of_a_package_is_described_where_the_package_is_installed(
    client: httpx.AsyncClient, problem: Problem
) -> None:
    for family in FAMILIES:
        name = next(iter(family.specs.values())).name
        answer = await client.get(f"{URL}/{name}")
        if family.is_installed:
            described = answer.json()
            assert (described["name"], described["extra"]) == (name, family.extra)
            assert described["kwargs_schema"]["properties"]
        else:
            assert problem(answer, 422, "extra_not_installed")["extra"] == family.extra


async def test_the_full_list_has_what_is_added_later_and_nothing_of_a_package() -> None:
    lake = next(spec for spec in BUILT_IN if spec.name == "verl_env/frozen_lake-v1")
    registry = Registry({lake.name: lake})
    handlers = CatalogueHandlers(registry)

    async def listed() -> list[str]:
        return [kind["name"] for kind in orjson.loads(await handlers._all_described())["environments"]]

    assert await listed() == [lake.name]
    registry.register(dataclasses.replace(lake, name="tests/added_later-v0"))
    registry.register(dataclasses.replace(lake, name="tests/of_a_package-v0", family=FAMILIES[0]))
    assert await listed() == ["tests/added_later-v0", lake.name]


@pytest.mark.parametrize("name", ["sokobn", "a/b/c", "%20", "x" * 2000])
async def test_an_unknown_environment_is_told_so(
    client: httpx.AsyncClient, problem: Problem, name: str
) -> None:
    problem(await client.get(f"{URL}/{name}"), 422, "unknown_env_name")


async def test_an_environment_whose_code_is_broken_fails_alone(
    client: httpx.AsyncClient, problem: Problem
) -> None:
    assert (
        problem(await client.get(f"{URL}/broken/gone-v0"), 500, "environment_failed")["error"]
        == "ModuleNotFoundError"
    )
    assert "broken/gone-v0" not in [kind["name"] for kind in (await page(client))["environments"]]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "offset=-1", "offset=x", "max_ms=0", "max_ms=nan", "max_ms=x"]
)
async def test_a_query_out_of_range_is_refused(
    client: httpx.AsyncClient, problem: Problem, query: str
) -> None:
    found = problem(await client.get(f"{URL}?{query}"), 422, "invalid_request")
    assert found["errors"][0]["loc"] == ["query", query.partition("=")[0]]
