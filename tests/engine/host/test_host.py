"""Calls on one environment, of every kind."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from types import CoroutineType
from typing import Any

import orjson
import pytest

from tests.engine.awaiting import ask
from tests.engine.conftest import KINDS, FakeClock
from tests.engine.probes import Controls
from tests.waiting import no_hang, until
from verl_agent_env.config import HostLimits
from verl_agent_env.engine import CreateRequest, Host, await_maybe, inspection
from verl_agent_env.envs.registry import Registry
from verl_agent_env.errors import (
    AtCapacityError,
    EnvironmentClosedError,
    EnvironmentFailedError,
    EnvironmentNotFoundError,
    EpisodeEndedError,
    IdempotencyKeyReusedError,
    InvalidRequestError,
    MemoryExhaustedError,
    RunQuotaExceededError,
    SequenceConflictError,
    SequenceGapError,
    SequenceStaleError,
    ShuttingDownError,
    UnknownEnvNameError,
)
from verl_agent_env.seeds import following_seed
from verl_agent_env.types import MANY_SLOTS, NUM_SLOTS, new_env_id, slot_of
from verl_agent_env.wire.results import EncodedReset, EncodedStep

every_kind = pytest.mark.parametrize("kind", KINDS)
apart = pytest.mark.parametrize("kind", ["thread", "live", "async", "async_live"])

Create = Callable[..., Any]


def total(answer: EncodedStep | EncodedReset) -> int:
    return int(orjson.loads(answer.observation)[0]["content"])


def deep(levels: int) -> Any:
    return orjson.loads(b"[" * levels + b"]" * levels)


def _then(first: Callable[[Any], None], second: Callable[[], object]) -> Callable[[Any], None]:
    def call(argument: Any) -> None:
        first(argument)
        second()

    return call


# --- create ----------------------------------------------------------------------------------------------------


@every_kind
async def test_create_begins_the_episode_of_the_seed(host: Host, kind: str) -> None:
    env_id, begin = await await_maybe(host.create(CreateRequest(f"probe/{kind}-v0", 41)))
    assert total(begin) == 41
    assert host.env_table.get(env_id) is not None


async def test_create_without_seed_draws_one(host: Host) -> None:
    seeds = {total((await await_maybe(host.create(CreateRequest("probe/inline-v0"))))[1]) for _ in range(8)}
    assert len(seeds) == 8


@pytest.mark.parametrize(("num_slots", "digits"), [(8, 3), (NUM_SLOTS, 3), (MANY_SLOTS, 4)])
async def test_ids_lie_in_all_slots_and_begin_with_their_digits(
    registry: Registry, num_slots: int, digits: int
) -> None:
    host = Host(registry, HostLimits(), num_slots=num_slots)
    made = [await await_maybe(host.create(CreateRequest("probe/inline-v0"))) for _ in range(64)]
    slots = {slot_of(env_id) for env_id, _ in made}
    assert max(slots) < num_slots
    assert len(slots) > 1
    assert {env_id.index("-") for env_id, _ in made} == {digits}
    assert len(host.owned_slots()) == num_slots
    await host.stop()


@pytest.mark.parametrize("kind", ["inline", "thread", "async"])
@pytest.mark.parametrize("broken", ["build", "reset"])
async def test_failed_create_leaves_nothing(host: Host, controls: Controls, kind: str, broken: str) -> None:
    controls.broken = {broken}
    with pytest.raises(EnvironmentFailedError) as caught:
        await await_maybe(host.create(CreateRequest(f"probe/{kind}-v0", run_id="run")))
    assert caught.value.error == "RuntimeError"
    assert len(host.env_table) == 0
    assert host.env_table.of_run("run") == []
    await host.stop()
    # What was built is closed again.
    assert controls.counts["close"] == (1 if broken == "reset" else 0)
    assert host.faults == {(f"probe/{kind}-v0", "exception"): 1}


async def test_unknown_name_is_told(host: Host) -> None:
    with pytest.raises(UnknownEnvNameError) as caught:
        await await_maybe(host.create(CreateRequest("probe/inlin-v0")))
    assert "probe/inline-v0" in caught.value.suggestions


async def test_kind_that_cannot_be_imported_fails_alone(host: Host) -> None:
    with pytest.raises(EnvironmentFailedError) as caught:
        await await_maybe(host.create(CreateRequest("probe/missing-v0")))
    assert caught.value.error == "ModuleNotFoundError"


@pytest.mark.parametrize("kind", ["inline", "thread"])
async def test_max_envs_refuses_one_more(make_host: Callable[..., Host], create: Create, kind: str) -> None:
    host = make_host(max_envs=2)
    first = await create(host, kind)
    await create(host, kind)
    with pytest.raises(AtCapacityError):
        await create(host, kind)
    host.close(first)
    await create(host, kind)


async def test_slow_environments_created_side_by_side_respect_the_limits(
    make_host: Callable[..., Host], create: Create
) -> None:
    host = make_host(max_envs=5, max_envs_per_run=3)
    requests = [CreateRequest("probe/thread-v0", i, run_id="run") for i in range(10)]
    results = await asyncio.gather(
        *(ask(host.create, request) for request in requests), return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, RunQuotaExceededError)]
    assert (len(host.env_table.of_run("run")), len(refused)) == (3, 7)
    others = await asyncio.gather(
        *(ask(host.create, CreateRequest("probe/async-v0", i)) for i in range(4)), return_exceptions=True
    )
    assert sum(isinstance(result, AtCapacityError) for result in others) == 2
    assert len(host.env_table) == 5


async def test_environments_share_nothing_that_they_change(host: Host) -> None:
    kwargs = {"cards": [1, 2, 3]}
    ids = [(await await_maybe(host.create(CreateRequest("probe/thread-v0", 1, kwargs))))[0] for _ in range(2)]
    for env_id in ids:
        answer = await await_maybe(host.step(env_id, "deal"))
        assert orjson.loads(answer.info)["card"] == 3
    assert kwargs == {"cards": [1, 2, 3]}


async def test_options_are_each_environments_own(host: Host, create: Create) -> None:
    options = {"start": 50}
    for kind in ("inline", "thread", "async"):
        env_id = await create(host, kind)
        assert total(await await_maybe(host.reset(env_id, 1, options))) == 50
    assert options == {"start": 50}


# --- the sequence protocol -----------------------------------------------------------------------------------


@every_kind
async def test_sequence_protocol(host: Host, create: Create, controls: Controls, kind: str) -> None:
    env_id = await create(host, kind, seed=0)
    first = await await_maybe(host.step(env_id, "1", 0))
    second = await await_maybe(host.step(env_id, "2", 1))
    assert (total(first), total(second)) == (1, 3)
    assert await await_maybe(host.step(env_id, "2", 1)) is second
    assert controls.counts["2"] == 1
    with pytest.raises(SequenceStaleError):
        await await_maybe(host.step(env_id, "1", 0))
    with pytest.raises(SequenceConflictError):
        await await_maybe(host.step(env_id, "9", 1))
    with pytest.raises(SequenceGapError):
        await await_maybe(host.step(env_id, "9", 3))
    assert total(await await_maybe(host.step(env_id, "4", 2))) == 7


@every_kind
@pytest.mark.parametrize("last", ["end", "cut"])
async def test_last_step_can_be_repeated_after_the_end(
    host: Host, create: Create, kind: str, last: str
) -> None:
    env_id = await create(host, kind)
    answer = await await_maybe(host.step(env_id, last, 0))
    assert (answer.terminated, answer.truncated) == (last == "end", last == "cut")
    assert await await_maybe(host.step(env_id, last, 0)) is answer
    with pytest.raises(EpisodeEndedError):
        await await_maybe(host.step(env_id, "1", 1))
    with pytest.raises(EpisodeEndedError):
        await await_maybe(host.step(env_id, "1"))
    await await_maybe(host.reset(env_id))
    await await_maybe(host.step(env_id, "1", 0))


@apart
async def test_repeat_joins_the_step_in_flight(
    host: Host, create: Create, controls: Controls, begun: Create, kind: str
) -> None:
    env_id = await create(host, kind)
    first = asyncio.create_task(ask(host.step, env_id, "wait", 0))
    await begun()
    again = asyncio.create_task(ask(host.step, env_id, "wait", 0))
    await asyncio.sleep(0.01)
    assert not again.done()
    controls.gate.set()
    assert await first is await again
    assert controls.counts["wait"] == 1


@apart
async def test_cancelled_caller_finds_its_step_done(
    host: Host, create: Create, controls: Controls, begun: Create, kind: str
) -> None:
    env_id = await create(host, kind, seed=0)
    caller = asyncio.create_task(ask(host.step, env_id, "wait", 0))
    await begun()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    controls.gate.set()
    await await_maybe(host.step(env_id, "wait", 0))
    assert total(await await_maybe(host.step(env_id, "5", 1))) == 5
    assert controls.counts["wait"] == 1
    assert controls.overlaps == 0


@pytest.mark.parametrize("when", ["during", "after"])
async def test_cancelled_create_leaves_nothing(host: Host, controls: Controls, when: str) -> None:
    host.registry.kind("probe/thread-v0")
    caller = asyncio.create_task(ask(host.create, CreateRequest("probe/thread-v0")))
    await asyncio.sleep(0)
    if when == "after":
        # It is made, but the caller has not been told yet.
        host.env_table.add = _then(host.env_table.add, caller.cancel)  # type: ignore[assignment,method-assign]
    else:
        caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await until(lambda: controls.counts["close"] == 1)
    assert len(host.env_table) == 0
    await host.stop()
    assert len(host.env_table) == 0
    assert controls.counts["close"] == controls.counts["build"] == 1


@every_kind
async def test_steps_of_one_environment_never_overlap(
    host: Host, create: Create, controls: Controls, kind: str
) -> None:
    ids = [await create(host, kind, seed=0) for _ in range(3)]
    calls = [ask(host.step, env_id, "1") for _ in range(15) for env_id in ids]
    answers = await asyncio.gather(*calls)
    assert controls.overlaps == 0
    assert [total(answer) for answer in answers] == [i for i in range(1, 16) for _ in ids]


@pytest.mark.parametrize("kind", ["inline", "thread"])
async def test_action_that_cannot_be_kept_is_refused(host: Host, create: Create, kind: str) -> None:
    env_id = await create(host, kind)
    with pytest.raises(InvalidRequestError) as caught:
        await await_maybe(host.step(env_id, deep(500), 0))
    assert caught.value.errors[0]["loc"] == ["action"]
    with pytest.raises(InvalidRequestError):
        await await_maybe(host.reset(env_id, 1, {"start": deep(500)}))
    await await_maybe(host.step(env_id, "1", 0))


# --- reset -----------------------------------------------------------------------------------------------------


@every_kind
async def test_first_reset_without_seed_shows_the_first_episode_and_each_later_one_goes_on(
    host: Host, create: Create, kind: str
) -> None:
    env_id, second = await create(host, kind, seed=7), following_seed(7)
    assert total(await await_maybe(host.reset(env_id))) == 7
    assert total(await await_maybe(host.reset(env_id))) == second
    await await_maybe(host.step(env_id, "1", 0))
    assert total(await await_maybe(host.reset(env_id))) == following_seed(second)
    # One that was stepped has been seen, without any reset.
    stepped = await create(host, kind, seed=7)
    await await_maybe(host.step(stepped, "1", 0))
    assert total(await await_maybe(host.reset(stepped))) == second
    assert total(await await_maybe(host.reset(env_id, 3))) == 3
    await await_maybe(host.step(env_id, "1", 0))


@every_kind
async def test_a_late_copy_of_a_reset_takes_no_step_away(host: Host, create: Create, kind: str) -> None:
    env_id = await create(host, kind, seed=7)
    assert total(await await_maybe(host.reset(env_id, 3, None, b"op-1"))) == 3
    await await_maybe(host.step(env_id, "1", 0))
    assert total(await await_maybe(host.reset(env_id, 3, None, b"op-1"))) == 3
    assert total(await await_maybe(host.step(env_id, "1", 1))) == 5
    assert total(await await_maybe(host.reset(env_id, 4, None, b"op-2"))) == 4
    await await_maybe(host.step(env_id, "1", 0))
    with pytest.raises(SequenceStaleError):
        await await_maybe(host.reset(env_id, 3, None, b"op-1"))
    assert total(await await_maybe(host.step(env_id, "1", 1))) == 6
    # Another one, and those without an id, begin whatever they are asked to.
    for operation in (b"op-3", b"", b""):
        await await_maybe(host.step(env_id, "1"))
        assert total(await await_maybe(host.reset(env_id, 5, None, operation))) == 5


@pytest.mark.parametrize("kind", ["inline", "thread", "async"])
async def test_refused_options_leave_the_episode_as_it_is(host: Host, create: Create, kind: str) -> None:
    env_id, _ = await await_maybe(host.create(CreateRequest("frozen_lake", 3, {"map_name": "4x4"})))
    before = await await_maybe(host.step(env_id, "right", 0))
    with pytest.raises(ValueError, match="options"):
        await await_maybe(host.reset(env_id, 4, {"no": "such"}))
    assert await await_maybe(host.step(env_id, "right", 0)) is before
    assert orjson.loads((await await_maybe(host.step(env_id, "down", 1))).info)["num_steps"] == 2


# --- close -----------------------------------------------------------------------------------------------------


@every_kind
async def test_closing_twice_is_a_success(host: Host, create: Create, controls: Controls, kind: str) -> None:
    env_id = await create(host, kind)
    host.close(env_id)
    host.close(env_id)
    for call in (ask(host.step, env_id, "1"), ask(host.reset, env_id), ask(host.read, env_id, str)):
        with pytest.raises(EnvironmentClosedError):
            await call
    await host.stop()
    assert controls.counts["close"] == 1
    assert controls.overlaps == 0


async def test_unknown_id_cannot_be_closed(host: Host) -> None:
    with pytest.raises(EnvironmentNotFoundError):
        host.close("000-none")


async def test_closed_id_is_forgotten_in_time(host: Host, create: Create, clock: FakeClock) -> None:
    env_id = await create(host, "inline")
    host.close(env_id)
    clock.now += host.limits.closed_memory_s + 1
    with pytest.raises(EnvironmentNotFoundError):
        await await_maybe(host.step(env_id, "1"))
    with pytest.raises(EnvironmentNotFoundError):
        host.close(env_id)


@apart
async def test_close_waits_for_the_step_under_way(
    host: Host, create: Create, controls: Controls, begun: Create, kind: str
) -> None:
    env_id = await create(host, kind, seed=3)
    step = asyncio.create_task(ask(host.step, env_id, "wait", 0))
    await begun()
    behind = asyncio.create_task(ask(host.step, env_id, "1", 1))
    await asyncio.sleep(0.005)
    host.close(env_id)
    controls.gate.set()
    assert total(await step) == 3
    with pytest.raises(EnvironmentClosedError):
        await behind
    await host.stop()
    assert controls.counts["close"] == 1
    assert controls.overlaps == 0


@pytest.mark.parametrize("kind", ["thread", "async"])
async def test_environment_rebuilt_while_it_is_closed_is_closed_too(
    host: Host, create: Create, controls: Controls, begun: Create, kind: str
) -> None:
    env_id = await create(host, kind)
    with pytest.raises(EnvironmentFailedError):
        await await_maybe(host.step(env_id, "raise", 0))
    step = asyncio.create_task(ask(host.step, env_id, "wait", 0))
    await begun()
    host.close(env_id)
    controls.gate.set()
    await step
    await host.stop()
    assert controls.counts["build"] == controls.counts["close"] == 2


@pytest.mark.parametrize("kind", ["inline", "thread", "async"])
async def test_without_memory_a_step_is_not_done_and_the_environment_goes_on(
    host: Host, create: Create, kind: str
) -> None:
    env_id = await create(host, kind, seed=7)
    await await_maybe(host.step(env_id, "1", 0))
    for _ in range(2):
        with pytest.raises(MemoryExhaustedError):
            await await_maybe(host.step(env_id, "out of memory", 1))
    assert total(await await_maybe(host.step(env_id, "1", 1))) == 9


@every_kind
async def test_environment_that_fails_to_close_is_gone_all_the_same(
    host: Host, create: Create, controls: Controls, kind: str
) -> None:
    controls.broken = {"close"}
    env_id = await create(host, kind)
    host.close(env_id)
    assert len(host.env_table) == 0
    await host.stop()
    assert controls.counts["close"] == 1


async def test_stop_closes_everything_and_takes_nothing_new(
    host: Host, create: Create, controls: Controls
) -> None:
    for kind in KINDS:
        await create(host, kind)
    await host.stop()
    assert len(host.env_table) == 0
    assert controls.counts["close"] == len(KINDS)
    with pytest.raises(ShuttingDownError):
        await create(host, "inline")


async def test_stop_does_not_wait_for_a_hanging_environment(
    host: Host, create: Create, controls: Controls, begun: Create
) -> None:
    env_id = await create(host, "thread")
    step = asyncio.create_task(ask(host.step, env_id, "wait"))
    await begun()
    async with no_hang():
        await host.stop(grace_s=0.05)
    with pytest.raises(asyncio.CancelledError):
        await step
    controls.gate.set()
    await until(lambda: host.stuck_threads == 0)
    assert controls.counts["close"] == 1
    assert controls.overlaps == 0


# --- idle environments ---------------------------------------------------------------------------------------


@every_kind
async def test_idle_environment_is_reaped_after_its_ttl(
    host: Host, create: Create, clock: FakeClock, kind: str
) -> None:
    short, long = await create(host, kind, ttl_s=10.0), await create(host, kind, ttl_s=20.0)
    clock.now += 10.0
    assert await host.reap() == 0
    clock.now += 0.1
    assert await host.reap() == 1
    with pytest.raises(EnvironmentClosedError) as caught:
        await await_maybe(host.step(short, "1"))
    assert caught.value.reason == "idle"
    assert host.env_table.ids() == [long]
    assert host.env_table.closed == {(f"probe/{kind}-v0", "idle"): 1}


@every_kind
async def test_environment_whose_creation_is_sent_again_is_not_reaped(
    host: Host, clock: FakeClock, kind: str
) -> None:
    request = CreateRequest(f"probe/{kind}-v0", 1, ttl_s=10.0, env_id=new_env_id(0))
    for _ in range(2):
        await await_maybe(host.create(request))
        clock.now += 6.0
        assert await host.reap() == 0
    clock.now += 6.0
    assert await host.reap() == 1


@every_kind
@pytest.mark.parametrize("use", ["step", "repeat", "reset", "repeated reset", "read", "trajectory"])
async def test_used_environment_is_not_reaped(
    host: Host, create: Create, clock: FakeClock, kind: str, use: str
) -> None:
    env_id = await create(host, kind, ttl_s=10.0)
    if use == "repeated reset":
        await await_maybe(host.reset(env_id, 1, operation=b"reset"))
    await await_maybe(host.step(env_id, "1", 0))
    clock.now += 6.0
    if use == "step":
        await await_maybe(host.step(env_id, "1", 1))
    elif use == "repeat":
        await await_maybe(host.step(env_id, "1", 0))
    elif use == "reset":
        await await_maybe(host.reset(env_id))
    elif use == "repeated reset":
        await await_maybe(host.reset(env_id, 1, operation=b"reset"))
        assert host.env_table.find(env_id).seq == 1
    elif use == "read":
        await await_maybe(host.read(env_id, lambda env: env.total))
    else:
        await inspection.trajectory(host, env_id)
    clock.now += 6.0
    assert await host.reap() == 0
    clock.now += 6.0
    assert await host.reap() == 1


async def test_default_ttl_holds_without_one(
    make_host: Callable[..., Host], create: Create, clock: FakeClock
) -> None:
    host = make_host(default_ttl_s=5.0)
    await create(host, "inline")
    clock.now += 5.5
    assert await host.reap() == 1


@apart
async def test_busy_environment_is_not_reaped(
    host: Host, create: Create, controls: Controls, clock: FakeClock, begun: Create, kind: str
) -> None:
    env_id = await create(host, kind, ttl_s=1.0)
    step = asyncio.create_task(ask(host.step, env_id, "wait"))
    await begun()
    clock.now += 100.0
    assert await host.reap() == 0
    controls.gate.set()
    await step
    # Its time begins when the step is done.
    assert await host.reap() == 0
    clock.now += 1.1
    assert await host.reap() == 1


async def rounds_during(call: Coroutine[Any, Any, object]) -> int:
    """How often the event loop comes round while a call is carried out."""
    rounds = 0

    async def come_round() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(come_round())
    await call
    other.cancel()
    return rounds


async def test_reaping_lets_others_through(make_host: Callable[..., Host], create: Create) -> None:
    host = make_host(yield_after_s=1e-9)
    for _ in range(50):
        await create(host, "inline")
    assert await rounds_during(host.reap()) > 20


async def test_first_actions_and_steps_that_are_played_again_let_others_through(
    make_host: Callable[..., Host], create: Create
) -> None:
    host = make_host(yield_after_s=1e-9)
    env_id = await create(host, "inline")
    assert await rounds_during(ask(host.begin_and_play, env_id, 3, None, ["1"] * 30, b"")) >= 30
    instance = host.env_table.find(env_id)
    env, _ = await host.executor.begin_again(instance.kind, instance.arguments, 3, None, None)
    playing = host.executor.play(instance.kind, env, [b'"1"'] * 30, lambda *_: None)
    assert await rounds_during(playing) >= 30


# --- environments under a given id ---------------------------------------------------------------------------

GIVEN = "00a-" + "0" * 32


@pytest.mark.parametrize("kind", KINDS)
async def test_an_environment_that_is_asked_for_twice_at_once_is_made_once(
    host: Host, controls: Controls, kind: str
) -> None:
    request = CreateRequest(f"probe/{kind}-v0", 7, env_id=GIVEN)
    made = await asyncio.gather(*(ask(host.create, request) for _ in range(4)))
    assert {env_id for env_id, _ in made} == {GIVEN}
    assert {total(answer) for _, answer in made} == {7}
    assert len(host.env_table) == 1
    assert total(await await_maybe(host.step(GIVEN, "1"))) == 8


@pytest.mark.parametrize("kind", ["live", "async_live"])
async def test_a_given_id_is_made_though_its_first_asker_went_away(
    host: Host, controls: Controls, kind: str
) -> None:
    request = CreateRequest(f"probe/{kind}-v0", 7, env_id=GIVEN)
    first = asyncio.create_task(ask(host.create, request))
    await asyncio.sleep(0)
    second = asyncio.create_task(ask(host.create, request))
    await asyncio.sleep(0)
    first.cancel()
    env_id, _ = await second
    assert controls.counts["build"] == 1
    assert host.env_table.get(env_id) is not None


@pytest.mark.parametrize("kind", KINDS)
async def test_what_was_made_is_answered_as_it_was_made_whatever_followed(host: Host, kind: str) -> None:
    request = CreateRequest(f"probe/{kind}-v0", 7, env_id=GIVEN)
    await await_maybe(host.create(request))
    await await_maybe(host.step(GIVEN, "1"))
    assert total((await await_maybe(host.create(request)))[1]) == 7
    await await_maybe(host.reset(GIVEN, 20))
    assert total((await await_maybe(host.create(request)))[1]) == 7
    assert host.env_table.find(GIVEN).episode == 1


@pytest.mark.parametrize(
    "other", [CreateRequest("probe/thread-v0", 7), CreateRequest("probe/inline-v0", 8)], ids=["name", "seed"]
)
async def test_another_environment_is_not_given_for_an_id(host: Host, other: CreateRequest) -> None:
    await await_maybe(host.create(CreateRequest("probe/inline-v0", 7, env_id=GIVEN)))
    with pytest.raises(IdempotencyKeyReusedError):
        await await_maybe(host.create(dataclasses.replace(other, env_id=GIVEN)))


async def test_call_on_an_inline_environment_gives_its_result_at_once(host: Host, create: Create) -> None:
    env_id = await create(host, "inline")
    assert isinstance(host.step(env_id, "1"), EncodedStep)
    assert isinstance(host.reset(env_id), EncodedReset)
    assert isinstance(host.create(CreateRequest("probe/inline-v0")), tuple)
    assert host.read(env_id, lambda _: "read") == "read"
    assert host.close(env_id) is None


@pytest.mark.parametrize("kind", ["thread", "async"])
async def test_offloaded_call_does_nothing_until_it_is_awaited(host: Host, create: Create, kind: str) -> None:
    env_id = await create(host, kind)
    for call in (host.step(env_id, "1"), host.reset(env_id), host.create(CreateRequest(f"probe/{kind}-v0"))):
        assert isinstance(call, CoroutineType)
        call.close()
    state = inspection.describe(host, env_id)
    assert (state["seq"], state["episode"], len(host.env_table), host.calls.under_way) == (0, 0, 1, set())
