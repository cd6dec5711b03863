"""Episodes in memory are within their bound, whatever they hold."""

from __future__ import annotations

import msgspec

from tests.contract.test_episodes import kept_episode
from verl_agent_env.cluster.memory.episodes import _OVERHEAD_BYTES, MemoryEpisodes

SIZE = len(kept_episode(0).to_bytes()) + _OVERHEAD_BYTES


async def test_the_oldest_are_deleted_and_what_is_kept_is_counted() -> None:
    store = MemoryEpisodes(4 * SIZE + 100)
    for number in range(13):
        store.add(kept_episode(number))
        assert store._size == sum(map(len, store._episodes.values())) + _OVERHEAD_BYTES * len(store._episodes)
    assert [row.seed for row in await store.rows()] == [9, 10, 11, 12]
    assert sum(run.episodes for run in await store.runs(None)) == 4
    assert await store.documents(["e8.0"]) == [None]


async def test_what_is_read_is_what_was_added_byte_for_byte() -> None:
    store, episode = MemoryEpisodes(1 << 26), kept_episode(7)
    store.add(episode)
    assert await store.documents(["e7.0"]) == [episode.to_json()]
    assert await store.rows() == [episode.row]


async def test_arguments_that_no_json_can_hold_drop_their_own_episode() -> None:
    store = MemoryEpisodes(1 << 26)
    for number, size in enumerate((1 << 70, object(), 4)):
        episode = kept_episode(number)
        episode.end = msgspec.structs.replace(episode.end, env_kwargs={"size": size})
        store.add(episode)
    assert (store.dropped, [row.seed for row in await store.rows()]) == (2, [2])
