"""Several logs, each with a journal: what stops one of them stops no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from tests.cluster.workers import worker
from tests.engine.persistence.hosts import FlakyLog
from tests.waiting import HANG_S
from verl_agent_env.cluster.memory.store import MemoryStore
from verl_agent_env.engine.group_commit.groups import Group
from verl_agent_env.engine.group_commit.pending import PendingAnswer
from verl_agent_env.engine.persistence.journal import Journal
from verl_agent_env.engine.persistence.sharded_journal import ShardedJournal
from verl_agent_env.errors import StoreUnavailableError, VerlAgentEnvError
from verl_agent_env.types import slot_of
from verl_agent_env.wire.records import RefusalReason, Write

IN_FIRST, IN_SECOND = f"002-{'0' * 32}", f"003-{'0' * 32}"
PATIENCE_S = 0.5


class OwnedAlways:
    """Slots that stay this worker's."""

    def __init__(self, generation: str, tokens: dict[int, str]) -> None:
        self.generation = generation
        self.tokens = tokens

    def token_of(self, slot: int) -> str | None:
        """Return the token of a slot."""
        return self.tokens.get(slot)

    def owns(self, slot: int) -> bool:
        """Tell whether the slot is this worker's."""
        return slot in self.tokens

    def has_gone(self, slot: int) -> bool:
        """Tell whether it is another worker's."""
        return False

    def was_refused(self) -> bool:
        """Leave it at that."""
        return False


class NothingHeld:
    """No environment is held in memory."""

    def repersist(self, env_id: str) -> Sequence[Write] | None:
        """Say all of an environment."""
        return [Write("put", env_id, slot_of(env_id), 0, 0, b"again")]

    def refused(self, env_id: str, reason: RefusalReason) -> None:
        """Do nothing."""

    def ended(self, env_id: str, reason: str) -> None:
        """Do nothing."""

    def answers_early(self, env_id: str) -> bool:
        """Tell that calls wait."""
        return False


class Sharded:
    """Two logs, and the journals of both."""

    def __init__(self, stores: list[MemoryStore], owned: list[OwnedAlways]) -> None:
        self.logs = [FlakyLog(store) for store in stores]
        parts = [
            Journal(log, slots, NothingHeld(), patience_s=PATIENCE_S)
            for log, slots in zip(self.logs, owned, strict=True)
        ]
        self.journal = ShardedJournal(parts)

    def create(self, env_id: str) -> Group:
        """Write that an environment begins."""
        return self.journal.write(Write("create", env_id, slot_of(env_id), 0, 0, b"header"))

    async def settled(self, env_id: str, group: Group) -> None:
        """Wait for a group."""
        await PendingAnswer(self.journal.of(slot_of(env_id)), env_id, group, None)


@pytest.fixture
async def sharded() -> AsyncIterator[Sharded]:
    stores, owned = [MemoryStore(), MemoryStore()], []
    for store in stores:
        record = worker()
        await store.heartbeat(record, 1000.0)
        owned.append(OwnedAlways(await store.generation(), await store.claim(record.incarnation, range(8))))
    made = Sharded(stores, owned)
    running = asyncio.create_task(made.journal.run())
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_each_write_goes_to_the_log_of_its_slot(sharded: Sharded) -> None:
    for env_id in (IN_FIRST, IN_SECOND):
        await sharded.settled(env_id, sharded.create(env_id))
    assert [list(log._kept) for log in sharded.logs] == [[IN_FIRST], [IN_SECOND]]
    for log in sharded.logs:
        log.clear()
    sharded.journal.repersist([IN_FIRST, IN_SECOND])
    assert sharded.journal.slots_pending() == {slot_of(IN_FIRST), slot_of(IN_SECOND)}
    await sharded.journal.flush(patience_s=HANG_S)
    assert [list(log._kept) for log in sharded.logs] == [[IN_FIRST], [IN_SECOND]]
    assert sharded.journal.slots_pending() == set()


async def test_log_that_is_away_stops_its_own_writes_alone(sharded: Sharded) -> None:
    sharded.logs[0].is_away = True
    late, in_time = sharded.create(IN_FIRST), sharded.create(IN_SECOND)
    await sharded.settled(IN_SECOND, in_time)
    with pytest.raises(StoreUnavailableError):
        await sharded.settled(IN_FIRST, late)
    first, second = sharded.journal.parts
    assert (first.is_away, second.is_away) == (True, False)
    assert sharded.journal.slots_pending() == {slot_of(IN_FIRST)}
    await sharded.journal.flush([slot_of(IN_SECOND)])
    with pytest.raises(StoreUnavailableError):
        await sharded.journal.flush()
    sharded.logs[0].is_away = False
    await sharded.journal.flush(patience_s=HANG_S)
    assert list(sharded.logs[0]._kept) == [IN_FIRST]
    assert not first.is_away


async def test_writes_of_a_batch_are_waited_for_side_by_side(sharded: Sharded) -> None:
    sharded.logs[0].is_away = True
    waiting: dict[Group, list[tuple[int, str]]] = {
        sharded.create(env_id): [(number, env_id)] for number, env_id in enumerate((IN_FIRST, IN_SECOND))
    }
    errors: dict[int, VerlAgentEnvError] = await sharded.journal.settle_all(waiting)
    assert {number: type(error) for number, error in errors.items()} == {0: StoreUnavailableError}
    nothing: dict[Group, Any] = {}
    assert await sharded.journal.settle_all(nothing) == {}
