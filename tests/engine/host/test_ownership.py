"""A worker concludes nothing about an environment that it cannot write: it may be another one's by now."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests import batch_calls
from tests.engine.awaiting import ask
from tests.engine.conftest import FakeClock
from tests.engine.ownership import Owner, Owners
from tests.engine.probes import Controls
from tests.waiting import until
from verl_agent_env.engine import CreateRequest, Host, await_maybe, inspection
from verl_agent_env.engine.host.batches import Batches
from verl_agent_env.envs.registry import Registry
from verl_agent_env.errors import (
    EnvironmentClosedError,
    EnvironmentFailedError,
    EnvironmentNotFoundError,
    MovedError,
)
from verl_agent_env.types import NUM_SLOTS, new_env_id, slot_of
from verl_agent_env.wire.results import EncodedStep

TTL_S = 8.0
OFFLOADED = ["thread", "async"]
VERBS: dict[str, Callable[[Host, str], Coroutine[Any, Any, Any]]] = {
    "step": lambda host, env_id: ask(host.step, env_id, "5", 2),
    "repeated step": lambda host, env_id: ask(host.step, env_id, "wait", 1),
    "reset": lambda host, env_id: ask(host.reset, env_id),
    "read": lambda host, env_id: inspection.read_env(host, env_id, lambda env: env.total),
    "batch": lambda host, env_id: _only(batch_calls.step(host, [env_id], ["5"], [2])),
}

Create = Callable[..., Any]
Begun = Callable[..., Awaitable[None]]


async def _only(batch: Awaitable[list[Any]]) -> Any:
    (result,) = await batch
    if isinstance(result, Exception):
        raise result
    return result


@pytest.fixture
async def owners(registry: Registry, controls: Controls, clock: FakeClock) -> AsyncIterator[Owners]:
    made = Owners(registry, clock)
    yield made
    controls.broken.clear()
    controls.gate.set()
    await made.aclose()


async def turns_until(condition: Callable[[], bool]) -> None:
    """Let the loop turn, no more often than it takes."""
    while not condition():  # noqa: ASYNC110 - a timer would come too late
        await asyncio.sleep(0)


async def still_waiting(*calls: asyncio.Task[Any]) -> None:
    """Let the loop turn; none of the calls comes to its end by itself."""
    done, _ = await asyncio.wait(calls, timeout=0.1)
    assert not done


# --- calls that wait while the slot moves ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", OFFLOADED)
@pytest.mark.parametrize("verb", VERBS)
async def test_call_that_waited_behind_another_one_goes_to_the_new_owner(
    owners: Owners, create: Create, begun: Begun, controls: Controls, kind: str, verb: str
) -> None:
    old, new = await owners.join(), await owners.join()
    env_id = await create(old.host, kind, 10)
    await await_maybe(old.host.step(env_id, "1", 0))
    first = asyncio.create_task(ask(old.host.step, env_id, "wait", 1))
    await begun()
    second = asyncio.create_task(VERBS[verb](old.host, env_id))
    await still_waiting(first, second)
    await owners.move_to(new)
    await old.hear()
    controls.gate.set()
    for call in (first, second):
        with pytest.raises(MovedError) as caught:
            await call
        assert caught.value.slot == slot_of(env_id)
    await await_maybe(new.host.step(env_id, "wait", 1))
    await VERBS[verb](new.host, env_id)


@pytest.mark.parametrize("kind", OFFLOADED)
async def test_call_that_waited_uses_nothing_from_memory_once_the_lease_is_over(
    owners: Owners, create: Create, begun: Begun, controls: Controls, kind: str
) -> None:
    old = await owners.join()
    env_id = await create(old.host, kind, 10)
    first = asyncio.create_task(ask(old.host.step, env_id, "wait", 0))
    await begun()
    second = asyncio.create_task(ask(old.host.step, env_id, "1", 1))
    await still_waiting(first, second)
    old.slots.has_lease = False
    controls.gate.set()
    with pytest.raises(MovedError):
        await second
    # Its token still stands: what was written under it counts.
    assert (await first).reward == 0.5


@pytest.mark.parametrize("kind", OFFLOADED)
async def test_step_of_a_copy_whose_slot_went_and_came_home_does_not_count(
    owners: Owners, create: Create, begun: Begun, controls: Controls, kind: str
) -> None:
    old, new = await owners.join(), await owners.join()
    env_id = await create(old.host, kind, 10)
    step = asyncio.create_task(ask(old.host.step, env_id, "wait", 0))
    await begun()
    for owner in (new, old):
        await owners.move_to(owner)
        # It is live again, as the log has it.
        await inspection.read_env(owner.host, env_id, lambda env: env.total)
    controls.gate.set()
    with pytest.raises(MovedError):
        await step
    assert (await owners.log.load([env_id]))[0].entries == []
    await await_maybe(old.host.step(env_id, "1", 0))


@pytest.mark.parametrize("durability", ["journal", "relaxed"])
@pytest.mark.parametrize("kind", OFFLOADED)
async def test_environment_made_while_its_slot_went_away_is_nowhere(
    owners: Owners, begun: Begun, controls: Controls, kind: str, durability: Any
) -> None:
    old, new = await owners.join({f"probe/{kind}-v0": durability}), await owners.join()
    env_id = new_env_id(7)
    controls.holds_resets = True
    making = asyncio.create_task(ask(old.host.create, CreateRequest(f"probe/{kind}-v0", 1, env_id=env_id)))
    await begun()
    await owners.move_to(new)
    await old.hear()
    controls.gate.set()
    with pytest.raises(MovedError):
        await making
    assert old.host.env_table.get(env_id) is None
    assert old.host.env_table.in_slot[7] == 0
    await await_maybe(new.host.create(CreateRequest(f"probe/{kind}-v0", 1, env_id=env_id)))


@pytest.mark.parametrize("kind", OFFLOADED)
async def test_environment_made_while_its_slot_went_and_came_home_gives_way_to_what_lives_under_its_id(
    owners: Owners, begun: Begun, controls: Controls, kind: str
) -> None:
    old, new = await owners.join(), await owners.join()
    request = CreateRequest(f"probe/{kind}-v0", 1, env_id=new_env_id(7))
    controls.holds_resets = True
    making = asyncio.create_task(ask(old.host.create, request))
    await begun()
    controls.holds_resets = False
    await owners.move_to(new)
    env_id, _ = await await_maybe(new.host.create(request))
    expected = [await await_maybe(new.host.step(env_id, "1", seq)) for seq in range(2)]
    # It hears of both moves at once.
    await owners.move_to(old)
    controls.gate.set()
    with pytest.raises(MovedError):
        await making
    assert (await await_maybe(old.host.step(env_id, "1", 1))).to_json() == expected[1].to_json()


@pytest.mark.parametrize("kind", ["inline", *OFFLOADED])
async def test_relaxed_step_is_answered_by_the_owner_only(owners: Owners, create: Create, kind: str) -> None:
    name = f"probe/{kind}-v0"
    old, new = await owners.join({name: "relaxed"}), await owners.join({name: "relaxed"})
    env_id = await create(old.host, kind, 10)
    await old.journal.flush()
    old.cut()
    await owners.move_to(new)
    with pytest.raises(MovedError):
        await await_maybe(old.host.step(env_id, "1", 0))
    (refused,) = await batch_calls.step(old.host, [env_id], ["1"], [0])
    assert isinstance(refused, MovedError)
    old.log.is_cut = False
    (not_made,) = await batch_calls.create(old.host, [CreateRequest(name, 1, env_id=new_env_id(7))])
    assert isinstance(not_made, MovedError)
    assert (
        await await_maybe(new.host.step(env_id, "2", 0))
    ).observation == b'[{"role":"user","content":"12"}]'


# --- faults ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_heard", [False, True])
@pytest.mark.parametrize("kind", OFFLOADED)
async def test_fault_of_a_stale_copy_says_nothing_of_the_environment(
    owners: Owners, create: Create, begun: Begun, controls: Controls, kind: str, has_heard: bool
) -> None:
    # So little of the history is kept that the copy cannot be built anew: its own worker would call it lost.
    old, new = await owners.join(max_journal_bytes=1), await owners.join()
    env_id = await create(old.host, kind, 10)
    await await_maybe(old.host.step(env_id, "1", 0))
    step = asyncio.create_task(ask(old.host.step, env_id, "wait", 1))
    await begun()
    controls.broken.add("woken")
    old.cut()
    await owners.move_to(new)
    if has_heard:
        await old.hear()
    controls.gate.set()
    with pytest.raises(MovedError):
        await step
    assert old.host.env_table.get(env_id) is None
    controls.broken.clear()
    assert (
        await await_maybe(new.host.step(env_id, "wait", 1))
    ).observation == b'[{"role":"user","content":"11"}]'
    # Home again, it goes on where the other worker left it.
    await owners.move_to(old)
    assert (
        await await_maybe(old.host.step(env_id, "4", 2))
    ).observation == b'[{"role":"user","content":"15"}]'


# --- idle environments -----------------------------------------------------------------------------------------


async def used_elsewhere(owners: Owners, new: Owner, env_id: str, clock: FakeClock) -> None:
    """The environment's client goes on at its new owner, which looks for idle ones meanwhile."""
    await owners.move_to(new)
    for seq in range(1, 5):
        clock.now += TTL_S / 2
        await await_maybe(new.host.step(env_id, "1", seq))
        assert await new.host.reap() == 0


async def test_stale_owner_does_not_close_what_lives_elsewhere(
    owners: Owners, create: Create, clock: FakeClock
) -> None:
    old, new = await owners.join(), await owners.join()
    env_id = await create(old.host, "inline", 10, ttl_s=TTL_S)
    await await_maybe(old.host.step(env_id, "1", 0))
    old.cut()
    await owners.move_to(new)
    for seq in range(1, 5):
        clock.now += TTL_S / 2
        await await_maybe(new.host.step(env_id, "1", seq))
        assert await old.host.reap() == 0
    await owners.move_to(old)
    assert (
        await await_maybe(old.host.step(env_id, "1", 5))
    ).observation == b'[{"role":"user","content":"16"}]'
    assert not [reason for _, reason in old.host.env_table.closed if reason == "idle"]


async def test_time_without_a_lease_does_not_make_an_environment_idle(
    owners: Owners, create: Create, clock: FakeClock
) -> None:
    owner = await owners.join()
    env_id = await create(owner.host, "inline", 10, ttl_s=TTL_S)
    owner.cut()
    for _ in range(8):
        clock.now += TTL_S / 2
        assert await owner.host.reap() == 0
    # The store is back, and nobody else was here.
    await owner.hear()
    assert await owner.host.reap() == 0
    await await_maybe(owner.host.step(env_id, "1", 0))
    clock.now += TTL_S * 1.1
    assert await owner.host.reap() == 1
    with pytest.raises(EnvironmentClosedError):
        await await_maybe(owner.host.step(env_id, "1", 1))


async def test_end_that_could_not_be_written_in_time_is_never_written(
    owners: Owners, create: Create, clock: FakeClock
) -> None:
    old, new = await owners.join(), await owners.join()
    env_id = await create(old.host, "inline", 10, ttl_s=TTL_S)
    await await_maybe(old.host.step(env_id, "1", 0))
    clock.now += TTL_S * 1.1
    old.log.is_cut = True
    # It is idle, and the lease still good: only the write does not arrive.
    assert await old.host.reap() == 1
    await asyncio.sleep(0.1)
    assert not old.host.env_table.was_closed(env_id)
    old.cut()
    await used_elsewhere(owners, new, env_id, clock)
    await owners.move_to(old)
    await old.journal.flush()
    assert (
        await await_maybe(old.host.step(env_id, "1", 5))
    ).observation == b'[{"role":"user","content":"16"}]'


# --- closing ---------------------------------------------------------------------------------------------------


async def test_close_is_acknowledged_when_it_is_written_and_not_before(
    owners: Owners, create: Create
) -> None:
    owner = await owners.join()
    env_ids = [await create(owner.host, "inline", 10) for _ in range(2)]
    await owner.journal.flush()
    owner.log.is_cut = True
    calls = [
        asyncio.create_task(ask(owner.host.close, env_ids[0])),
        asyncio.create_task(ask(owner.host.close, env_ids[0])),
        asyncio.create_task(batch_calls.close(owner.host, env_ids)),
        asyncio.create_task(batch_calls.close(owner.host, env_ids)),
    ]
    await still_waiting(*calls)
    owner.log.is_cut = False
    assert [await call for call in calls] == [None, None, (2, []), (2, [])]
    assert [saved.closed_as for saved in await owners.log.load(env_ids)] == ["closed", "closed"]
    assert len(owner.host.env_table) == 0


async def test_close_of_a_stale_copy_reaches_the_owner(owners: Owners, create: Create) -> None:
    old, new = await owners.join(), await owners.join()
    env_ids = [await create(old.host, "inline", 10) for _ in range(3)]
    await owners.move_to(new)
    with pytest.raises(MovedError):
        await await_maybe(old.host.close(env_ids[0]))
    closed, errors = await batch_calls.close(old.host, env_ids[1:])
    assert closed == 0
    assert [type(error) for _, error in errors] == [MovedError] * 2
    await await_maybe(new.host.step(env_ids[0], "1", 0))
    await owners.move_to(old)
    # It remembers nothing of having closed them.
    for env_id, seq in zip(env_ids, (1, 0, 0), strict=True):
        await await_maybe(old.host.step(env_id, "1", seq))


async def test_what_was_closed_is_not_remembered_once_others_owned_the_slot(
    owners: Owners, create: Create
) -> None:
    old, new = await owners.join(), await owners.join()
    env_id = await create(old.host, "inline", 10)
    kept = await owners.log.load([env_id])
    await await_maybe(old.host.close(env_id))
    assert old.host.env_table.was_closed(env_id)
    await owners.move_to(new)
    await old.hear()
    assert not old.host.env_table.was_closed(env_id)
    with pytest.raises(EnvironmentClosedError):
        await await_maybe(new.host.step(env_id, "1", 0))
    assert kept[0].closed_as is None


async def test_environment_whose_end_is_on_its_way_is_repersisted_as_ended_in_an_emptied_store(
    owners: Owners, create: Create
) -> None:
    owner = await owners.join()
    env_id = await create(owner.host, "inline", 10)
    owner.log.is_cut = True
    closing = asyncio.create_task(ask(owner.host.close, env_id))
    await still_waiting(closing)
    await owners.empty()
    commits = owner.log.commits
    owner.log.is_cut = False
    await until(lambda: owner.log.commits > commits)
    await owner.hear()
    await closing
    assert (await owners.log.load([env_id]))[0].closed_as == "closed"
    with pytest.raises(EnvironmentClosedError):
        await await_maybe(owner.host.step(env_id, "1", 0))


async def test_run_is_closed_in_the_slots_that_stay_and_in_no_others(owners: Owners, create: Create) -> None:
    old, new = await owners.join(), await owners.join()
    env_ids = [await create(old.host, "inline", 10, run_id="run") for _ in range(8)]
    done = await Batches(old.host).close_run_of_slots("run")
    assert (done.closed, len(done.slots)) == (8, NUM_SLOTS)
    env_ids = [await create(old.host, "inline", 10, run_id="run") for _ in range(8)]
    # Its copies are old: it says of no slot that the run is over there.
    await owners.move_to(new)
    done = await Batches(old.host).close_run_of_slots("run")
    assert done.closed == 0
    assert {slot_of(env_id) for env_id in env_ids}.isdisjoint(done.slots)
    await old.hear()
    assert (await Batches(old.host).close_run_of_slots("run")).slots == set()
    assert await Batches(new.host).close_run_of_slots("run") == (8, set(range(NUM_SLOTS)))


async def test_run_is_not_over_in_slots_that_came_or_went_meanwhile(owners: Owners, create: Create) -> None:
    old, new = await owners.join(), await owners.join()
    env_id = await create(old.host, "inline", 10, run_id="run")
    await owners.move_to(new)
    new.log.is_held = True
    closing = asyncio.create_task(Batches(new.host).close_run_of_slots("run"))
    await still_waiting(closing)
    await owners.move_to(old)
    await new.hear()
    new.log.is_held = False
    assert (await closing).slots == set()
    await await_maybe(old.host.step(env_id, "1", 0))


# --- verdicts --------------------------------------------------------------------------------------------------


async def test_verdicts_of_a_worker_without_a_lease_are_no_answers(owners: Owners, create: Create) -> None:
    owner = await owners.join()
    env_id = await create(owner.host, "inline", 10)
    await await_maybe(owner.host.step(env_id, "1", 0))
    unknown = new_env_id(9)
    ids, actions, seqs = [env_id, env_id, unknown], ["1", "1", "1"], [0, 7, 0]
    told = await batch_calls.step(owner.host, ids, ["2", "1", "1"], seqs)
    assert [getattr(error, "code", "ok") for error in told] == [
        "sequence_conflict",
        "sequence_gap",
        "environment_not_found",
    ]
    owner.slots.has_lease = False
    told = await batch_calls.step(owner.host, ids, ["2", *actions[1:]], seqs)
    assert [type(error) for error in told] == [MovedError] * 3
    with pytest.raises(MovedError):
        await await_maybe(owner.host.step(unknown, "1", 0))


async def test_owner_s_own_verdicts_stand(owners: Owners, create: Create, controls: Controls) -> None:
    owner = await owners.join()
    env_id = await create(owner.host, "thread", 10)
    controls.broken.add("1")
    with pytest.raises(EnvironmentFailedError):
        await await_maybe(owner.host.step(env_id, "1", 0))
    with pytest.raises(EnvironmentNotFoundError):
        await await_maybe(owner.host.step(new_env_id(9), "1", 0))
    assert isinstance(await await_maybe(owner.host.step(env_id, "2", 0)), EncodedStep)


@asynccontextmanager
async def standing_still(host: Host) -> AsyncIterator[None]:
    """Let batches go on only afterwards, however long it takes."""
    turn, go_on = host.slices.turn, asyncio.Event()

    async def turn_later() -> None:
        await go_on.wait()
        await turn()

    host.slices.turn = turn_later  # type: ignore[method-assign]
    try:
        yield
    finally:
        host.slices.turn = turn  # type: ignore[method-assign]
        go_on.set()


async def leave_and_come_back(host: Host, env_id: str, others: str) -> None:
    """Move an environment away and back between two steps of another one, while a batch is carried out."""
    await turns_until(lambda: host.env_table.find(others).seq == 1)
    host.env_table.evict_moved(env_id)
    await turns_until(lambda: host.env_table.find(others).seq == 2)
    async with standing_still(host):
        await host.recoveries.ensure([env_id])


async def test_steps_of_a_batch_do_not_overtake_one_that_missed_its_environment(
    owners: Owners, create: Create
) -> None:
    # It lets others through after each item.
    host = (await owners.join(yield_after_s=1e-9)).host
    env_id, others = await create(host, "inline", 10), await create(host, "inline", 10)
    between = 100
    env_ids = [others, env_id, *[others] * between, env_id]
    batch = asyncio.create_task(batch_calls.step(host, env_ids, ["1"] * len(env_ids), None))
    await leave_and_come_back(host, env_id, others)
    assert host.env_table.find(others).seq < between
    results = await batch
    assert isinstance(results[1], MovedError)
    assert isinstance(results[-1], MovedError)
    assert host.env_table.find(env_id).seq == 0


@pytest.mark.parametrize("kind", OFFLOADED)
async def test_offloaded_steps_of_a_batch_do_not_overtake_one_that_missed_its_environment(
    kind: str, owners: Owners, create: Create
) -> None:
    """The environment leaves and comes back while the batch is read: its steps are meant for two copies of it."""
    host = (await owners.join(yield_after_s=1e-9)).host
    env_id, others = await create(host, kind, 10), await create(host, "inline", 10)
    between = 100
    env_ids = [env_id, *[others] * between, env_id, env_id]
    batch = asyncio.create_task(batch_calls.step(host, env_ids, ["1"] * len(env_ids), None))
    await leave_and_come_back(host, env_id, others)
    assert host.env_table.find(others).seq < between
    results = await batch
    assert [type(results[position]) for position in (0, -2, -1)] == [MovedError] * 3
    assert host.env_table.find(env_id).seq == 0
