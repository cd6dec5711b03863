"""A worker's ownership of the slots of one of several logs."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Collection, Mapping

import pytest

from tests.waiting import HANG_S
from verl_agent_env.cluster.log_shards import NOT_BEFORE, Installation
from verl_agent_env.cluster.memory.fence import MemoryFence
from verl_agent_env.cluster.shard_ownership import ShardOwnership
from verl_agent_env.cluster.slots import SlotTable
from verl_agent_env.errors import StoreUnavailableError
from verl_agent_env.types import slot_of

HERE = "here:1"
SLOTS = 8
MINE, ALSO_MINE, OF_ANOTHER_LOG = 2, 4, 3
"""Slots: the first log of two has the even ones."""


class SlowFence(MemoryFence):
    """A fence that can be away, and makes its callers wait."""

    def __init__(self) -> None:
        numbers = itertools.count(1)
        super().__init__(lambda: f"data set {next(numbers)}")
        self.is_away = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = 0
        self.loses_answers = 0

    async def generation(self) -> str:
        """Implement :meth:`Fence.generation`."""
        await asyncio.sleep(0)
        if self.is_away:
            raise StoreUnavailableError("memory")
        return await super().generation()

    async def install(
        self,
        generation: str,
        version: int,
        tokens: Mapping[int, str],
        since: Mapping[int, int] = NOT_BEFORE,
    ) -> dict[int, Installation]:
        """Implement :meth:`Fence.install`."""
        self.asked += 1
        await self.gate.wait()
        former = await super().install(generation, version, tokens, since)
        if self.loses_answers:
            self.loses_answers -= 1
            raise StoreUnavailableError("memory")
        return former

    async def install_other(self, slot: int, version: int) -> None:
        """Install another worker in a slot."""
        await super().install(self._generation, version, {slot: "other"})

    def has(self, slot: int) -> str:
        """Return the token of a slot."""
        return self._installed[slot].token if slot in self._installed else ""


class OwnershipCase:
    """The ownership of one log's slots, at work."""

    def __init__(self) -> None:
        numbers = itertools.count(1)
        self.fence = SlowFence()
        self.table = SlotTable(HERE, num_slots=SLOTS)
        self.advanced: list[int] = []
        self.evicted: list[set[int]] = []
        self.own = ShardOwnership(
            self.table, 0, 2, self.fence, self._advance, new_id=lambda: f"token {next(numbers)}"
        )
        self.table.require_proofs([self.own, NoProofs()])

    def assign(
        self,
        tokens: Mapping[int, str],
        *,
        generation: str = "store 1",
        version: int = 1,
        others: Collection[int] = (),
    ) -> None:
        """Have the map say that slots are this worker's, and others not."""
        self.table.assign(
            [HERE if slot in tokens else None for slot in range(SLOTS)],
            tokens,
            generation=generation,
            tokens=tokens,
            version=version,
            is_of_another=frozenset(others).__contains__,
            foreign=frozenset(others),
        )

    def evict(self, slots: Collection[int]) -> None:
        """Note what is void."""
        self.evicted.append(set(slots))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return as soon as something is so."""
        async with asyncio.timeout(HANG_S):
            while not condition():  # noqa: ASYNC110 - nothing would set an event
                await asyncio.sleep(0)

    async def _advance(self, version: int) -> None:
        self.advanced.append(version)


class NoProofs:
    """Another log, in which nothing is installed."""

    is_away = False

    def token_of(self, slot: int) -> str | None:
        """Return nothing."""
        return None

    def follow(self, is_of_another: Callable[[int], bool], released: Collection[int]) -> None:
        """Do nothing."""


@pytest.fixture
async def case() -> AsyncIterator[OwnershipCase]:
    made = OwnershipCase()
    running = asyncio.create_task(made.own.run(made.evict))
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_slot_is_owned_as_soon_as_its_log_knows_it(case: OwnershipCase) -> None:
    case.fence.gate.clear()
    case.assign({MINE: "t", OF_ANOTHER_LOG: "t"})
    await case.until(lambda: case.fence.asked == 1)
    assert case.table.token_of(MINE) is None
    assert (case.table.owns(MINE), case.table.owner_of(MINE)) == (False, None)
    case.fence.gate.set()
    await case.until(lambda: case.table.owns(MINE))
    assert case.own.tokens == {MINE: case.fence.has(MINE)}
    assert case.table.token_of(MINE) == case.own.token_of(MINE) == case.fence.has(MINE)
    assert not case.table.owns(OF_ANOTHER_LOG)
    assert [case.own.has(slot) for slot in (MINE, OF_ANOTHER_LOG)] == [True, False]


async def test_what_is_released_meanwhile_is_not_owned(case: OwnershipCase) -> None:
    case.fence.gate.clear()
    case.assign({MINE: "t", ALSO_MINE: "t"})
    await case.until(lambda: case.fence.asked == 1)
    case.table.release([MINE])
    case.fence.gate.set()
    await case.until(lambda: case.table.owns(ALSO_MINE))
    assert not case.table.owns(MINE)


async def test_what_was_given_up_is_proved_anew_though_the_store_says_nothing_else(
    case: OwnershipCase,
) -> None:
    case.assign({MINE: "t", ALSO_MINE: "t"})
    await case.until(lambda: case.table.owns(MINE))
    token = case.own.token_of(MINE)
    case.table.release([MINE])
    # What is still to be written is written meanwhile.
    assert case.own.token_of(MINE) == token
    await case.fence.install_other(MINE, 2)
    case.assign({MINE: "t", ALSO_MINE: "t"}, version=3)
    assert (case.table.owns(MINE), case.table.owns(ALSO_MINE)) == (False, True)
    await case.until(lambda: case.table.owns(MINE))
    assert case.evicted == [{MINE}]
    assert case.own.token_of(MINE) != token


async def test_slot_that_another_worker_got_has_no_token_at_once(case: OwnershipCase) -> None:
    case.assign({MINE: "t", ALSO_MINE: "t"})
    await case.until(lambda: case.table.owns(MINE))
    before = case.own.tokens
    case.assign({ALSO_MINE: "t"}, others=[MINE], version=2)
    assert case.own.tokens == {ALSO_MINE: before[ALSO_MINE]}
    assert before.keys() == {MINE, ALSO_MINE}
    assert case.own.has_gone(MINE)


async def test_slot_that_comes_back_has_another_token(case: OwnershipCase) -> None:
    case.assign({MINE: "t"})
    await case.until(lambda: case.table.owns(MINE))
    first = case.own.token_of(MINE)
    case.assign({}, others=[MINE], version=2)
    case.assign({MINE: "u"}, version=3)
    await case.until(lambda: case.table.owns(MINE))
    assert case.own.token_of(MINE) != first
    # The same in one step: that another worker had it is known by the token alone.
    second = case.own.token_of(MINE)
    case.assign({MINE: "v"}, version=5)
    assert not case.table.owns(MINE)
    await case.until(lambda: case.table.owns(MINE))
    assert case.own.token_of(MINE) not in (first, second)
    assert case.evicted == []


async def test_ownership_goes_on_when_the_store_was_emptied(case: OwnershipCase) -> None:
    case.assign({MINE: "t"})
    await case.until(lambda: case.table.owns(MINE))
    token = case.own.token_of(MINE)
    case.assign({}, generation="store 2", version=2)
    case.assign({MINE: "u"}, generation="store 2", version=3)
    assert not case.table.owns(MINE)
    await case.until(lambda: case.table.owns(MINE))
    assert (case.own.token_of(MINE), case.evicted) == (token, [])
    assert case.fence._installed[MINE] == Installation(str(token), 3)


async def test_slot_that_was_taken_twice_while_its_log_was_out_of_reach_has_another_token(
    case: OwnershipCase,
) -> None:
    """The worker takes what it has in memory of the slot for void at the second time, so nothing of it may be written."""
    case.assign({MINE: "t"})
    await case.until(lambda: case.table.owns(MINE))
    token = case.own.token_of(MINE)
    case.assign({MINE: "u"}, generation="store 2", version=2)
    case.assign({MINE: "v"}, generation="store 2", version=3)
    assert not case.table.owns(MINE)
    await case.until(lambda: case.table.owns(MINE))
    assert case.own.token_of(MINE) != token


async def test_what_is_in_memory_is_void_if_another_worker_was_installed(case: OwnershipCase) -> None:
    case.assign({MINE: "t", ALSO_MINE: "t"})
    await case.until(lambda: case.table.owns(MINE))
    token = case.own.token_of(MINE)
    await case.fence.install_other(MINE, 2)
    case.assign({MINE: "u", ALSO_MINE: "u"}, generation="store 2", version=3)
    await case.until(lambda: case.table.owns(MINE))
    assert case.evicted == [{MINE}]
    assert case.own.token_of(MINE) != token
    assert case.own.token_of(ALSO_MINE) == token
    assert case.fence.has(MINE) == case.own.token_of(MINE)


async def test_what_is_in_memory_is_void_though_the_answer_that_says_so_got_lost(case: OwnershipCase) -> None:
    case.assign({MINE: "t"})
    await case.until(lambda: case.table.owns(MINE))
    token = case.own.token_of(MINE)
    await case.fence.install_other(MINE, 2)
    case.fence.loses_answers = 1
    case.assign({MINE: "u"}, generation="store 2", version=3)
    await case.until(lambda: case.table.owns(MINE))
    assert case.evicted == [{MINE}]
    assert case.own.token_of(MINE) not in (token, None)


async def test_emptied_log_takes_the_same_tokens_again(case: OwnershipCase) -> None:
    case.assign({MINE: "t"})
    await case.until(lambda: case.table.owns(MINE))
    token, generation = case.own.token_of(MINE), case.own.generation
    case.fence.clear()
    # As the journal does when a write is refused.
    assert case.own.was_refused()
    assert case.own.tokens == {}
    assert not case.table.owns(MINE)
    await case.until(lambda: case.table.owns(MINE))
    assert case.own.generation != generation
    assert (case.own.token_of(MINE), case.evicted) == (token, [])


async def test_slots_of_a_log_that_was_emptied_or_is_away_are_not_confirmed(case: OwnershipCase) -> None:
    case.assign({MINE: "t"})
    await case.until(lambda: case.table.owns(MINE))
    assert list(await case.own.unconfirmed([MINE, ALSO_MINE])) == [ALSO_MINE]
    case.fence.is_away = True
    assert list(await case.own.unconfirmed([MINE])) == [MINE]
    case.fence.is_away = False
    case.fence.clear()
    assert list(await case.own.unconfirmed([MINE])) == [MINE]
    await case.until(lambda: case.table.owns(MINE))
    assert list(await case.own.unconfirmed([MINE])) == []


async def test_log_that_turned_back_takes_the_same_tokens_again(case: OwnershipCase) -> None:
    await case.fence.install_other(MINE, 1)
    earlier = dict(case.fence._installed)
    case.assign({MINE: "t"}, version=2)
    await case.until(lambda: case.table.owns(MINE))
    token = case.own.token_of(MINE)
    case.fence._installed = earlier
    assert case.own.was_refused()
    await case.until(lambda: case.table.owns(MINE))
    assert (case.own.token_of(MINE), case.evicted) == (token, [])


async def test_store_that_turned_back_is_advanced(case: OwnershipCase) -> None:
    await case.fence.install_other(MINE, 10)
    case.assign({MINE: "t"}, version=3)
    await case.until(lambda: bool(case.advanced))
    assert case.advanced[0] == 10
    assert not case.table.owns(MINE)
    assert case.fence.has(MINE) == "other"
    case.assign({MINE: "t"}, version=11)
    await case.until(lambda: case.table.owns(MINE))
    assert case.fence.has(MINE) == case.own.token_of(MINE)


async def test_log_that_is_away_gets_no_new_environments_and_is_asked_again(case: OwnershipCase) -> None:
    case.assign({MINE: "t"})
    await case.until(lambda: case.table.owns(MINE))
    case.fence.is_away = True
    assert case.own.was_refused()
    await case.until(lambda: case.own.is_away)
    case.table.for_new = {HERE: [MINE, OF_ANOTHER_LOG]}
    assert set(case.table.slots_for_new(20)) == {OF_ANOTHER_LOG}
    assert {slot_of(case.table.new_env_id_nearby("")) for _ in range(20)} == {OF_ANOTHER_LOG}
    case.fence.is_away = False
    await case.until(lambda: case.table.owns(MINE))
    assert not case.own.is_away
    assert set(case.table.slots_for_new(50)) == {MINE, OF_ANOTHER_LOG}
