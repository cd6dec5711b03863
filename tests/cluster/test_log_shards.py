"""Several logs, read as one."""

from __future__ import annotations

import uuid

import pytest

from verl_agent_env.cluster.log_shards import JoinedLog
from verl_agent_env.cluster.memory import log as memory_log
from verl_agent_env.cluster.memory.fence import MemoryFence
from verl_agent_env.cluster.memory.log import MemoryEventLog
from verl_agent_env.errors import StoreUnavailableError
from verl_agent_env.types import new_env_id, slot_of
from verl_agent_env.wire.records import Saved, Write
from verl_agent_env.wire.task_results import TASKS_PER_PAGE, TaskResult, TaskStatistics

RUN = "run"


class Joined:
    """Three logs in memory."""

    def __init__(self) -> None:
        self.fences = [MemoryFence(lambda: uuid.uuid4().hex) for _ in range(3)]
        self.logs = [MemoryEventLog(fence) for fence in self.fences]
        self.log = JoinedLog(self.logs)

    async def create(self, env_id: str) -> None:
        """Keep an environment whose header is its id."""
        slot = slot_of(env_id)
        fence, log = self.fences[slot % 3], self.logs[slot % 3]
        generation = await fence.generation()
        await fence.install(generation, 1, {slot: "t"})
        write = Write("create", env_id, slot, 0, 0, env_id.encode())
        assert await log.commit(generation, {slot: "t"}, [write]) == []

    def count(self, log: int, task: str, *, success: bool = True) -> None:
        """Count a try of a task in one of the logs."""
        self.logs[log]._results.add(TaskResult(RUN, task, success, 0.5))

    async def results(self) -> dict[str, TaskStatistics]:
        """Statistics as clients put them together: of a task on two pages the later one counts."""
        found: dict[str, TaskStatistics] = {}
        cursor: str | None = "0"
        while cursor is not None:
            assert cursor.isdigit()
            page = await self.log.results(RUN, cursor)
            found |= {each.task: each for each in page.statistics}
            cursor = page.next_cursor
        return found


async def test_each_environment_is_read_where_it_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    joined = Joined()
    env_ids = [new_env_id(slot) for slot in (3, 6, 4, 5, 9)]
    for env_id in env_ids:
        await joined.create(env_id)
    assert sorted(await joined.log.env_ids(range(10))) == sorted(env_ids)
    assert await joined.log.env_ids([4, 5]) == env_ids[2:4]
    assert await joined.log.env_ids([]) == []
    # The first ones that are in one log.
    loaded = await joined.log.load(env_ids)
    assert loaded == [Saved(env_id.encode(), [], None, None) for env_id in env_ids[:2]]
    assert [saved.header for saved in await joined.log.load(env_ids[3:])] == [env_ids[3].encode()]
    assert await joined.log.load([]) == []
    monkeypatch.setattr(memory_log, "MAX_LOADED", 1)
    assert len(await joined.log.load(env_ids)) == 1


async def test_results_of_a_task_are_those_of_all_logs_on_whatever_page_it_is() -> None:
    joined = Joined()
    for log in (0, 1, 1):
        joined.count(log, "both")
    joined.count(2, "last", success=False)
    assert await joined.results() == {
        "both": TaskStatistics("both", 3, 3, 1.5),
        "last": TaskStatistics("last", 1, 0, 0.5),
    }


async def test_many_tasks_of_several_logs_come_in_pages() -> None:
    joined = Joined()
    tasks = [f"task-{number}" for number in range(2 * TASKS_PER_PAGE + 1)]
    for task in tasks:
        joined.count(1, task)
    for task in tasks[:3]:
        joined.count(2, task)
    found = await joined.results()
    assert found.keys() == set(tasks)
    assert [found[task].tries for task in tasks[:4]] == [2, 2, 2, 1]


async def test_one_log_that_is_away_fails_what_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    joined = Joined()
    env_ids = [new_env_id(slot) for slot in (3, 4)]
    for env_id in env_ids:
        await joined.create(env_id)

    async def away(*_: object, **__: object) -> list[Saved]:
        raise StoreUnavailableError("memory")

    monkeypatch.setattr(joined.logs[0], "load", away)
    with pytest.raises(StoreUnavailableError):
        await joined.log.load(env_ids[:1])
    assert len(await joined.log.load(env_ids[1:])) == 1
