"""What only the memory store has: a clock and ids that are given to it."""

from __future__ import annotations

import itertools

import pytest

from tests.cluster.workers import worker
from verl_agent_env.cluster.memory.store import MemoryStore
from verl_agent_env.cluster.store import ENDED_MEMORY_S, WorkerRecord
from verl_agent_env.errors import WorkerNotAliveError


async def test_leases_end_by_the_given_clock() -> None:
    now = 0.0
    store = MemoryStore(clock=lambda: now)
    record = worker()
    await store.heartbeat(record, 5)
    version = await store.map_version()
    now = 4.999
    assert set((await store.read_map()).workers) == {record.incarnation}
    now = 5.0
    assert not (await store.read_map()).workers
    assert await store.map_version() > version


async def test_end_of_an_incarnation_is_forgotten_in_the_end() -> None:
    now = 0.0
    store = MemoryStore(clock=lambda: now)
    record = worker()
    await store.leave(record.incarnation)
    now = ENDED_MEMORY_S - 1
    with pytest.raises(WorkerNotAliveError):
        await store.heartbeat(record, 5)
    now = ENDED_MEMORY_S
    await store.heartbeat(record, 5)


async def test_ids_come_from_the_given_source() -> None:
    numbers = itertools.count()
    store = MemoryStore(new_id=lambda: f"id{next(numbers)}")
    record = worker("me")
    assert (await store.heartbeat(record, 5)).generation == "id0"
    assert await store.claim("me", [3]) == {3: "id1:me"}


def test_record_survives_its_json_and_fields_of_later_versions() -> None:
    record = worker(live_envs=3)
    text = record.to_json().decode()
    assert WorkerRecord.from_json(text) == record
    assert WorkerRecord.from_json(text[:-1] + ', "from_the_future": 1}') == record


@pytest.mark.parametrize("field", ["name", "node", "supervisor", "address"])
def test_record_without_an_identity_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        worker(**{field: ""})
