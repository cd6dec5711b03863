"""What every fence of a log promises: the same tests for each."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable

import pytest

from tests.cluster.redis_process import RedisProcess
from tests.contract.conftest import PATIENT
from verl_agent_env.cluster.log_shards import Fence, Installation
from verl_agent_env.cluster.memory.fence import MemoryFence
from verl_agent_env.cluster.memory.log import MemoryEventLog
from verl_agent_env.cluster.redis.client import RedisClient
from verl_agent_env.cluster.redis.fence import RedisFence
from verl_agent_env.cluster.redis.keys import Keys
from verl_agent_env.cluster.redis.log import RedisEventLog
from verl_agent_env.errors import GenerationChangedError
from verl_agent_env.wire.event_log import EventLog
from verl_agent_env.wire.records import RefusalReason, Write

NOTHING = Installation("", 0)


class FenceCase:
    """A log with its fence, and a way to lose both."""

    def __init__(self, fence: Fence, log: EventLog, empty: Callable[[], None]) -> None:
        self.fence = fence
        self.log = log
        self.empty = empty

    async def write(self, generation: str, slot: int, token: str) -> RefusalReason | None:
        """What becomes of a write to a slot under a token."""
        write = Write("create", f"{slot:03x}-{uuid.uuid4().hex}", slot, 0, 0, b"{}")
        refusals = await self.log.commit(generation, {slot: token}, [write])
        return refusals[0].reason if refusals else None


@pytest.fixture(params=["memory", "redis"])
async def fenced(request: pytest.FixtureRequest) -> AsyncIterator[FenceCase]:
    if request.param == "memory":
        memory = MemoryFence(lambda: uuid.uuid4().hex)
        log = MemoryEventLog(memory)

        def empty() -> None:
            memory.clear()
            log.clear()

        yield FenceCase(memory, log, empty)
        return
    server: RedisProcess = request.getfixturevalue("redis_server")
    keys = Keys(uuid.uuid4().hex).of_logs()
    clients = [RedisClient(server.url, PATIENT, keys) for _ in range(2)]
    yield FenceCase(RedisFence(clients[0], keys), RedisEventLog(clients[1], keys), server.flush)
    for client in clients:
        await client.aclose()


async def test_who_goes_on_with_a_token_leaves_what_was_installed_since(fenced: FenceCase) -> None:
    generation = await fenced.fence.generation()
    await fenced.fence.install(generation, 5, {7: "one", 8: "one"})
    await fenced.fence.install(generation, 6, {7: "other"})
    # Asked again, because the answer got lost, it is told the same.
    for _ in range(2):
        former = await fenced.fence.install(generation, 8, {7: "one", 8: "one"}, {7: 5, 8: 5})
        assert former[7] == Installation("other", 6)
    assert former[8] == Installation("one", 8)
    assert [await fenced.write(generation, slot, "one") for slot in (7, 8)] == ["moved", None]
    # As a new one it counts.
    assert await fenced.fence.install(generation, 8, {7: "new"}) == {7: Installation("other", 6)}
    assert await fenced.write(generation, 7, "new") is None
    # Nobody else was there: in an emptied log, or under the same version.
    assert await fenced.fence.install(generation, 9, {9: "one"}, {9: 3}) == {9: NOTHING}
    assert await fenced.write(generation, 9, "one") is None


async def test_only_who_was_installed_last_writes(fenced: FenceCase) -> None:
    generation = await fenced.fence.generation()
    assert await fenced.write(generation, 7, "one") == "moved"
    assert await fenced.fence.install(generation, 5, {7: "one", 8: "one"}) == {7: NOTHING, 8: NOTHING}
    assert await fenced.write(generation, 7, "one") is None
    assert await fenced.fence.install(generation, 6, {7: "other"}) == {7: Installation("one", 5)}
    assert [await fenced.write(generation, 7, token) for token in ("one", "other")] == ["moved", None]
    assert await fenced.write(generation, 8, "one") is None


async def test_installation_that_was_held_up_undoes_none_that_came_after_it(fenced: FenceCase) -> None:
    generation = await fenced.fence.generation()
    # Above what a double holds exactly, versions would be taken for one another.
    late, early = (1 << 52) + 1, 1 << 52
    await fenced.fence.install(generation, late, {7: "heir"})
    assert await fenced.fence.install(generation, early, {7: "former", 9: "former"}) == {
        7: Installation("heir", late),
        9: NOTHING,
    }
    assert [await fenced.write(generation, 7, token) for token in ("heir", "former")] == [None, "moved"]
    assert await fenced.write(generation, 9, "former") is None


async def test_installation_may_be_repeated_and_renewed(fenced: FenceCase) -> None:
    generation = await fenced.fence.generation()
    await fenced.fence.install(generation, 5, {7: "one"})
    assert await fenced.fence.install(generation, 5, {7: "one"}) == {7: Installation("one", 5)}
    assert await fenced.fence.install(generation, 9, {7: "one"}) == {7: Installation("one", 5)}
    assert await fenced.fence.install(generation, 8, {7: "other"}) == {7: Installation("one", 9)}
    assert await fenced.write(generation, 7, "one") is None


async def test_emptied_log_is_another_data_set_in_which_nobody_is_installed(fenced: FenceCase) -> None:
    generation = await fenced.fence.generation()
    assert await fenced.fence.generation() == generation
    await fenced.fence.install(generation, 5, {7: "one"})
    fenced.empty()
    present = await fenced.fence.generation()
    assert present != generation
    with pytest.raises(GenerationChangedError) as raised:
        await fenced.fence.install(generation, 6, {7: "one"})
    assert (raised.value.expected, raised.value.found) == (generation, present)
    with pytest.raises(GenerationChangedError):
        await fenced.write(generation, 7, "one")
    assert await fenced.write(present, 7, "one") == "moved"
    assert await fenced.fence.install(present, 4, {7: "one"}) == {7: NOTHING}
    assert await fenced.write(present, 7, "one") is None


async def test_all_slots_are_installed_at_once(fenced: FenceCase) -> None:
    generation = await fenced.fence.generation()
    former = await fenced.fence.install(generation, 1, dict.fromkeys(range(4096), "one"))
    assert former == dict.fromkeys(range(4096), NOTHING)
    assert await fenced.fence.install(generation, 1, {}) == {}
    again = await fenced.fence.install(generation, 2, dict.fromkeys(range(4096), "other"))
    assert set(again.values()) == {Installation("one", 1)}
