"""Nobody's write waits for another's, and everybody who waits has a deadline."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any, cast

import pytest

from tests.cluster.workers import worker
from verl_agent_env import background
from verl_agent_env.cluster.memory.log import MemoryEventLog
from verl_agent_env.cluster.memory.store import MemoryStore
from verl_agent_env.engine.group_commit.groups import Group
from verl_agent_env.engine.group_commit.packing import LIMITS, size_of
from verl_agent_env.engine.group_commit.pending import PendingAnswer
from verl_agent_env.engine.persistence.journal import Journal
from verl_agent_env.errors import EnvironmentLostError, MovedError, StoreFullError, StoreUnavailableError
from verl_agent_env.types import NUM_SLOTS, slot_of
from verl_agent_env.wire.records import Refusal, RefusalReason, Write, WriteKind

HANG_S = 60.0
PATIENCE_S = 0.5
LIMBO, CALM = 1, 2


def env(slot: int, number: int = 0) -> str:
    """An environment of a slot."""
    return f"{slot:03x}-{number:032x}"


class Slots:
    """What the journal knows of its worker's slots."""

    def __init__(self, generation: str, tokens: Mapping[int, str]) -> None:
        self.generation = generation
        self.owned = dict(tokens)
        self.foreign: Collection[int] = ()
        self.log_decides = False
        """Whether a refused token is proved again, at once; slots have no tokens until then."""
        self.in_doubt: dict[int, str] = {}
        self._told: tuple[str, Mapping[int, str]] = "", {}

    @property
    def tokens(self) -> Mapping[int, str]:
        if self._told != (self.generation, self.owned):
            self._told = self.generation, dict(self.owned)
        return self._told[1]

    def token_of(self, slot: int) -> str | None:
        return self.owned.get(slot)

    def owns(self, slot: int) -> bool:
        return slot in self.owned

    def has_gone(self, slot: int) -> bool:
        return slot in self.foreign

    def was_refused(self) -> bool:
        if self.log_decides:
            self.in_doubt |= self.owned
            self.owned.clear()
        return self.log_decides


class Environments:
    """What the writes are about."""

    def __init__(self) -> None:
        self.live: dict[str, list[Write]] = {}
        self.broken: set[str] = set()
        self.refusals: dict[str, RefusalReason] = {}
        self.ends: dict[str, str] = {}
        self.early: set[str] = set()

    def repersist(self, env_id: str) -> Sequence[Write] | None:
        if env_id in self.broken:
            raise AttributeError("'NoneType' object has no attribute 'snapshot'")
        return self.live.get(env_id)

    def refused(self, env_id: str, reason: RefusalReason) -> None:
        self.refusals[env_id] = reason
        self.live.pop(env_id, None)

    def ended(self, env_id: str, reason: str) -> None:
        self.ends[env_id] = reason
        self.live.pop(env_id, None)

    def answers_early(self, env_id: str) -> bool:
        return env_id in self.early


class UnsteadyLog(MemoryEventLog):
    """A log that fails as it is told to."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.failure: Exception | None = None
        self.poison: set[str] = set()
        self.calls: list[list[Write]] = []
        self.failures = 0
        self.gate = asyncio.Event()
        """Calls are on their way until it is set."""
        self.gate.set()

    async def called(self, times: int) -> None:
        """Return when it was called so often."""
        async with asyncio.timeout(HANG_S):
            while len(self.calls) < times:  # noqa: ASYNC110 - a list has no event
                await asyncio.sleep(0)

    async def commit(self, generation: str, tokens: Any, writes: Sequence[Write]) -> list[Refusal]:
        await asyncio.sleep(0)
        if self.failure is not None:
            self.failures += 1
            raise self.failure
        if any(write.env_id in self.poison for write in writes):
            raise ValueError("WRONGTYPE Operation against a key holding the wrong kind of value")
        self.calls.append(list(writes))
        await self.gate.wait()
        return await super().commit(generation, tokens, writes)


class Case:
    """A journal at work."""

    def __init__(self, store: MemoryStore, slots: Slots, patience_s: float, **options: float) -> None:
        self.store = store
        self.slots = slots
        self.log = UnsteadyLog(store)
        self.environments = Environments()
        self.journal = Journal(self.log, slots, self.environments, patience_s=patience_s, **options)

    def write(self, kind: WriteKind, env_id: str, data: bytes = b"", seq: int = 0) -> Group:
        return self.journal.write(Write(kind, env_id, slot_of(env_id), 0, seq, data))

    async def settled(self, env_id: str, group: Group) -> None:
        async with asyncio.timeout(HANG_S):
            await PendingAnswer(self.journal, env_id, group, None)

    async def made(self, env_id: str, group: Group) -> None:
        """As :meth:`settled`, however often patience ends: the machine may be busy."""
        async with asyncio.timeout(HANG_S):
            while True:
                with contextlib.suppress(StoreUnavailableError):
                    await PendingAnswer(self.journal, env_id, group, None)
                    return

    async def create(self, *env_ids: str) -> None:
        for env_id in env_ids:
            self.environments.live[env_id] = [Write("put", env_id, slot_of(env_id), 0, 0, b"header")]
            await self.made(env_id, self.write("create", env_id, b"header"))

    async def flush(self) -> None:
        """Return when all is written."""
        async with asyncio.timeout(HANG_S):
            while self.journal.slots_pending():
                try:
                    await self.journal.flush()
                except StoreUnavailableError:
                    continue

    async def kept(self, env_id: str) -> list[bytes]:
        (saved,) = await self.log.load([env_id])
        return saved.entries

    async def come_back(self, slot: int, token: str) -> None:
        """Have a slot that is this worker's under ``token`` go to another one, and come back."""
        heir, back = worker(), worker()
        await self.store.heartbeat(heir, 1000.0)
        await self.store.heartbeat(back, 1000.0)
        moved = await self.store.hand_off({heir.incarnation: {slot: token}})
        self.slots.owned |= await self.store.hand_off({back.incarnation: moved})

    async def empty(self) -> None:
        """Lose everything, and take all slots again in the new data set."""
        self.log.clear()
        self.store.clear()
        record = worker()
        await self.store.heartbeat(record, 1000.0)
        self.slots.owned = await self.store.claim(record.incarnation, range(NUM_SLOTS))
        self.slots.generation = await self.store.generation()


@contextlib.asynccontextmanager
async def at_work(patience_s: float, **options: float) -> AsyncIterator[Case]:
    store = MemoryStore()
    record = worker()
    await store.heartbeat(record, 1000.0)
    tokens = await store.claim(record.incarnation, range(NUM_SLOTS))
    case = Case(store, Slots(await store.generation(), tokens), patience_s, **options)
    running = asyncio.create_task(case.journal.run())
    yield case
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.fixture
async def case() -> AsyncIterator[Case]:
    """Everybody waits as long as it takes."""
    async with at_work(HANG_S) as made:
        yield made


@pytest.fixture
async def hasty() -> AsyncIterator[Case]:
    """Nobody waits long."""
    async with at_work(PATIENCE_S) as made:
        yield made


# --- a group fills until somebody waits for it -------------------------------------------------------------


async def test_writes_that_nobody_waits_for_go_in_one_call_as_soon_as_somebody_does() -> None:
    async with at_work(HANG_S, fill_s=2 * HANG_S) as case:
        await case.create(env(CALM))
        case.log.calls.clear()
        for seq in range(8):
            group = case.write("append", env(CALM), b"%d" % seq, seq)
            # As a batch lets others have their turns.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await case.settled(env(CALM), group)
        assert [len(call) for call in case.log.calls] == [8]


@pytest.mark.parametrize("kind", ["create", "close"])
async def test_beginnings_and_ends_go_at_once_although_nobody_waits_for_them(kind: WriteKind) -> None:
    async with at_work(HANG_S, fill_s=2 * HANG_S) as case:
        if kind == "close":
            await case.create(env(CALM))
            case.log.calls.clear()
        case.write(kind, env(CALM), b"header")
        await case.log.called(1)
        assert [write.kind for write in case.log.calls[0]] == [kind]


async def test_full_group_goes_although_nobody_waits_for_it() -> None:
    async with at_work(HANG_S, fill_s=2 * HANG_S) as case:
        await case.create(env(CALM))
        case.log.calls.clear()
        for seq in range(LIMITS.writes + 1):
            case.write("append", env(CALM), b"%d" % seq, seq)
        await case.log.called(1)
        assert len(case.log.calls[0]) == LIMITS.writes


async def test_writes_that_nobody_waits_for_are_made_all_the_same(case: Case) -> None:
    await case.create(env(CALM))
    case.log.calls.clear()
    case.write("append", env(CALM), b"0")
    await case.log.called(1)


# --- slots do not wait for each other -----------------------------------------------------------------------


async def test_writes_of_a_slot_without_a_known_owner_hold_up_no_others(hasty: Case) -> None:
    await hasty.create(env(LIMBO), env(CALM))
    token = hasty.slots.owned.pop(LIMBO)
    # In one group: that of the slot in limbo first.
    held, passed = hasty.write("append", env(LIMBO), b"0"), hasty.write("append", env(CALM), b"0")
    await hasty.made(env(CALM), passed)
    for seq in range(1, 4):
        hasty.write("append", env(LIMBO), b"%d" % seq, seq)
        await hasty.made(env(CALM), hasty.write("append", env(CALM), b"%d" % seq, seq))
    assert await hasty.kept(env(LIMBO)) == []
    with pytest.raises(StoreUnavailableError) as raised:
        await hasty.settled(env(LIMBO), held)
    assert raised.value.may_have_run
    hasty.slots.owned[LIMBO] = token
    await hasty.made(env(LIMBO), held)
    await hasty.flush()
    assert await hasty.kept(env(LIMBO)) == [b"0", b"1", b"2", b"3"]


async def test_writes_of_a_slot_that_turns_out_to_be_another_workers_are_refused(case: Case) -> None:
    await case.create(env(LIMBO))
    del case.slots.owned[LIMBO]
    held = case.write("append", env(LIMBO), b"0")
    waiting = asyncio.create_task(case.settled(env(LIMBO), held))
    await case.create(env(CALM))
    assert not waiting.done()
    case.slots.foreign = {LIMBO}
    with pytest.raises(MovedError):
        await waiting
    assert case.environments.refusals == {env(LIMBO): "moved"}


async def test_writes_of_a_slot_that_came_back_do_not_go_with_those_from_before(case: Case) -> None:
    await case.create(env(LIMBO))
    token = case.slots.owned.pop(LIMBO)
    held = case.write("append", env(LIMBO), b"0")
    waiting = asyncio.create_task(case.settled(env(LIMBO), held))
    # It is put off when others that come later are made.
    await case.create(env(CALM))
    await case.come_back(LIMBO, token)
    # Brought back, it takes the step once more before anybody has looked at what was put off.
    await case.settled(env(LIMBO), case.write("append", env(LIMBO), b"1"))
    with pytest.raises(MovedError):
        await waiting
    assert await case.kept(env(LIMBO)) == [b"1"]
    assert case.environments.refusals == {}


async def test_writes_that_wait_their_turn_do_not_go_with_those_from_before(case: Case) -> None:
    await case.create(env(LIMBO))
    case.log.gate.clear()
    case.write("append", env(LIMBO), b"0")
    await case.log.called(2)
    held = case.write("append", env(LIMBO), b"1", 1)
    await case.come_back(LIMBO, case.slots.owned[LIMBO])
    later = case.write("append", env(LIMBO), b"2")
    case.log.gate.set()
    await case.settled(env(LIMBO), later)
    with pytest.raises(MovedError):
        await case.settled(env(LIMBO), held)
    assert await case.kept(env(LIMBO)) == [b"2"]


async def test_refusal_of_a_write_from_before_leaves_what_was_brought_back_since(case: Case) -> None:
    await case.create(env(LIMBO))
    case.log.gate.clear()
    held = case.write("append", env(LIMBO), b"0")
    waiting = asyncio.create_task(case.settled(env(LIMBO), held))
    await case.log.called(2)
    await case.come_back(LIMBO, case.slots.owned[LIMBO])
    case.log.gate.set()
    with pytest.raises(MovedError):
        await waiting
    assert case.environments.refusals == {}
    await case.settled(env(LIMBO), case.write("append", env(LIMBO), b"1"))


async def test_writes_put_off_at_different_times_are_each_judged_by_their_own(case: Case) -> None:
    await case.create(env(LIMBO), env(LIMBO, 1))
    token = case.slots.owned.pop(LIMBO)
    first = case.write("append", env(LIMBO), b"0")
    waiting = asyncio.create_task(case.settled(env(LIMBO), first))
    await case.create(env(CALM))
    # It comes back and is in doubt again within one look of the journal.
    await case.come_back(LIMBO, token)
    second = case.write("append", env(LIMBO, 1), b"1")
    token = case.slots.owned.pop(LIMBO)
    with pytest.raises(MovedError):
        await waiting
    case.slots.owned[LIMBO] = token
    await case.settled(env(LIMBO, 1), second)
    assert await case.kept(env(LIMBO, 1)) == [b"1"]


async def test_writes_from_before_a_slot_was_another_workers_are_never_made(case: Case) -> None:
    await case.create(env(LIMBO))
    case.log.failure = StoreUnavailableError("memory")
    held, close = case.write("append", env(LIMBO), b"0"), case.write("close", env(LIMBO), b"idle")
    await case.come_back(LIMBO, case.slots.owned[LIMBO])
    case.log.failure = None
    for group in (held, close):
        with pytest.raises(MovedError):
            await case.settled(env(LIMBO), group)
    (saved,) = await case.log.load([env(LIMBO)])
    assert (saved.header, saved.entries) == (b"header", [])


async def test_batch_gets_the_answers_of_all_slots_but_the_one_in_limbo(hasty: Case) -> None:
    env_ids = [env(LIMBO), env(CALM), env(CALM, 1)]
    await hasty.create(*env_ids)
    token = hasty.slots.owned.pop(LIMBO)
    group, *_ = [hasty.write("append", env_id, b"0") for env_id in env_ids]
    waiting = {group: list(enumerate(env_ids))}
    async with asyncio.timeout(HANG_S):
        # On a busy machine the others may be late as well.
        while len(errors := await hasty.journal.settle_all(waiting)) > 1:
            pass
        assert {number: type(error) for number, error in errors.items()} == {0: StoreUnavailableError}
        hasty.slots.owned[LIMBO] = token
        while await hasty.journal.settle_all(waiting):
            pass


# --- everybody has a deadline --------------------------------------------------------------------------------


async def test_batches_whose_time_is_over_before_they_come_to_their_next_group_are_told_so(
    hasty: Case,
) -> None:
    known, new = env(CALM), env(CALM, 1)
    await hasty.create(known)
    hasty.log.failure = StoreUnavailableError("memory")
    groups = {hasty.write("append", known, b"0"): [(0, known)], hasty.write("create", new): [(1, new)]}
    assert len(groups) == 2
    async with asyncio.timeout(HANG_S):
        batches = await asyncio.gather(*(hasty.journal.settle_all(groups) for _ in range(3)))
    told = {0: StoreUnavailableError, 1: StoreUnavailableError}
    assert [{number: type(error) for number, error in errors.items()} for errors in batches] == [told] * 3


async def test_whoever_comes_while_the_store_is_away_is_told_so_after_a_time_of_their_own(
    hasty: Case,
) -> None:
    env_ids = [env(CALM, nth) for nth in range(3)]
    await hasty.create(*env_ids)
    hasty.log.failure = StoreUnavailableError("memory", "it cannot be reached")
    loop = asyncio.get_running_loop()
    told: dict[str, float] = {}

    async def wait(env_id: str) -> None:
        began = loop.time()
        with pytest.raises(StoreUnavailableError) as raised:
            await hasty.settled(env_id, hasty.write("append", env_id, b"0"))
        assert "cannot be reached" in raised.value.reason
        told[env_id] = loop.time() - began

    waiting = []
    for env_id in env_ids:
        waiting.append(asyncio.create_task(wait(env_id)))
        await asyncio.sleep(PATIENCE_S / 3)
    await asyncio.gather(*waiting)
    assert min(told.values()) >= PATIENCE_S
    # Whoever asks again has a deadline of their own, too.
    again = asyncio.create_task(wait(env_ids[0]))
    await asyncio.sleep(PATIENCE_S / 3)
    assert not again.done()
    await again
    hasty.log.failure = None
    await hasty.flush()
    assert [await hasty.kept(env_id) for env_id in env_ids] == [[b"0"]] * 3


async def test_whoever_is_no_longer_waited_for_leaves_the_others_waiting(case: Case) -> None:
    await case.create(env(CALM))
    case.log.failure = StoreUnavailableError("memory")
    group = case.write("append", env(CALM), b"0")
    gone, stays = (asyncio.create_task(case.settled(env(CALM), group)) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    case.log.failure = None
    await stays


async def test_flush_of_some_slots_waits_for_no_others(hasty: Case) -> None:
    await hasty.create(env(LIMBO), env(CALM))
    del hasty.slots.owned[LIMBO]
    hasty.write("append", env(LIMBO), b"0")
    hasty.write("append", env(CALM), b"0")
    async with asyncio.timeout(HANG_S):
        await hasty.journal.flush([CALM], patience_s=HANG_S)
        assert hasty.journal.slots_pending() == {LIMBO}
        with pytest.raises(StoreUnavailableError):
            await hasty.journal.flush([LIMBO])


async def test_write_that_a_log_refuses_waits_until_it_is_asked_whose_the_slot_is(case: Case) -> None:
    case.slots.log_decides = True
    await case.create(env(CALM))
    whole = case.environments.live[env(CALM)]
    present = dict(case.store._tokens)
    for is_repersisted in (False, True):
        case.store._tokens[CALM] = "another"
        if is_repersisted:
            case.journal.repersist([env(CALM)])
        step = case.write("append", env(CALM), b"0", int(is_repersisted))
        async with asyncio.timeout(HANG_S):
            while not case.slots.in_doubt:  # noqa: ASYNC110 - nothing would set an event
                await asyncio.sleep(0)
        # It is this worker's still: what was refused is made.
        case.store._tokens.update(present)
        case.slots.owned.update(case.slots.in_doubt)
        case.slots.in_doubt.clear()
        await case.settled(env(CALM), step)
        assert case.environments.refusals == {}
        assert case.environments.live[env(CALM)] is whole
    # It is another worker's: what is there was never made under the token that this worker has by now.
    case.store._tokens[CALM] = "another"
    step = case.write("append", env(CALM), b"2", 2)
    async with asyncio.timeout(HANG_S):
        while not case.slots.in_doubt:  # noqa: ASYNC110 - nothing would set an event
            await asyncio.sleep(0)
    case.slots.owned[CALM] = "later"
    with pytest.raises(MovedError):
        await case.settled(env(CALM), step)


async def test_what_was_put_off_is_made_in_calls_that_are_not_too_long(case: Case) -> None:
    await case.create(env(LIMBO))
    token = case.slots.owned.pop(LIMBO)
    groups = {case.write("append", env(LIMBO), b"%d" % seq, seq) for seq in range(LIMITS.writes + 300)}
    while not all(group.is_done for group in groups):  # noqa: ASYNC110 - the journal puts them off
        await asyncio.sleep(0)
    called = len(case.log.calls)
    case.slots.owned[LIMBO] = token
    for group in groups:
        await case.settled(env(LIMBO), group)
    assert [len(call) for call in case.log.calls[called:]] == [LIMITS.writes, 300]


# --- one environment's failure stays its own -----------------------------------------------------------------


@pytest.mark.parametrize("has_written", [True, False])
async def test_what_is_written_before_the_slots_of_an_emptied_store_are_claimed_is_repersisted(
    case: Case, has_written: bool
) -> None:
    env_id = env(LIMBO)
    if has_written:
        await case.create(env_id)
    await case.empty()
    # The new data set is known, and whose the slots are in it is not, but for one.
    claimed = case.slots.owned
    case.slots.owned = {CALM: claimed[CALM]}
    case.environments.live[env(CALM)] = [Write("put", env(CALM), CALM, 0, 1, b"header", (b"0",))]
    beside = case.write("append", env(CALM), b"0")
    case.environments.live[env_id] = [Write("put", env_id, LIMBO, 0, 1, b"header", (b"0",))]
    held = case.write("append", env_id, b"0")
    waiting = asyncio.create_task(case.settled(env_id, held))
    await case.settled(env(CALM), beside)
    case.slots.owned = claimed
    await waiting
    assert case.environments.refusals == {}
    assert await case.kept(env_id) == [b"0"]


@pytest.mark.parametrize("is_noticed", [True, False], ids=["by its write", "by others"])
async def test_whoever_waits_for_what_is_repersisted_is_told_that_its_slot_has_gone(
    case: Case, is_noticed: bool
) -> None:
    env_id = env(LIMBO)
    await case.create(env_id, env(CALM))
    if is_noticed:
        await case.empty()
    case.log.calls.clear()
    case.log.gate.clear()
    first = case.write("append", env_id if is_noticed else env(CALM), b"0")
    await case.log.called(1)
    if not is_noticed:
        case.journal.repersist([env_id])
        # On its way when the environment is re-persisted: it goes along with that.
        first = case.write("append", env_id, b"0")
    waiting = asyncio.create_task(case.settled(env_id, first))
    # Before the environment is re-persisted, the store goes away, and then the slot.
    case.log.failure = StoreUnavailableError("redis")
    case.log.gate.set()
    async with asyncio.timeout(HANG_S):
        while not case.log.failures:  # noqa: ASYNC110 - a number has no event
            await asyncio.sleep(0)
    del case.slots.owned[LIMBO]
    case.slots.foreign = {LIMBO}
    case.log.failure = None
    with pytest.raises(MovedError):
        await waiting


async def test_environment_that_cannot_say_itself_keeps_no_other_out_of_an_emptied_store(case: Case) -> None:
    env_ids = [env(CALM, nth) for nth in range(21)]
    await case.create(*env_ids)
    case.environments.broken.add(env_ids[3])
    await case.empty()
    case.journal.repersist(env_ids)
    await case.flush()
    whole = [env_id for env_id in env_ids if env_id != env_ids[3]]
    assert sorted(await case.log.env_ids(range(NUM_SLOTS))) == whole
    # Nobody asked for it: it lives on in memory.
    assert case.environments.refusals == {}
    with pytest.raises(EnvironmentLostError):
        await case.settled(env_ids[3], case.write("append", env_ids[3], b"0"))


async def test_write_that_breaks_the_log_is_refused_and_all_others_are_made(case: Case) -> None:
    env_ids = [env(CALM, nth) for nth in range(20)]
    await case.create(*env_ids)
    case.log.poison = {env_ids[7]}
    groups = [case.write("append", env_id, b"0") for env_id in env_ids]
    for env_id, group in zip(env_ids, groups, strict=True):
        if env_id == env_ids[7]:
            with pytest.raises(EnvironmentLostError):
                await case.settled(env_id, group)
        else:
            await case.settled(env_id, group)
            assert await case.kept(env_id) == [b"0"]


async def test_log_that_refuses_everything_loses_nothing(hasty: Case) -> None:
    env_ids = [env(CALM, nth) for nth in range(5)]
    await hasty.create(*env_ids)
    hasty.log.failure = RuntimeError("ERR unknown command 'EVALSHA'")
    groups = [hasty.write("append", env_id, b"0") for env_id in env_ids]
    with pytest.raises(StoreUnavailableError, match="unknown command"):
        await hasty.settled(env_ids[0], groups[0])
    hasty.log.failure = None
    for env_id, group in zip(env_ids, groups, strict=True):
        await hasty.made(env_id, group)
    assert hasty.environments.refusals == {}


async def test_defect_of_the_writing_itself_costs_a_new_start_and_no_write() -> None:
    store = MemoryStore()
    record = worker()
    await store.heartbeat(record, 1000.0)
    slots = Slots(await store.generation(), await store.claim(record.incarnation, range(NUM_SLOTS)))
    case = Case(store, slots, HANG_S)
    running = background.start("journal", case.journal.run, pause_s=0.01)
    await case.create(env(CALM))
    tokens, slots.owned = slots.owned, {}
    case.write("append", env(CALM), b"0")
    # What no slot table ever does.
    slots.owned = cast("dict[int, str]", None)
    await asyncio.sleep(0.1)
    slots.owned = tokens
    await case.settled(env(CALM), case.write("append", env(CALM), b"1", 1))
    assert await case.kept(env(CALM)) == [b"0", b"1"]
    running.cancel()
    await asyncio.wait([running])


# --- what is re-persisted ------------------------------------------------------------------------------------


async def test_emptied_store_is_filled_in_calls_that_keep_the_limits(case: Case) -> None:
    env_ids = [env(slot) for slot in range(1200)]
    await case.create(env_ids[0])
    entries = tuple(b"\nd\n%d" % seq for seq in range(1000))
    for env_id in env_ids:
        whole = Write("put", env_id, slot_of(env_id), 0, len(entries), b"header", entries)
        case.environments.live[env_id] = [whole]
    await case.empty()
    case.log.calls.clear()
    case.journal.repersist(env_ids)
    # Whoever steps meanwhile does not wait for all of it.
    step = case.write("append", env_ids[-1], b"op\nd\n1000", len(entries))
    await case.settled(env_ids[-1], step)
    assert len(await case.log.env_ids(range(NUM_SLOTS))) < len(env_ids)
    await case.flush()
    assert len(await case.log.env_ids(range(NUM_SLOTS))) == len(env_ids)
    for call in case.log.calls:
        assert len(call) <= LIMITS.writes
        assert sum(len(write.entries) for write in call) <= LIMITS.entries
        assert sum(map(size_of, call)) <= LIMITS.size


async def test_history_too_large_for_one_call_is_repersisted_whole(case: Case) -> None:
    env_id = env(CALM)
    await case.create(env_id)
    entries = tuple(b"\nd\n" + b"%d" % seq * 4000 for seq in range(2500))
    case.environments.live[env_id] = [Write("put", env_id, slot_of(env_id), 0, 2500, b"header", entries)]
    await case.empty()
    await case.settled(env_id, case.write("append", env_id, entries[-1], 2499))
    assert await case.kept(env_id) == list(entries)
    assert len(case.log.calls) > 5


async def test_writes_that_a_repersisted_environment_includes_do_not_contradict_it(case: Case) -> None:
    env_id = env(CALM)
    await case.create(env_id)
    await case.empty()
    # What is said of the environment includes the second episode already, and its step.
    whole = Write("put", env_id, slot_of(env_id), 1, 1, b"second, once more", (b"\nd\nnew",))
    case.environments.live[env_id] = [whole]
    case.log.gate.clear()
    groups = [case.write("append", env_id, b"old")]
    await case.log.called(2)
    groups += [
        case.journal.write(Write("begin", env_id, slot_of(env_id), 1, 0, b"second")),
        case.journal.write(Write("append", env_id, slot_of(env_id), 1, 0, b"op\nd\nnew")),
    ]
    case.log.gate.set()
    for group in groups:
        await case.settled(env_id, group)
    assert case.environments.refusals == {}
    assert await case.kept(env_id) == [b"\nd\nnew"]


async def test_repersisting_goes_on_after_the_store_was_emptied_once_more(case: Case) -> None:
    env_ids = [env(slot) for slot in range(3000)]
    await case.create(env_ids[0])
    for env_id in env_ids:
        case.environments.live[env_id] = [Write("put", env_id, slot_of(env_id), 0, 0, b"header")]
    await case.empty()
    case.log.calls.clear()
    case.journal.repersist(env_ids)
    await case.log.called(1)
    await case.empty()
    case.journal.repersist(env_ids)
    await case.flush()
    assert sorted(await case.log.env_ids(range(NUM_SLOTS))) == env_ids


# --- a full store --------------------------------------------------------------------------------------------


async def test_ends_overtake_what_a_full_store_does_not_take(hasty: Case) -> None:
    env_ids = [env(CALM, nth) for nth in range(4)]
    await hasty.create(*env_ids)
    hasty.log.is_full = True
    held = [hasty.write("append", env_id, b"0") for env_id in env_ids[:2]]
    with pytest.raises(StoreFullError) as raised:
        await hasty.settled(env_ids[0], held[0])
    assert raised.value.may_have_run
    ends = [hasty.write("close", env_id, b"idle") for env_id in env_ids[2:]]
    for env_id, end in zip(env_ids[2:], ends, strict=True):
        await hasty.made(env_id, end)
    assert hasty.environments.ends == dict.fromkeys(env_ids[2:], "idle")
    assert await hasty.kept(env_ids[0]) == []
    # Room was made.
    hasty.log.is_full = False
    for env_id, group in zip(env_ids, held, strict=False):
        await hasty.made(env_id, group)
        assert await hasty.kept(env_id) == [b"0"]
    assert hasty.environments.refusals == {}


async def test_environment_that_a_full_store_does_not_take_is_nowhere(case: Case) -> None:
    env_id = env(CALM)
    case.log.is_full = True
    case.environments.live[env_id] = []
    group = case.write("create", env_id, b"header")
    with pytest.raises(StoreFullError) as raised:
        await case.settled(env_id, group)
    assert not raised.value.may_have_run
    assert case.environments.refusals == {env_id: "full"}
    case.log.is_full = False
    await case.create(env(CALM, 1))
    assert await case.log.env_ids([CALM]) == [env(CALM, 1)]


async def test_environment_that_was_answered_already_is_kept_when_the_store_has_room(case: Case) -> None:
    env_id = env(CALM)
    case.environments.early.add(env_id)
    case.log.is_full = True
    group = case.write("create", env_id, b"header")
    await case.log.called(3)
    case.log.is_full = False
    await case.settled(env_id, group)
    assert await case.log.env_ids([CALM]) == [env_id]


async def test_full_store_is_asked_with_little(case: Case) -> None:
    env_ids = [env(CALM, nth) for nth in range(50)]
    await case.create(*env_ids)
    case.log.is_full = True
    groups = [case.write("append", env_id, b"x" * 50_000) for env_id in env_ids]
    await case.log.called(len(case.log.calls) + 1)
    before = len(case.log.calls)
    await case.log.called(before + 3)
    assert {len(call) for call in case.log.calls[before:]} == {1}
    case.log.is_full = False
    for env_id, group in zip(env_ids, groups, strict=True):
        await case.settled(env_id, group)


async def test_emptied_store_that_is_full_is_filled_when_it_has_room(case: Case) -> None:
    env_ids = [env(CALM, nth) for nth in range(30)]
    await case.create(*env_ids)
    await case.empty()
    case.log.is_full = True
    case.journal.repersist(env_ids)
    calls = len(case.log.calls)
    await case.log.called(calls + 3)
    assert await case.log.env_ids([CALM]) == []
    case.log.is_full = False
    await case.flush()
    assert sorted(await case.log.env_ids([CALM])) == env_ids


async def test_writes_that_nobody_waits_for_take_bounded_room_while_nothing_can_be_written(
    case: Case,
) -> None:
    early, other = env(CALM), env(CALM, 1)
    await case.create(early, other)
    case.environments.early.add(early)
    case.log.failure = StoreUnavailableError("memory")
    waited_for = case.write("append", other, b"0")
    for seq in range(100):
        case.write("append", early, b"x" * 1_000_000, seq)
    while case.journal.backlog_bytes > 64 * 1024 * 1024:  # noqa: ASYNC110 - the journal looks now and then
        await asyncio.sleep(0.01)
    case.environments.live[early] = [Write("put", early, CALM, 0, 2, b"header", (b"a", b"b"))]
    case.log.failure = None
    await case.settled(other, waited_for)
    await case.flush()
    assert await case.kept(early) == [b"a", b"b"]
    assert await case.kept(other) == [b"0"]


async def test_full_store_refuses_new_environments_at_once_whatever_waits_before_them(case: Case) -> None:
    await case.create(env(CALM))
    case.log.is_full = True
    held = case.write("append", env(CALM), b"0")
    await case.log.called(len(case.log.calls) + 2)
    with pytest.raises(StoreFullError):
        await case.settled(env(CALM, 1), case.write("create", env(CALM, 1), b"header"))
    assert not held.is_done
    case.log.is_full = False
    await case.settled(env(CALM), held)
