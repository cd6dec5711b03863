"""Kept episodes are found by what is asked for, a page at a time, and summed up by run."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import orjson
import pytest

from tests.contract.test_episodes import kept_episode
from verl_agent_env.cluster.memory.episodes import MemoryEpisodes
from verl_agent_env.engine.episodes import search
from verl_agent_env.engine.episodes.search import EpisodePage, EpisodeQuery
from verl_agent_env.types import tag_of_holder, tagged_env_id
from verl_agent_env.wire.episode_rows import RunSummary
from verl_agent_env.wire.episodes import Ending

ENDINGS: tuple[Ending, ...] = ("success", "failure", "time_limit")


def filled(numbers: range = range(12)) -> MemoryEpisodes:
    """Episodes of two runs, with each ending in turn; the later ones earn more."""
    store = MemoryEpisodes(1 << 26)
    for number in numbers:
        episode = kept_episode(number)
        ending = ENDINGS[number % 3]
        row = episode.row._replace(
            run_id=f"run {number % 2}",
            reward=float(number),
            ending=ending,
            success=ending == "success",
            num_invalid=int(number >= 10),
            group=f"group {number // 4}",
            training_step=None if number < 4 else number // 4,
            ended_at=100.0 + 30 * number,
        )
        store._place(row, episode.to_bytes())
    return store


def seeds(page: EpisodePage) -> list[int]:
    return [row.seed for row in page.rows]


async def found(**query: Any) -> list[int]:
    asked = EpisodeQuery(**query)
    return seeds(search.merge_pages([await search.find(filled(), asked)], asked))


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({}, list(range(11, -1, -1))),
        ({"run": "run 0"}, [10, 8, 6, 4, 2, 0]),
        ({"run": "run"}, []),
        ({"success": True}, [9, 6, 3, 0]),
        ({"success": False, "min_reward": 9.0}, [11, 10]),
        ({"ending": "time_limit", "max_reward": 5.0}, [5, 2]),
        ({"invalid": True}, [11, 10]),
        ({"group": "group 1", "invalid": False}, [7, 6, 5, 4]),
        ({"seed": 4}, [4]),
        ({"training_step": 2, "run": "run 0"}, [10, 8]),
        ({"training_step": 0}, []),
        ({"env": "lake", "limit": 2, "offset": 3}, [8, 7]),
        ({"offset": 100}, []),
        ({"sort": "reward", "descending": False, "limit": 3}, [0, 1, 2]),
        ({"sort": "num_invalid", "limit": 4}, [11, 10, 9, 8]),
    ],
)
async def test_those_that_fit_are_found_in_order(query: dict[str, Any], wanted: list[int]) -> None:
    assert await found(**query) == wanted


async def test_of_episodes_that_ended_in_one_millisecond_the_one_that_was_kept_last_is_first() -> None:
    store = MemoryEpisodes(1 << 26)
    for number in range(4):
        episode = kept_episode(number)
        store._place(episode.row._replace(ended_at=100.0, run_id=f"run {number}"), episode.to_bytes())
    asked = EpisodeQuery()
    page = search.merge_pages([await search.find(store, asked)], asked)
    assert [row.run_id for row in page.rows] == ["run 3", "run 2", "run 1", "run 0"]
    runs = search.merge_runs([await search.sum_up(store, asked, points=False)])
    assert [run.run_id for run in runs] == ["run 3", "run 2", "run 1", "run 0"]


async def test_a_page_says_how_many_there_are_of_each_ending_whatever_it_shows() -> None:
    page = await search.find(filled(), EpisodeQuery(run="run 0", ending="success", invalid=False))
    assert page.endings == {"success": 2, "failure": 2, "time_limit": 2}
    assert (page.total, page.invalid) == (2, 1)


async def test_a_text_is_found_in_what_was_seen_and_done_capitals_or_not() -> None:
    store = filled(range(3))
    odd = kept_episode(7)
    odd.steps[0].action = b'"Over the \\"Hill\\""'
    store.add(odd)
    for text in ("over the", 'THE "HILL"'):
        page = await search.find(store, EpisodeQuery(text=text))
        assert (seeds(page), page.is_whole, page.total) == ([7], True, 1)
    assert seeds(await search.find(store, EpisodeQuery(text="nowhere"))) == []


async def test_looking_for_a_text_ends_in_time_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SEARCH_S", -1.0)
    page = await search.find(filled(), EpisodeQuery(text="stay"))
    assert (page.rows, page.is_whole) == ([], False)


async def test_pages_of_several_workers_are_merged_as_if_they_were_one() -> None:
    query = EpisodeQuery(sort="reward", descending=False, offset=2, limit=5)
    parts = [await search.find(filled(part), query) for part in (range(0, 12, 2), range(1, 12, 2))]
    sent = [EpisodePage.from_json(part.to_json()) for part in parts]
    merged = search.merge_pages(sent, query)
    assert seeds(merged) == [2, 3, 4, 5, 6]
    assert merged.total == 12
    assert merged.endings == {"success": 4, "failure": 4, "time_limit": 4}


async def test_runs_are_summed_up_and_the_sums_of_workers_add_up() -> None:
    whole = await search.sum_up(filled(), EpisodeQuery(), points=True)
    parts = [
        await search.sum_up(filled(part), EpisodeQuery(), points=True) for part in (range(5), range(5, 12))
    ]
    sent = [[search.run_from_fields(run) for run in orjson.loads(_sent(part))] for part in parts]
    assert search.merge_runs(sent) == search.merge_runs([whole])
    first = search.merge_runs([whole])[0]
    assert (first.run_id, first.episodes, first.judged, first.successes) == ("run 1", 6, 6, 2)
    assert first.reward == 1 + 3 + 5 + 7 + 9 + 11
    assert first.endings == {"failure": 2, "success": 2, "time_limit": 2}
    assert sum(sums[0] for sums in first.points.values()) == 6
    assert len(first.points) > 1


@pytest.mark.parametrize("run", [None, "run 1"])
async def test_sums_with_a_filter_are_those_that_are_kept_running(run: str | None) -> None:
    """Each episode earns at least 0, so that the filter leaves none out."""
    query = EpisodeQuery(run=run)
    running = await search.sum_up(filled(), query, points=True)
    counted = await search.sum_up(filled(), dataclasses.replace(query, min_reward=0.0), points=True)
    assert search.merge_runs([counted]) == search.merge_runs([running])
    some = await search.sum_up(filled(), dataclasses.replace(query, min_reward=9.0), points=False)
    assert sum(found.episodes for found in some) == (3 if run is None else 2)
    assert all(found.points == found.training_steps == {} for found in some)
    (last,) = (found for found in counted if found.run_id == "run 1")
    assert {step: sums[0] for step, sums in last.training_steps.items()} == {1: 2, 2: 2}


def _sent(runs: list[RunSummary]) -> bytes:
    return orjson.dumps(list(map(dataclasses.asdict, runs)), None, orjson.OPT_NON_STR_KEYS)


async def test_a_holder_sees_its_own_alone() -> None:
    store = MemoryEpisodes(1 << 26)
    tags = {name: tag_of_holder(name) for name in ("alice", "bob")}
    for number, tag in enumerate([tags["alice"], tags["bob"], ""]):
        env_id = tagged_env_id(1, tag, number) if tag else f"001-{number:032x}"
        episode = kept_episode(number)
        episode.end = msgspec.structs.replace(episode.end, env_id=env_id)
        store.add(episode)
    assert seeds(await search.find(store, EpisodeQuery(tag=tags["bob"]))) == [1]
    assert seeds(await search.find(store, EpisodeQuery(tag=""))) == [2]
    assert len(seeds(await search.find(store, EpisodeQuery()))) == 3
    (run,) = await search.sum_up(store, EpisodeQuery(tag=tags["alice"]), points=False)
    assert run.episodes == 1
