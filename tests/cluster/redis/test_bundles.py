"""Steps that are written as bundles are read like all others, whoever reads, and whatever went wrong when they were written."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import redis

from tests.cluster.redis_process import RedisProcess
from tests.cluster.workers import worker
from tests.waiting import NEVER_S
from verl_agent_env.cluster.memory.log import MemoryEventLog
from verl_agent_env.cluster.memory.store import MemoryStore
from verl_agent_env.cluster.redis import bundles as redis_bundles
from verl_agent_env.cluster.redis import log as redis_log
from verl_agent_env.cluster.redis import log_scripts
from verl_agent_env.cluster.redis.bundles import MAX_STEP_BYTES, BundledSteps
from verl_agent_env.cluster.redis.client import RedisClient
from verl_agent_env.cluster.redis.keys import Keys
from verl_agent_env.cluster.redis.limits import RedisLimits
from verl_agent_env.cluster.redis.log import RedisEventLog
from verl_agent_env.cluster.redis.scripts import Script
from verl_agent_env.cluster.redis.store import RedisStore
from verl_agent_env.cluster.store import Store, WorkerRecord
from verl_agent_env.errors import StoreUnavailableError
from verl_agent_env.wire.event_log import EventLog
from verl_agent_env.wire.records import RefusalReason, Saved, Write

PATIENT = RedisLimits(connect_s=60.0, call_s=60.0)
SLOT = 7
ENV = "007-a"


class LossyClient(RedisClient):
    """Loses answers when it is told to, and can send a call of before once more."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.scripts: set[str] = set()
        """Names of those that ran."""

    is_lossy = False
    last: tuple[Script, list[str], list[Any]] | None = None

    async def run(self, script: Script, keys: list[str], arguments: list[Any]) -> Any:
        if script is log_scripts.COMMIT:
            self.last = script, keys, arguments
        self.scripts.add(script.name)
        answer = await super().run(script, keys, arguments)
        if self.is_lossy and script is log_scripts.COMMIT and answer[0] == "ok":
            self.is_lossy = False
            raise StoreUnavailableError(self.where, "the answer got lost", may_have_run=True)
        return answer

    async def late_copy(self, call: tuple[Script, list[str], list[Any]]) -> Any:
        """Have a call of before arrive once more."""
        return await super().run(*call)


class Writer:
    """A worker with a log of its own."""

    def __init__(self, store: Store, log: EventLog, client: LossyClient | None = None) -> None:
        self.store, self.log, self._client = store, log, client
        self.record: WorkerRecord = worker()
        self.generation = ""
        self.tokens: dict[int, str] = {}

    @property
    def client(self) -> LossyClient:
        assert self._client is not None
        return self._client

    async def join(self, *slots: int) -> None:
        await self.store.heartbeat(self.record, NEVER_S)
        self.tokens = await self.store.claim(self.record.incarnation, slots)
        self.generation = await self.store.generation()

    async def give(self, slot: int, other: Writer) -> None:
        moved = await self.store.hand_off({other.record.incarnation: {slot: self.tokens[slot]}})
        other.tokens = other.tokens | moved
        other.generation = self.generation

    async def write(self, *writes: Write) -> list[RefusalReason | None]:
        reasons: list[RefusalReason | None] = [None] * len(writes)
        for position, reason in await self.log.commit(self.generation, self.tokens, writes):
            reasons[position] = reason
        return reasons

    async def loaded(self, env_id: str = ENV) -> Saved:
        (saved,) = await self.log.load([env_id], whole=True)
        return saved


def allow_bundles_of(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a writer's bundles sorted out as soon as they have more bytes, however many environments it has."""
    monkeypatch.setattr(redis_bundles, "_MANY_BYTES", most)


def entry(seq: int) -> bytes:
    return b"op-%d\nd\n\xc3\xa4%d" % (seq, seq)


def append(seq: int, env_id: str = ENV, *, episode: int = 0, data: bytes | None = None) -> Write:
    return Write("append", env_id, int(env_id[:3], 16), episode, seq, entry(seq) if data is None else data)


def write(kind: Any, env_id: str = ENV, data: bytes = b"{}", *, episode: int = 0, seq: int = 0) -> Write:
    return Write(kind, env_id, int(env_id[:3], 16), episode, seq, data)


@pytest.fixture
async def join(redis_server: RedisProcess, keys: Keys) -> AsyncIterator[Callable[[], Writer]]:
    """Makes workers, each with connections of its own."""
    async with AsyncExitStack() as stack:

        def make() -> Writer:
            client = LossyClient(redis_server.url, PATIENT, keys)
            store, log = RedisStore(redis_server.url, keys, PATIENT), RedisEventLog(client, keys)
            stack.push_async_callback(store.aclose)
            stack.push_async_callback(log.aclose)
            return Writer(store, log, client)

        yield make


@pytest.fixture
async def writers(join: Callable[[], Writer]) -> tuple[Writer, Writer]:
    """Two workers; the first has the slot, an environment in it, and has written one step of it."""
    first, second = join(), join()
    await first.join(SLOT)
    await second.join()
    assert await first.write(write("create"), append(0)) == [None, None]
    return first, second


class Peek:
    """What is in Redis itself."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._redis: Any = client
        self._keys, self._base = keys, keys.base

    def forget_end_of(self, env_id: str) -> None:
        """Let the time be over for which it is known that an environment was closed."""
        self._redis.delete(f"{self._base}d:{env_id}")

    def take_away(self, slot: int) -> None:
        """Let a slot be another worker's, of which the map does not tell yet."""
        self._redis.hset(self._keys.owners, self._keys.field(slot), "another")

    def in_journal(self, env_id: str = ENV, episode: int = 0) -> int:
        return int(self._redis.llen(f"{self._base}j:{env_id}:{episode}")) - 1

    def bundles(self) -> int:
        return sum(self._redis.llen(key) for key in self._redis.keys(f"{self._base}b:*"))

    def names(self) -> set[bytes]:
        return set(self._redis.smembers(f"{self._base}logs"))

    def save(self) -> dict[bytes, bytes]:
        return {key: self._redis.dump(key) for key in self._redis.keys(f"{self._base}*")}

    def go_back_to(self, saved: dict[bytes, bytes]) -> None:
        """Lose all that was written since, as after a crash of Redis."""
        for key in self._redis.keys(f"{self._base}*"):
            self._redis.delete(key)
        for key, value in saved.items():
            self._redis.restore(key, 0, value)

    def forget_bundles_of(self, incarnation: str) -> None:
        """Let a worker look like one of a version before bundles."""
        self._redis.hdel(f"{self._base}w:{incarnation}", "bundles")


@pytest.fixture
def peek(redis_server: RedisProcess, keys: Keys) -> Iterator[Peek]:
    with redis.Redis(port=redis_server.port) as client:
        yield Peek(client, keys)


async def test_steps_go_into_a_bundle_and_are_read_in_their_order(
    writers: tuple[Writer, Writer], peek: Peek
) -> None:
    first, _ = writers
    # Whether all can read bundles is asked with the first of them.
    for seq in range(1, 6):
        assert await first.write(append(seq)) == [None]
    assert await first.write(append(6), append(7), write("save", seq=8)) == [None] * 3
    assert (peek.in_journal(), peek.bundles()) == (1, 6)
    assert (await first.loaded()).entries == [entry(seq) for seq in range(8)]
    assert (peek.in_journal(), peek.bundles(), peek.names()) == (8, 0, set())
    assert await first.write(append(8)) == [None]
    assert (await first.loaded()).entries == [entry(seq) for seq in range(9)]


async def test_new_owner_reads_what_the_last_one_bundled(writers: tuple[Writer, Writer], peek: Peek) -> None:
    first, second = writers
    await first.write(append(1))
    await first.give(SLOT, second)
    # The first one learns of it from its write.
    assert await first.write(append(2)) == ["moved"]
    assert (await second.loaded()).entries == [entry(0), entry(1)]
    assert await second.write(append(2), append(3)) == [None, None]
    assert await second.write(append(4)) == [None]
    await second.give(SLOT, first)
    assert (await first.loaded()).entries == [entry(seq) for seq in range(5)]
    assert await first.write(append(5)) == [None]
    assert (await second.loaded()).entries == [entry(seq) for seq in range(6)]


async def test_new_owner_that_writes_before_it_reads_goes_on_from_the_bundles(
    writers: tuple[Writer, Writer],
) -> None:
    first, second = writers
    await first.write(append(1))
    await first.give(SLOT, second)
    assert await second.write(append(1, data=b"op\nd\nother")) == ["conflict"]
    assert await second.write(append(3)) == ["short"]
    assert await second.write(append(2)) == [None]
    assert (await second.loaded()).entries == [entry(seq) for seq in range(3)]


async def test_lost_answer_is_made_up_for_one_by_one(writers: tuple[Writer, Writer], peek: Peek) -> None:
    first, second = writers
    first.client.is_lossy = True
    with pytest.raises(StoreUnavailableError):
        await first.write(append(1), append(2))
    assert peek.bundles() == 1
    assert await first.write(append(1), append(2), append(3)) == [None] * 3
    assert await first.write(append(4)) == [None]
    assert (await second.loaded()).entries == [entry(seq) for seq in range(5)]


async def test_late_copies_of_bundles_change_nothing(writers: tuple[Writer, Writer], peek: Peek) -> None:
    first, second = writers
    calls = []
    for seq in range(1, 4):
        await first.write(append(seq))
        assert first.client.last is not None
        calls.append(first.client.last)
    await first.write(write("begin", episode=1), append(0, episode=1))
    # Followed by others.
    for call in calls:
        assert (await first.client.late_copy(call))[:2] == ["unbundled", "number"]
    assert await first.write(append(1, episode=1)) == [None]
    await first.give(SLOT, second)
    assert first.client.last is not None
    assert (await first.client.late_copy(first.client.last))[0] == "unbundled"
    assert (await second.loaded()).entries == [entry(0), entry(1)]


async def test_call_that_is_made_again_at_once_is_answered_as_it_was(
    writers: tuple[Writer, Writer], peek: Peek
) -> None:
    first, second = writers
    await first.write(append(1))
    assert first.client.last is not None
    assert (await first.client.late_copy(first.client.last))[0] == "ok"
    assert peek.bundles() == 1
    # Not where it told of more than steps.
    assert await first.write(append(2), append(0, "007-none")) == [None, "gone"]
    assert (await first.client.late_copy(first.client.last))[0] == "unbundled"
    assert await first.write(append(3)) == [None]
    assert (await second.loaded()).entries == [entry(seq) for seq in range(4)]


async def test_bundle_with_a_step_of_somebody_else_s_slot_is_not_taken(
    writers: tuple[Writer, Writer],
) -> None:
    first, second = writers
    first.tokens = first.tokens | await first.store.claim(first.record.incarnation, [SLOT + 1])
    await first.write(write("create", "008-b"))
    await first.give(SLOT, second)
    # From the second one on it goes by the map in which the other slot is gone.
    for seq in range(2):
        assert await first.write(append(seq, "008-b")) == [None]
    assert await first.write(append(2, "008-b"), append(1)) == [None, "moved"]
    assert (await second.loaded()).entries == [entry(0)]
    assert len((await second.loaded("008-b")).entries) == 3


async def test_loss_of_the_last_second_is_noticed_at_the_next_step(
    writers: tuple[Writer, Writer], peek: Peek
) -> None:
    first, second = writers
    await first.write(append(1), write("create", "007-b"))
    await first.write(append(0, "007-b"))
    before = peek.save()
    await first.write(append(2))
    peek.go_back_to(before)
    assert await first.write(append(3)) == ["short"]
    # Those that lost nothing go on.
    assert await first.write(append(1, "007-b")) == [None]
    entries = tuple(map(entry, range(4)))
    assert await first.write(Write("put", ENV, SLOT, 0, 4, b"{}", entries), append(4)) == [None, None]
    assert await first.write(append(5)) == [None]
    assert (await second.loaded()).entries == [*entries, entry(4), entry(5)]


async def test_loss_of_what_was_written_otherwise_is_noticed_as_well(
    writers: tuple[Writer, Writer], peek: Peek
) -> None:
    first, _ = writers
    before = peek.save()
    assert await first.write(write("create", "007-b"), append(1)) == [None, None]
    peek.go_back_to(before)
    assert await first.write(append(0, "007-b")) == ["gone"]
    assert await first.write(append(2)) == ["short"]


async def test_loss_is_noticed_by_whatever_is_written_next(
    writers: tuple[Writer, Writer], peek: Peek
) -> None:
    first, _ = writers
    before = peek.save()
    assert await first.write(append(1)) == [None]
    peek.go_back_to(before)
    assert await first.write(write("create", "007-b")) == [None]
    assert await first.write(append(2)) == ["short"]


async def test_steps_of_what_is_over_are_dropped(writers: tuple[Writer, Writer], peek: Peek) -> None:
    first, second = writers
    await first.write(write("create", "007-b"), append(0, "007-b"))
    await first.write(append(1), append(1, "007-b"))
    assert await first.write(write("begin", episode=1), write("close", "007-b", b"closed")) == [None, None]
    # What follows on a beginning in the same call is no reason to sort them out.
    assert (
        await first.write(append(0, episode=1), write("begin", episode=2), append(0, episode=2)) == [None] * 3
    )
    # The first bundle has nothing else, and went with the next one.
    assert peek.bundles() == 1
    assert (await second.loaded()).entries == [entry(0)]
    assert (await second.loaded("007-b")) == Saved(None, [], None, "closed")
    assert peek.bundles() == 0


async def test_environment_that_is_made_again_has_nothing_of_the_one_before(
    writers: tuple[Writer, Writer], peek: Peek
) -> None:
    """An id that follows from an idempotency key may come again when its end is forgotten."""
    first, _ = writers
    await first.write(append(1))
    await first.write(write("close", data=b"closed"))
    peek.forget_end_of(ENV)
    assert await first.write(write("create"), append(0)) == [None, None]
    assert (await first.loaded()).entries == [entry(0)]


async def test_history_that_begins_anew_needs_no_sorting_out(
    writers: tuple[Writer, Writer], peek: Peek
) -> None:
    first, second = writers
    anew = [append(1), write("save", seq=2), write("put", data=b"anew", seq=2)]
    assert await first.write(*anew) == [None] * 3
    assert peek.bundles() == 1
    assert await first.write(append(2)) == [None]
    saved = await second.loaded()
    assert (saved.header, saved.entries[-1], len(saved.entries)) == (b"anew", entry(2), 3)


async def test_nothing_is_bundled_while_a_worker_reads_none(
    writers: tuple[Writer, Writer], peek: Peek, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = writers
    monkeypatch.setattr(redis_log, "_LOOK_S", 0.0)
    await first.write(append(1))
    second.tokens = await second.store.claim(second.record.incarnation, [SLOT + 1])
    second.generation = first.generation
    await second.write(write("create", "008-b"))
    await second.write(append(0, "008-b"))
    assert peek.bundles() == 2
    older = worker()
    await second.store.heartbeat(older, NEVER_S)
    peek.forget_bundles_of(older.incarnation)
    # It has joined: from the first step on, everything is where it looks.
    assert await first.write(append(2)) == [None]
    assert (peek.in_journal(), peek.bundles()) == (3, 1)
    # Those of others, too, who may say nothing any more.
    assert await first.write(append(3)) == [None]
    assert (peek.in_journal(), peek.bundles()) == (4, 0)
    await second.store.leave(older.incarnation)
    await first.write(append(4))
    assert (peek.in_journal(), peek.bundles()) == (4, 1)


@pytest.mark.parametrize("ending", ["begin", "close"])
async def test_bundles_of_what_is_over_are_removed_without_sorting_out(
    ending: str, writers: tuple[Writer, Writer], peek: Peek
) -> None:
    first, second = writers
    ids = [f"007-{letter}" for letter in "bcdef"]
    assert await first.write(*[write("create", env_id) for env_id in ids]) == [None] * 5
    # A second writer's bundles stay where they are.
    await first.give(SLOT, second)
    await first.join(SLOT + 1)
    await first.write(write("create", "008-a"), append(0, "008-a"))
    await second.write(append(1))
    await second.write(append(2), *[append(0, env_id) for env_id in ids])
    for seq in range(1, 30):
        assert await second.write(*[append(seq, env_id) for env_id in ids]) == [None] * 5
    before = peek.bundles()
    assert before >= 30
    if ending == "close":
        ends = [write("close", env_id, b"closed") for env_id in ids]
    else:
        ends = [write("begin", env_id, episode=1) for env_id in ids]
    assert await second.write(*ends, write("begin", ENV, episode=1)) == [None] * 6
    assert await second.write(append(0, episode=1)) == [None]
    assert await second.write(append(1, episode=1)) == [None]
    assert peek.bundles() <= 3
    assert "unbundle" not in second.client.scripts
    assert (await first.loaded()).entries == [entry(0), entry(1)]
    assert (await second.loaded("008-a")).entries == [entry(0)]


async def test_steps_stay_of_an_environment_whose_end_was_refused(
    writers: tuple[Writer, Writer], peek: Peek
) -> None:
    first, second = writers
    await first.join(SLOT, SLOT + 1)
    await first.write(write("create", "008-a"), append(0, "008-a"))
    await first.write(append(1))
    peek.take_away(SLOT)
    assert await first.write(write("close", data=b"idle")) == ["moved"]
    for seq in range(1, 4):
        assert await first.write(append(seq, "008-a")) == [None]
    assert peek.bundles() == 4
    assert (await second.loaded()).entries == [entry(0), entry(1)]


async def test_only_the_older_bundles_are_sorted_out_when_there_are_many(
    writers: tuple[Writer, Writer], peek: Peek, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = writers
    allow_bundles_of(1_000, monkeypatch)
    before = 0
    for seq in range(1, 100):
        before = peek.bundles()
        assert await first.write(append(seq)) == [None]
        if "unbundle" in first.client.scripts:
            break
    assert 1 < peek.bundles() < before
    assert peek.in_journal() > 1
    assert await first.write(write("begin", episode=1)) == [None]
    assert await first.write(append(0, episode=1)) == [None]
    assert peek.bundles() == 1
    assert (await second.loaded()).entries == [entry(0)]


async def test_all_bundles_are_sorted_out_where_the_store_lost_some(
    writers: tuple[Writer, Writer], peek: Peek, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = writers
    for seq in range(1, 6):
        await first.write(append(seq))
    before = peek.save()
    await first.write(append(6), write("create", "007-b"))
    peek.go_back_to(before)
    allow_bundles_of(10, monkeypatch)
    assert await first.write(append(7)) == ["short"]
    assert (peek.in_journal(), peek.bundles()) == (6, 0)
    assert (await second.loaded()).entries == [entry(seq) for seq in range(6)]


async def test_many_bundles_are_sorted_out_by_their_writer(
    writers: tuple[Writer, Writer], peek: Peek, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = writers
    allow_bundles_of(200, monkeypatch)
    monkeypatch.setattr(redis_log, "_SORTED_STEPS", 3)
    for seq in range(1, 60):
        assert await first.write(append(seq)) == [None]
        assert peek.bundles() < 10
    assert (await second.loaded()).entries == [entry(seq) for seq in range(60)]


async def test_writer_that_ends_leaves_no_bundles(writers: tuple[Writer, Writer], peek: Peek) -> None:
    first, _ = writers
    await first.write(append(1))
    await first.log.aclose()
    assert (peek.in_journal(), peek.bundles()) == (2, 0)


def test_environments_that_are_another_worker_s_by_now_are_forgotten() -> None:
    bundled = BundledSteps()
    for turn in range(100):
        tokens = {0: f"token-{turn}"}
        for number in range(50):
            made = write("create", f"000-{turn}-{number}")
            bundled.note_journals(tokens, [made], [made.env_id, 0, 0])
    assert len(bundled._journals) < 2100
    bundle = bundled.split(tokens, [append(0, f"000-99-{number}") for number in range(50)])
    assert bundle is not None
    assert len(bundle.entries) == 50


@pytest.mark.parametrize(("environments", "most"), [(1, 2_000), (10, 5_000), (40, 8_000)])
def test_more_environments_have_more_bundles_up_to_a_bound(
    environments: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"_MAX_BYTES_EACH": 500, "_FEW_BYTES": 2_000, "_MANY_BYTES": 8_000}.items():
        monkeypatch.setattr(redis_bundles, name, value)
    bundled, tokens = BundledSteps(), {7: "token"}
    made = [write("create", f"007-{number}") for number in range(environments)]
    bundled.note_journals(tokens, made, [value for begun in made for value in (begun.env_id, 0, 0)])
    size, seq = 0, 0
    while size + 148 <= most:
        assert bundled.split(tokens, [append(seq, "007-0", data=b"x" * 100)]) is not None
        size, seq = size + 148, seq + 1
        assert not bundled.has_many
    bundled.split(tokens, [append(seq, "007-0", data=b"x" * 100)])
    assert bundled.has_many


async def test_long_steps_are_appended_at_once(writers: tuple[Writer, Writer], peek: Peek) -> None:
    first, second = writers
    long = b"op\nd\n" + b"x" * MAX_STEP_BYTES
    await first.write(append(1))
    assert await first.write(append(2, data=long), append(3)) == [None, None]
    assert await first.write(append(4), append(5, data=long), append(6)) == [None] * 3
    assert (await second.loaded()).entries == [entry(0), entry(1), long, entry(3), entry(4), long, entry(6)]


async def test_bundles_are_read_and_sorted_out_in_a_full_redis(
    writers: tuple[Writer, Writer], redis_server: RedisProcess
) -> None:
    first, second = writers
    await first.write(append(1))
    redis_server.fill()
    try:
        assert await first.write(append(2)) == ["full"]
        assert (await second.loaded()).entries == [entry(0), entry(1)]
    finally:
        redis_server.fill(False)
    assert await first.write(append(2)) == [None]
    assert await first.write(append(3)) == [None]
    assert (await second.loaded()).entries == [entry(seq) for seq in range(4)]


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_happens_both_logs_say_the_same(
    seed: int, join: Callable[[], Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers that hand slots over, lose answers and repeat themselves, against the log in memory."""
    chance = random.Random(seed)
    allow_bundles_of(chance.choice((300, 1_000, 3_000)), monkeypatch)
    memory = MemoryStore()
    memory_log = MemoryEventLog(memory)
    reference, real = [Writer(memory, memory_log) for _ in range(2)], [join(), join()]
    slots = (3, 4, 5)
    for several in (reference, real):
        await several[0].join(*slots)
        await several[1].join()
        several[1].generation = several[0].generation
    owner = dict.fromkeys(slots, 0)
    histories: dict[str, list[int]] = {}
    for _ in range(200):
        action = chance.random()
        if action < 0.06:
            slot = chance.choice(slots)
            for several in (reference, real):
                await several[owner[slot]].give(slot, several[1 - owner[slot]])
            owner[slot] = 1 - owner[slot]
            continue
        if action < 0.12 and histories:
            env_id, who = chance.choice(sorted(histories)), chance.randrange(2)
            assert await real[who].loaded(env_id) == await reference[who].loaded(env_id)
            continue
        who = chance.randrange(2)
        writes = _some_writes(chance, histories, [slot for slot in slots if owner[slot] == who])
        expected = await reference[who].write(*writes)
        if chance.random() < 0.1:
            real[who].client.is_lossy = True
            with pytest.raises(StoreUnavailableError):
                await real[who].write(*writes)
            assert await real[who].write(*writes) == await reference[who].write(*writes)
        else:
            assert await real[who].write(*writes) == expected
    for env_id in histories:
        assert await real[0].loaded(env_id) == await reference[0].loaded(env_id)


def _some_writes(chance: random.Random, histories: dict[str, list[int]], slots: list[int]) -> list[Write]:
    """Writes of a worker for its slots, mostly those that follow; now and then one that does not."""
    writes: list[Write] = []
    for _ in range(chance.randrange(1, 6)):
        mine = [env_id for env_id in histories if int(env_id[:3], 16) in slots]
        kind = chance.random()
        if slots and (not mine or kind < 0.08):
            env_id = f"{chance.choice(slots):03x}-{len(histories)}"
            histories[env_id] = [0, 0]
            writes.append(write("create", env_id))
            continue
        if not mine:
            continue
        env_id = chance.choice(mine)
        episode, seq = histories[env_id]
        if kind < 0.14:
            histories[env_id] = [episode + 1, 0]
            writes.append(write("begin", env_id, b"%d" % episode, episode=episode + 1))
        elif kind < 0.18:
            writes.append(write("close", env_id, b"closed"))
        elif kind < 0.24:
            writes.append(write("save", env_id, episode=episode, seq=seq))
        elif kind < 0.30:
            parts = tuple(map(entry, range(chance.choice((0, seq)), seq)))
            writes.append(Write("put", env_id, int(env_id[:3], 16), episode, seq, b"anew", parts))
        elif kind < 0.36:
            writes.append(append(chance.randrange(seq + 3), env_id, episode=episode))
        else:
            histories[env_id][1] += 1
            writes.append(append(seq, env_id, episode=episode))
    return writes
