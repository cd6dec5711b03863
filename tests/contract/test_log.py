"""What every log promises: the same tests for each."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.cluster.workers import worker
from tests.contract.conftest import StoreCase
from tests.waiting import NEVER_S
from verl_agent_env.cluster.store import Store
from verl_agent_env.errors import GenerationChangedError
from verl_agent_env.wire.records import Refusal, RefusalReason, Saved, Write, WriteKind
from verl_agent_env.wire.task_results import TaskResult, TaskStatistics

TTL_S = NEVER_S
SLOT, OTHER_SLOT = 7, 0xFFF
ENV = "007-a"
NOTHING = Saved(None, [], None, None)


class Owner:
    """A worker that owns both slots."""

    def __init__(self, case: StoreCase, generation: str, tokens: dict[int, str]) -> None:
        self._case = case
        self.generation = generation
        self.tokens = tokens

    @classmethod
    async def of(cls, case: StoreCase) -> Owner:
        store = case.connect()
        record = worker()
        await store.heartbeat(record, TTL_S)
        tokens = await store.claim(record.incarnation, [SLOT, OTHER_SLOT])
        await case.install(store, tokens)
        return cls(case, await store.generation(), tokens)

    async def write(self, *writes: Write) -> list[RefusalReason | None]:
        """What became of each: None, or why it was refused."""
        refusals = await self._case.log.commit(self.generation, self.tokens, writes)
        reasons: list[RefusalReason | None] = [None] * len(writes)
        for index, reason in refusals:
            reasons[index] = reason
        return reasons


@pytest.fixture
async def owner(case: StoreCase) -> Owner:
    return await Owner.of(case)


def write(
    kind: WriteKind,
    data: bytes = b"",
    *,
    episode: int = 0,
    seq: int = 0,
    env_id: str = ENV,
    slot: int = SLOT,
    entries: Sequence[bytes] = (),
) -> Write:
    return Write(kind, env_id, slot, episode, seq, data, tuple(entries))


async def loaded(case: StoreCase, env_id: str = ENV) -> Saved:
    (saved,) = await case.log.load([env_id])
    return saved


async def test_created_and_appended_is_what_is_loaded(case: StoreCase, owner: Owner) -> None:
    steps = [write("append", b"step %d \xc3\xa4\n\n" % seq, seq=seq) for seq in range(3)]
    assert await owner.write(write("create", b'{"a": 1}\n'), *steps) == [None] * 4
    assert await loaded(case) == Saved(b'{"a": 1}\n', [step.data for step in steps], None, None)
    assert await case.log.env_ids([SLOT, OTHER_SLOT]) == [ENV]
    assert await case.log.env_ids([OTHER_SLOT]) == []
    # Of many slots it makes no difference which come first.
    assert await case.log.env_ids([*range(SLOT + 1, OTHER_SLOT), SLOT]) == [ENV]
    assert await case.log.env_ids([]) == []


async def test_unknown_environments_are_nothing(case: StoreCase) -> None:
    assert await case.log.load(["000-x", "000-y"]) == [NOTHING, NOTHING]
    assert await case.log.load([]) == []


async def test_every_write_may_be_made_again_and_late_copies_do_no_harm(
    case: StoreCase, owner: Owner
) -> None:
    history = [
        write("create", b"first"),
        write("append", b"zero"),
        write("append", b"one", seq=1),
        write("begin", b"second", episode=1),
        write("append", b"nil", episode=1),
    ]
    for done in range(1, len(history) + 1):
        assert await owner.write(history[done - 1]) == [None]
        expected = await loaded(case)
        for earlier in history[:done]:
            await owner.write(earlier)
            assert await loaded(case) == expected
    assert await loaded(case) == Saved(b"second", [b"nil"], None, None)
    assert await owner.write(history[4], history[3]) == [None, None]


@pytest.mark.parametrize(
    ("late", "reason"),
    [
        (write("append", b"zero"), "conflict"),
        (write("append", b"two", seq=2), "short"),
        (write("append", b"one", seq=1, episode=1), "short"),
        (write("begin", b"third", episode=2), "short"),
        (write("begin", b"other", episode=0), "conflict"),
        (write("save", b"state", episode=1), "short"),
    ],
)
async def test_what_does_not_follow_is_refused_and_changes_nothing(
    case: StoreCase, owner: Owner, late: Write, reason: str
) -> None:
    assert await owner.write(write("create", b"first"), write("append", b"ZERO")) == [None, None]
    before = await loaded(case)
    assert await owner.write(late) == [reason]
    assert await loaded(case) == before


async def test_writes_of_an_earlier_episode_are_stale(case: StoreCase, owner: Owner) -> None:
    await owner.write(write("create", b"first"), write("begin", b"second", episode=1))
    late = [write("append", b"x"), write("save", b"x"), write("begin", b"first"), write("put", b"first")]
    assert await owner.write(*late) == ["stale"] * 4
    assert await loaded(case) == Saved(b"second", [], None, None)


async def test_writes_to_nothing_are_refused_as_gone(case: StoreCase, owner: Owner) -> None:
    assert (
        await owner.write(write("append", b"x"), write("save", b"x"), write("begin", b"x", episode=1))
        == ["gone"] * 3
    )
    assert await loaded(case) == NOTHING


async def test_closed_environment_is_remembered_and_stays_closed(case: StoreCase, owner: Owner) -> None:
    await owner.write(write("create", b"first"), write("append", b"zero"), write("save", b"state", seq=1))
    assert await owner.write(write("close", b"idle"), write("close", b"idle")) == [None, None]
    assert await loaded(case) == Saved(None, [], None, "idle")
    assert await case.log.env_ids([SLOT]) == []
    late = [
        write("create", b"first"),
        write("append", b"one", seq=1),
        write("save", b"state"),
        write("begin", b"second", episode=1),
        write("put", b"first"),
    ]
    assert await owner.write(*late) == ["closed"] * 5
    assert await loaded(case) == Saved(None, [], None, "idle")


async def test_put_replaces_whatever_was_there(case: StoreCase, owner: Owner) -> None:
    await owner.write(write("create", b"first"), write("append", b"old"), write("save", b"state", seq=1))
    whole = write("put", b"second", episode=1, seq=2, entries=[b"a", b"b"])
    after = write("append", b"c", episode=1, seq=2)
    assert await owner.write(whole, after) == [None, None]
    assert await loaded(case) == Saved(b"second", [b"a", b"b", b"c"], None, None)
    new = write("put", b"new", env_id="007-b", seq=1, entries=[b"n"])
    empty = write("put", b"empty", env_id="007-c")
    assert await owner.write(new, empty, write("append", b"m", env_id="007-b", seq=1)) == [None] * 3
    assert await loaded(case, "007-b") == Saved(b"new", [b"n", b"m"], None, None)
    assert await loaded(case, "007-c") == Saved(b"empty", [], None, None)
    assert sorted(await case.log.env_ids([SLOT])) == [ENV, "007-b", "007-c"]


async def test_late_copy_of_a_put_takes_nothing_away_that_followed(case: StoreCase, owner: Owner) -> None:
    whole = write("put", b"first", seq=2, entries=[b"\nd\na", b"\nd\nb"])
    assert await owner.write(whole, write("append", b"op\nd\nc", seq=2)) == [None, None]
    after = Saved(b"first", [b"\nd\na", b"\nd\nb", b"op\nd\nc"], None, None)
    assert await owner.write(whole, write("put", b"first")) == [None, None]
    # Operations are not re-persisted; any other difference is one.
    assert await owner.write(write("put", b"first", seq=1, entries=[b"op\nd\na"])) == [None]
    assert await owner.write(write("put", b"first", seq=1, entries=[b"\nd\nx"])) == ["conflict"]
    assert await loaded(case) == after
    longer = write("put", b"first", seq=4, entries=[*after.entries, b"\nd\nd"])
    assert await owner.write(longer) == [None]
    assert (await loaded(case)).entries == list(longer.entries)


async def test_long_history_is_repersisted_in_parts_which_may_all_be_made_again(
    case: StoreCase, owner: Owner
) -> None:
    entries = [b"\nd\n%d" % seq for seq in range(7)]
    parts = [
        write("put", b"first", seq=3, entries=entries[:3]),
        write("extend", seq=3, entries=entries[3:5]),
        write("extend", seq=5, entries=entries[5:]),
    ]
    other = write("create", b"other", env_id="007-b")
    assert await owner.write(parts[0], other, *parts[1:], write("append", b"op\nd\n7", seq=7)) == [None] * 5
    whole = Saved(b"first", [*entries, b"op\nd\n7"], None, None)
    assert await loaded(case) == whole
    for part in parts:
        assert await owner.write(part) == [None]
        assert await loaded(case) == whole


async def test_repersisting_in_parts_takes_nothing_away_of_a_longer_history_that_is_there(
    case: StoreCase, owner: Owner
) -> None:
    kept = [b"op-%d\nd\n%d" % (seq, seq) for seq in range(4)]
    parts = [b"\nd\n%d" % seq for seq in range(6)]
    appended = [write("append", entry, seq=seq) for seq, entry in enumerate(kept)]
    assert await owner.write(write("create", b"first"), *appended) == [None] * 5
    assert await owner.write(write("put", b"first", seq=2, entries=parts[:2])) == [None]
    assert (await loaded(case)).entries == kept
    assert await owner.write(write("extend", seq=2, entries=parts[2:])) == [None]
    assert (await loaded(case)).entries == [*kept, *parts[4:]]


@pytest.mark.parametrize(
    ("late", "reason"),
    [
        (write("extend", seq=3, entries=[b"x"]), "short"),
        (write("extend", seq=1, entries=[b"\nd\nother", b"\nd\n2"]), "conflict"),
        (write("extend", seq=1, entries=[b"op-2\nd\n1", b"\nd\n2"]), "conflict"),
        (write("extend", seq=2, entries=[b"x"], episode=1), "short"),
        (write("extend", seq=2, entries=[b"x"], env_id="007-none"), "gone"),
    ],
)
async def test_extension_that_does_not_follow_changes_nothing(
    case: StoreCase, owner: Owner, late: Write, reason: str
) -> None:
    steps = [write("append", b"op-%d\nd\n%d" % (seq, seq), seq=seq) for seq in range(2)]
    await owner.write(write("create", b"first"), *steps)
    before = await loaded(case)
    assert await owner.write(late) == [reason]
    assert await loaded(case) == before


async def test_late_copy_of_a_put_leaves_the_state_that_followed(case: StoreCase, owner: Owner) -> None:
    whole = write("put", b"first")
    assert await owner.write(whole, write("save", b"state", seq=1), whole) == [None] * 3
    assert (await loaded(case)).snapshot == b"state"


async def test_load_gives_what_follows_on_the_saved_state(case: StoreCase, owner: Owner) -> None:
    steps = [write("append", b"step %d" % seq, seq=seq) for seq in range(5)]
    await owner.write(write("create", b"first"), *steps, write("save", b"state", seq=3))
    assert await loaded(case) == Saved(b"first", [b"step 2", b"step 3", b"step 4"], b"state", None, first=2)
    (whole,) = await case.log.load([ENV], whole=True)
    assert whole == Saved(b"first", [step.data for step in steps], b"state", None)
    await owner.write(write("save", b"end", seq=5))
    assert await loaded(case) == Saved(b"first", [b"step 4"], b"end", None, first=4)
    # One that no step leads to is no place to begin at.
    await owner.write(write("save", b"ahead", seq=6))
    assert (await loaded(case)).entries == whole.entries


async def test_load_of_an_environment_without_a_journal_gives_its_state(
    case: StoreCase, owner: Owner
) -> None:
    await owner.write(write("create", b"first"), write("save", b"state", seq=1000))
    assert await loaded(case) == Saved(b"first", [], b"state", None)


async def test_one_load_carries_a_bounded_number_of_bytes_and_at_least_one_environment(
    case: StoreCase, owner: Owner
) -> None:
    env_ids = [f"007-{number}" for number in range(5)]
    for env_id in env_ids:
        large = write("append", b"x" * 600_000, env_id=env_id)
        await owner.write(write("create", b"first", env_id=env_id), large)
    left, calls = env_ids, 0
    while left:
        saved = await case.log.load(left)
        assert saved
        assert all(len(one.entries[0]) == 600_000 for one in saved)
        left, calls = left[len(saved) :], calls + 1
    assert calls == 3


async def test_put_of_the_end_of_a_journal_counts_the_steps_before_it(case: StoreCase, owner: Owner) -> None:
    whole = write("put", b"first", seq=5000, entries=[b"\nd\na", b"\nd\nb"])
    after = write("append", b"op\nd\nc", seq=5000)
    assert await owner.write(whole, after) == [None, None]
    saved = await loaded(case)
    assert saved.first + len(saved.entries) == 5001
    assert saved.entries[-4:] == [b"", b"\nd\na", b"\nd\nb", b"op\nd\nc"]
    # Late copies of what came before: of the steps only the number is kept, nobody can say that they differ.
    assert await owner.write(write("append", b"op\nd\nx", seq=7), write("append", b"x", seq=4998)) == [
        None,
        "conflict",
    ]
    assert await owner.write(whole, write("put", b"first", seq=7, entries=[b"\nd\nx"] * 7)) == [None, None]
    assert await owner.write(write("append", b"x", seq=5002)) == ["short"]
    assert await loaded(case) == saved


async def test_history_that_begins_anew_keeps_the_state_that_it_begins_with(
    case: StoreCase, owner: Owner
) -> None:
    steps = [write("append", b"step %d" % seq, seq=seq) for seq in range(3)]
    anew = [write("save", b"state", seq=3), write("put", b"state of 3", seq=3)]
    assert await owner.write(write("create", b"first"), *steps, *anew) == [None] * 6
    expected = Saved(b"state of 3", [b""], b"state", None, first=2)
    assert await loaded(case) == expected
    # Everything arrives once more, in any parts.
    assert await owner.write(*steps, *anew) == [None] * 5
    assert await owner.write(anew[1]) == [None]
    assert await owner.write(anew[0]) == [None]
    assert await loaded(case) == expected
    following = write("append", b"step 3", seq=3)
    assert await owner.write(following, anew[1], *steps, anew[0]) == [None] * 6
    assert await loaded(case) == expected._replace(entries=[b"", b"step 3"])
    # An older state does not survive a beginning that follows it.
    later = write("put", b"state of 6", seq=6)
    assert (
        await owner.write(write("append", b"step 4", seq=4), write("append", b"step 5", seq=5), later)
        == [None] * 3
    )
    assert await loaded(case) == Saved(b"state of 6", [b""] * 6, None, None)


async def test_last_saved_state_is_the_one_that_is_kept(case: StoreCase, owner: Owner) -> None:
    await owner.write(
        write("create", b"first"), write("save", b"one", seq=1), write("save", b"two\n2", seq=2)
    )
    assert (await loaded(case)).snapshot == b"two\n2"
    await owner.write(write("save", b"one", seq=1))
    assert (await loaded(case)).snapshot == b"two\n2"
    await owner.write(write("begin", b"second", episode=1))
    assert (await loaded(case)).snapshot is None


async def test_only_the_owner_writes(case: StoreCase, owner: Owner) -> None:
    assert await owner.write(write("create", b"first")) == [None]
    heir = worker()
    store = case.connect()
    await store.heartbeat(heir, TTL_S)
    await case.install(store, await store.hand_off({heir.incarnation: {SLOT: owner.tokens[SLOT]}}))
    other = write("create", b"x", env_id="fff-x", slot=OTHER_SLOT)
    every: list[Write] = [
        write("append", b"zero"),
        write("create", b"x", env_id="007-new"),
        write("begin", b"second", episode=1),
        write("save", b"state"),
        write("put", b"other"),
        write("close", b"closed"),
    ]
    assert await owner.write(*every, other) == ["moved"] * 6 + [None]
    assert await loaded(case) == Saved(b"first", [], None, None)
    assert await loaded(case, "fff-x") == Saved(b"x", [], None, None)
    assert await case.log.env_ids([SLOT]) == [ENV]


async def test_refused_writes_stop_no_others(case: StoreCase, owner: Owner) -> None:
    writes = [
        write("create", b"first"),
        write("append", b"x", env_id="007-none"),
        write("append", b"zero"),
        write("append", b"two", seq=2),
        write("put", b"p", env_id="007-p", seq=1, entries=[b"e"]),
        write("append", b"one", seq=1),
    ]
    assert await owner.write(*writes) == [None, "gone", None, "short", None, None]
    assert (await loaded(case)).entries == [b"zero", b"one"]


async def test_emptied_store_takes_no_writes_of_before(case: StoreCase, owner: Owner, store: Store) -> None:
    await owner.write(write("create", b"first"))
    case.empty()
    present = await store.generation()
    with pytest.raises(GenerationChangedError) as raised:
        await owner.write(write("append", b"zero"))
    assert (raised.value.expected, raised.value.found) == (owner.generation, present)
    assert await loaded(case) == NOTHING


async def test_full_store_takes_ends_and_nothing_else(case: StoreCase, owner: Owner, store: Store) -> None:
    others = ["007-b", "007-c"]
    await owner.write(write("create", b"first"), *(write("create", b"x", env_id=each) for each in others))
    await owner.write(write("append", b"\nd\nzero"), write("save", b"state", seq=1))
    before = await loaded(case)
    case.fill(True)
    growing = [
        write("append", b"one", seq=1),
        write("extend", seq=1, entries=[b"one"]),
        write("save", b"more", seq=2),
        write("begin", b"second", episode=1),
        write("put", b"other", seq=1, entries=[b"e"]),
        write("create", b"new", env_id="007-new"),
    ]
    close, forgotten = write("close", b"idle", env_id=others[0]), write("close", b"idle", env_id="007-none")
    assert await owner.write(*growing) == ["full"] * 6
    assert await owner.write(forgotten) == [None]
    # Also behind what made room, and with others before and after it.
    assert await owner.write(growing[0], close, *growing) == ["full", None, *["full"] * 6]
    assert await loaded(case) == before
    assert (await loaded(case, others[0])).closed_as == "idle"
    assert (await loaded(case, "007-none")).closed_as == "idle"
    assert await loaded(case, "007-new") == NOTHING
    assert sorted(await case.log.env_ids([SLOT])) == [ENV, others[1]]
    case.fill(False)
    assert await owner.write(growing[0], growing[5]) == [None, None]
    assert len((await loaded(case)).entries) == 2


async def test_only_the_owner_ends_environments_in_a_full_store(case: StoreCase, owner: Owner) -> None:
    await owner.write(write("create", b"first"))
    heir, store = worker(), case.connect()
    await store.heartbeat(heir, TTL_S)
    await case.install(store, await store.hand_off({heir.incarnation: {SLOT: owner.tokens[SLOT]}}))
    case.fill(True)
    assert await owner.write(write("close", b"idle"), write("append", b"x")) == ["moved", "moved"]
    assert (await loaded(case)).header == b"first"


async def test_a_thousand_writes_in_all_slots_at_once(case: StoreCase, store: Store) -> None:
    record = worker()
    await store.heartbeat(record, TTL_S)
    tokens = await store.claim(record.incarnation, range(4096))
    await case.install(store, tokens)
    writes = [write("create", b"x", env_id=f"{slot:03x}-n", slot=slot) for slot in range(4096)]
    assert await case.log.commit(await store.generation(), tokens, writes) == []
    assert len(await case.log.env_ids(range(4096))) == 4096


def test_refusals_name_positions() -> None:
    assert Refusal(3, "gone").position == 3


# --- results of tasks --------------------------------------------------------------------------------------


def result(run: str = "run", task: str = "lake@1", success: bool = False, reward: float = 0.25) -> bytes:
    return TaskResult(run, task, success, reward).to_bytes()


async def results(case: StoreCase, run: str = "run") -> dict[str, TaskStatistics]:
    """All pages together."""
    found: dict[str, TaskStatistics] = {}
    cursor: str | None = "0"
    while cursor is not None:
        page = await case.log.results(run, cursor)
        found |= {each.task: each for each in page.statistics}
        cursor = page.next_cursor
    return found


async def test_result_of_an_episode_is_counted_once(case: StoreCase, owner: Owner) -> None:
    first = write("result", result(success=True, reward=0.1))
    assert await owner.write(write("create"), first, first) == [None] * 3
    second = write("result", result(reward=0.2), episode=1)
    assert await owner.write(write("begin", episode=1), second) == [None] * 2
    # A late copy of the first.
    assert await owner.write(first, second) == [None] * 2
    assert await results(case) == {"lake@1": TaskStatistics("lake@1", 2, 1, 0.1 + 0.2)}
    assert await results(case, "other run") == {}


async def test_results_stay_when_their_environment_is_closed(case: StoreCase, owner: Owner) -> None:
    counted = write("result", result(task="of two words"))
    assert await owner.write(write("create"), counted, write("close", b"closed")) == [None] * 3
    assert await owner.write(counted) == ["closed"]
    assert (await results(case))["of two words"].tries == 1


async def test_result_of_an_environment_that_is_not_kept_is_refused(case: StoreCase, owner: Owner) -> None:
    assert await owner.write(write("result", result())) == ["gone"]
    assert await results(case) == {}


async def test_environment_that_is_said_again_is_not_counted_again(case: StoreCase, owner: Owner) -> None:
    counted = write("result", result())
    await owner.write(write("create"), counted, write("put", b"{}", seq=1, entries=(b"a\nb\nc",)))
    assert await owner.write(counted) == [None]
    assert (await results(case))["lake@1"].tries == 1


async def test_many_tasks_come_in_pages(case: StoreCase, owner: Owner) -> None:
    count = 2_500
    for number in range(count):
        env_id = f"007-{number}"
        mine = write("result", result(task=f"lake@{number}", reward=-1e300 / 3), env_id=env_id)
        assert await owner.write(write("create", env_id=env_id), mine) == [None] * 2
    found = await results(case)
    assert len(found) == count
    assert set(found.values()) == {
        TaskStatistics(f"lake@{number}", 1, 0, -1e300 / 3) for number in range(count)
    }
