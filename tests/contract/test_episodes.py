"""Every store of kept episodes keeps the contract of ``EpisodeStore``."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest

from tests.cluster.redis_process import RedisProcess
from tests.contract.conftest import PATIENT
from verl_agent_env.cluster.folder.episodes import EPISODES_SUFFIX, ROWS_SUFFIX, FolderEpisodes
from verl_agent_env.cluster.memory.episodes import MemoryEpisodes
from verl_agent_env.cluster.redis.client import RedisClient
from verl_agent_env.cluster.redis.episodes import RedisEpisodes
from verl_agent_env.cluster.redis.keys import Keys
from verl_agent_env.wire.episode_store import EpisodeStore
from verl_agent_env.wire.episodes import EpisodeEnd, EpisodeOrigin, KeptEpisode
from verl_agent_env.wire.results import EncodedReset, EncodedStep

PLENTY = 1 << 26


def kept_episode(number: int, size: int = 100) -> KeptEpisode:
    """An episode of two steps and about this many bytes."""
    episode = KeptEpisode(EpisodeOrigin("worker", 0.0), 1.0, EncodedReset(b"[]", b"{}"), steps=[])
    for action, at, info in ((b'"g\xc3\xb6"', 1.5, b"{}"), (b'"stay"', None, b'{"success":true}')):
        observation = b'[{"role":"user","content":"%b"}]' % (b"x" * size)
        episode.add(action, EncodedStep(observation, 0.75, at is None, False, info), at)
    episode.end = EpisodeEnd(f"e{number}", 0, "lake", {"size": 4}, "run", number, None, None, 2, 2.0 + number)
    return episode


def files(folder: Path, prefix: str = "") -> list[Path]:
    return sorted(folder.glob(f"{prefix}*.jsonl"))


@dataclass(frozen=True)
class EpisodesCase:
    """One place for episodes, with a way to reach it as another process would."""

    connect: Callable[..., EpisodeStore]
    is_shared: bool
    has_bound: bool


@pytest.fixture(params=["memory", "folder", "redis"])
async def case(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EpisodesCase]:
    async with AsyncExitStack() as stack:
        keys = Keys(uuid.uuid4().hex)

        def connect(max_bytes: int = PLENTY) -> EpisodeStore:
            store: EpisodeStore
            if request.param == "memory":
                store = MemoryEpisodes(max_bytes)
            elif request.param == "folder":
                store = FolderEpisodes(tmp_path / "episodes", max_bytes)
            else:
                server: RedisProcess = request.getfixturevalue("redis_server")
                store = RedisEpisodes(RedisClient(server.url, PATIENT, keys), keys, max_bytes)
            stack.push_async_callback(store.aclose)
            return store

        yield EpisodesCase(connect, request.param != "memory", request.param != "folder")


async def test_what_was_added_is_found_and_read_as_it_was(case: EpisodesCase) -> None:
    store = case.connect()
    episodes = [kept_episode(number) for number in range(3)]
    for episode in episodes:
        store.add(episode)
    assert sorted(await store.rows()) == [episode.row for episode in episodes]
    found = await store.documents(["e2.0", "e0.0", "none.0"])
    assert found == [episodes[2].to_json(), episodes[0].to_json(), None]
    document = orjson.loads(found[0] or b"")
    assert [step["action"] for step in document["steps"]] == ["gö", "stay"]
    assert [step["at"] for step in document["steps"]] == [1.5, None]


async def test_somebody_who_lists_gets_what_is_brought(case: EpisodesCase) -> None:
    store, numbers = case.connect(), iter(range(2))

    async def bring() -> None:
        store.add(kept_episode(next(numbers)))

    store.bring = bring
    assert [row.id for row in await store.rows()] == ["e0.0"]
    assert [run.episodes for run in await store.runs(None)] == [2]


async def test_an_empty_store_has_nothing(case: EpisodesCase) -> None:
    store = case.connect()
    assert list(await store.rows()) == []
    assert await store.documents(["e0.0"]) == [None]
    assert await store.documents([]) == []


async def test_others_see_what_was_added_here_and_what_is_added_later(case: EpisodesCase) -> None:
    if not case.is_shared:
        pytest.skip("it is gone with its process")
    first, second = case.connect(), case.connect()
    first.add(kept_episode(0))
    await first.flush()
    assert [row.id for row in await second.rows()] == ["e0.0"]
    first.add(kept_episode(1))
    second.add(kept_episode(2))
    await first.flush()
    assert sorted(row.id for row in await second.rows()) == ["e0.0", "e1.0", "e2.0"]
    assert sorted(row.id for row in await first.rows()) == ["e0.0", "e1.0", "e2.0"]
    assert (await second.documents(["e1.0"]))[0] == kept_episode(1).to_json()
    # Whoever comes later finds all of it.
    assert len(await case.connect().rows()) == 3


async def test_the_oldest_are_deleted_for_new_ones(case: EpisodesCase) -> None:
    if not case.has_bound:
        pytest.skip("files are nobody's to delete")
    store = case.connect(100_000)
    other = case.connect(100_000) if case.is_shared else store
    for number in range(6):
        store.add(kept_episode(number, 10_000))
        await store.flush()
        await other.rows()
    for looking in (store, other):
        ids = sorted(row.id for row in await looking.rows())
        assert ids[-1] == "e5.0"
        assert 1 <= len(ids) < 6
        assert (await looking.documents(["e0.0", "e5.0"]))[0] is None
        assert (await looking.documents(["e0.0", "e5.0"]))[1] is not None


async def test_one_that_is_larger_than_everything_may_be_is_dropped(case: EpisodesCase) -> None:
    store = case.connect(5_000)
    store.add(kept_episode(0, 100_000))
    store.add(kept_episode(1, 10))
    assert [row.id for row in await store.rows()] == ["e1.0"]
    assert store.dropped == 1


async def test_the_same_episode_twice_is_one(case: EpisodesCase) -> None:
    store = case.connect()
    for _ in range(2):
        store.add(kept_episode(0))
        await store.flush()
    assert [row.id for row in await store.rows()] == ["e0.0"]


# --- what only one of them can meet ---------------------------------------------------------------------------


async def test_files_that_somebody_takes_away_take_their_episodes_with_them(tmp_path: Path) -> None:
    store, other = FolderEpisodes(tmp_path, PLENTY), FolderEpisodes(tmp_path, PLENTY)
    store.add(kept_episode(0))
    other.add(kept_episode(1))
    await other.flush()
    assert len(await store.rows()) == 2
    for path in files(tmp_path, store._name):
        path.unlink()
    assert [row.id for row in await other.rows()] == ["e1.0"]
    await store.aclose()
    await other.aclose()


async def test_a_line_that_is_not_whole_yet_is_read_later(tmp_path: Path) -> None:
    writer, reader = FolderEpisodes(tmp_path, PLENTY), FolderEpisodes(tmp_path, PLENTY)
    writer.add(kept_episode(0))
    await writer.aclose()
    contents, rows = files(tmp_path)
    assert contents.name.endswith(EPISODES_SUFFIX)
    assert rows.name.endswith(ROWS_SUFFIX)
    line = rows.read_bytes()
    rows.write_bytes(line[:-5])
    assert list(await reader.rows()) == []
    rows.write_bytes(line)
    assert [row.id for row in await reader.rows()] == ["e0.0"]
    contents.unlink()
    assert await reader.documents(["e0.0"]) == [None]


def test_a_directory_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be made"):
        FolderEpisodes(tmp_path / "file" / "episodes", PLENTY)


async def test_a_redis_that_was_emptied_is_read_anew(redis_server: RedisProcess) -> None:
    keys = Keys(uuid.uuid4().hex)
    stores = [RedisEpisodes(RedisClient(redis_server.url, PATIENT, keys), keys, PLENTY) for _ in range(2)]
    stores[0].add(kept_episode(0))
    assert [row.id for row in await stores[0].rows()] == ["e0.0"]
    redis_server.flush()
    stores[1].add(kept_episode(1))
    await stores[1].flush()
    assert [row.id for row in await stores[0].rows()] == ["e1.0"]
    for store in stores:
        await store.aclose()


async def test_sums_by_run_are_those_of_the_rows_that_are_kept(case: EpisodesCase) -> None:
    store = case.connect()
    for number in range(3):
        store.add(kept_episode(number))
    (run,) = await store.runs(None)
    assert (run.run_id, run.episodes, run.reward, run.num_steps) == ("run", 3, 4.5, 6)
    store.add(kept_episode(3))
    assert [run.episodes for run in await store.runs("")] == [4]
    assert await store.runs("somebody") == []
    if case.has_bound:
        size = kept_episode(0).size
        small = case.connect(3 * size)
        for number in range(10, 20):
            small.add(kept_episode(number))
        assert [run.episodes for run in await small.runs(None)] == [len(await small.rows())]
