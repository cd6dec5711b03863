"""Episodes that wait are written once, in their order, after failures too; those beyond the bound are dropped."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest

from tests.contract.test_episodes import kept_episode
from tests.waiting import until
from verl_agent_env.errors import StoreUnavailableError
from verl_agent_env.wire import episode_queue
from verl_agent_env.wire.episode_queue import EpisodeQueue
from verl_agent_env.wire.episodes import KeptEpisode

SIZE = kept_episode(0).size


class Written(EpisodeQueue):
    """Writes when it may, to a list."""

    def __init__(self, max_waiting_bytes: int = 1 << 20) -> None:
        super().__init__(max_waiting_bytes)
        self.may_write = asyncio.Event()
        self.failures: list[Exception] = []
        self.seeds: list[int] = []
        self.calls = 0

    async def write(self, episodes: Sequence[KeptEpisode]) -> None:
        self.calls += 1
        await self.may_write.wait()
        if self.failures:
            raise self.failures.pop()
        self.seeds += [episode.end.seed for episode in episodes]

    @contextlib.asynccontextmanager
    async def _up_to_date(self) -> AsyncIterator[None]:
        yield


async def test_what_is_dropped_while_it_is_written_takes_no_other_with_it() -> None:
    queue = Written(2 * SIZE + 10)
    for number in range(2):
        queue.add(kept_episode(number))
    writing = asyncio.create_task(queue.flush())
    await until(lambda: queue.calls == 1)
    queue.add(kept_episode(2))
    assert queue.dropped == 1
    queue.may_write.set()
    await writing
    assert queue.seeds == [0, 1, 2]
    assert (queue._size, len(queue._waiting)) == (0, 0)


async def test_two_who_write_at_once_write_each_episode_once() -> None:
    queue = Written()
    queue.add(kept_episode(0))
    writing = [asyncio.create_task(queue.flush()) for _ in range(2)]
    await until(lambda: queue.calls > 0)
    await asyncio.sleep(0)
    queue.may_write.set()
    await asyncio.gather(*writing)
    assert queue.seeds == [0]


@pytest.mark.parametrize("failure", [StoreUnavailableError(), OSError("full")])
async def test_what_cannot_be_written_is_written_later_and_then_nobody_looks_again(
    monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    for name in ("_PAUSE_S", "_RETRY_S"):
        monkeypatch.setattr(episode_queue, name, 0.0)
    queue = Written()
    queue.may_write.set()
    queue.failures = [failure]
    running = asyncio.create_task(queue.run())
    queue.add(kept_episode(0))
    await until(lambda: queue.seeds == [0])
    queue.add(kept_episode(1))
    await until(lambda: queue.seeds == [0, 1])
    assert not queue._has_some.is_set()
    assert not running.done()
    running.cancel()
