"""Environments that raise, hang or give what cannot be sent: they hurt only themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from tests.engine.awaiting import ask
from tests.engine.conftest import KINDS
from tests.engine.probes import Controls
from tests.steered import SteeredLoop, pass_time
from tests.waiting import NEVER_S, until
from verl_agent_env.engine import CreateRequest, Host, await_maybe
from verl_agent_env.errors import (
    AtCapacityError,
    EnvironmentFailedError,
    EnvironmentLostError,
    EnvironmentTimeoutError,
)
from verl_agent_env.wire.results import EncodedReset, EncodedStep

REPLAYED = ["inline", "thread", "async"]
OTHERS = ["live_inline", "live", "async_live"]
# What a command raises, by the name that the caller is told.
FAULTS = {
    "raise": "ValueError",
    "exit": "SystemExit",
    "exhaust": "StopIteration",
    "own timeout": "TimeoutError",
    "nan": "ValueError",
    "object": "TypeError",
    "short": "ValueError",
}
WAYS_OUT = {"interrupt": "KeyboardInterrupt", "cancel": "CancelledError"}

LIMIT_S = 100.0
"""Of a step: nobody waits so long, tests put the clock forward."""

Create = Callable[..., Any]


def total(answer: EncodedStep | EncodedReset) -> int:
    return int(orjson.loads(answer.observation)[0]["content"])


# --- raising ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", REPLAYED)
@pytest.mark.parametrize("command", FAULTS)
async def test_failed_step_is_not_applied(
    host: Host, create: Create, controls: Controls, kind: str, command: str
) -> None:
    env_id = await create(host, kind, seed=10)
    await await_maybe(host.step(env_id, "1", 0))
    await await_maybe(host.step(env_id, "2", 1))
    with pytest.raises(EnvironmentFailedError) as caught:
        await await_maybe(host.step(env_id, command, 2))
    assert caught.value.env_id == env_id
    # A coroutine cannot pass on a StopIteration.
    expected = "RuntimeError" if (kind, command) == ("async", "exhaust") else FAULTS[command]
    assert caught.value.error == expected
    assert host.faults == {(f"probe/{kind}-v0", "exception"): 1}
    # It stands where it stood: the number is free, and so is the last answer.
    assert total(await await_maybe(host.step(env_id, "2", 1))) == 13
    assert total(await await_maybe(host.step(env_id, "4", 2))) == 17
    await host.stop()
    assert controls.counts["build"] == controls.counts["close"] == 2
    assert controls.overlaps == 0


@pytest.mark.parametrize("kind", OTHERS)
async def test_failed_step_loses_what_cannot_be_replayed(
    host: Host, create: Create, controls: Controls, kind: str
) -> None:
    env_id, other = await create(host, kind), await create(host, kind)
    with pytest.raises(EnvironmentLostError) as caught:
        await await_maybe(host.step(env_id, "raise", 0))
    assert "ValueError" in caught.value.reason
    for call in (ask(host.step, env_id, "1", 0), ask(host.reset, env_id), ask(host.read, env_id, str)):
        with pytest.raises(EnvironmentLostError):
            await call
    await await_maybe(host.step(other, "1", 0))
    host.close(env_id)
    await host.stop()
    assert controls.counts["close"] == 2


@pytest.mark.parametrize("command", WAYS_OUT)
async def test_way_out_taken_in_a_thread_is_a_failure(host: Host, create: Create, command: str) -> None:
    env_id = await create(host, "thread")
    with pytest.raises(EnvironmentFailedError) as caught:
        await await_maybe(host.step(env_id, command, 0))
    assert caught.value.error == WAYS_OUT[command]
    await await_maybe(host.step(env_id, "1", 0))


async def test_cancelled_task_of_an_environment_is_its_failure(host: Host, create: Create) -> None:
    env_id = await create(host, "async")
    with pytest.raises(EnvironmentFailedError) as caught:
        await await_maybe(host.step(env_id, "cancel", 0))
    assert caught.value.error == "CancelledError"
    await await_maybe(host.step(env_id, "1", 0))


@pytest.mark.parametrize("kind", KINDS)
async def test_numpy_values_are_numbers_and_lists(host: Host, create: Create, kind: str) -> None:
    answer = await await_maybe(host.step(await create(host, kind), "numpy"))
    assert answer.reward == 0.25
    assert orjson.loads(answer.info) == {"array": [0, 1, 2], "number": 7, "5": True}
    assert answer.terminated is False


@pytest.mark.parametrize("kind", REPLAYED)
async def test_rebuilt_environment_stands_after_its_options_too(
    host: Host, create: Create, kind: str
) -> None:
    env_id = await create(host, kind)
    await await_maybe(host.reset(env_id, 5, {"start": 70}))
    await await_maybe(host.step(env_id, "1", 0))
    with pytest.raises(EnvironmentFailedError):
        await await_maybe(host.step(env_id, "raise", 1))
    assert total(await await_maybe(host.step(env_id, "0", 1))) == 71


@pytest.mark.parametrize("kind", REPLAYED)
@pytest.mark.parametrize("broken", ["build", "reset", "1"])
async def test_environment_that_cannot_be_rebuilt_is_lost(
    host: Host, create: Create, controls: Controls, kind: str, broken: str
) -> None:
    env_id = await create(host, kind)
    await await_maybe(host.step(env_id, "1", 0))
    with pytest.raises(EnvironmentFailedError):
        await await_maybe(host.step(env_id, "raise", 1))
    controls.broken = {broken}
    with pytest.raises(EnvironmentLostError):
        await await_maybe(host.step(env_id, "2", 1))
    controls.broken = set()
    with pytest.raises(EnvironmentLostError):
        await await_maybe(host.step(env_id, "2", 1))
    await host.stop()
    assert controls.counts["close"] == (1 if broken == "build" else 2)


@pytest.mark.parametrize("kind", REPLAYED)
async def test_failed_reset_leaves_the_episode_where_it_stood(
    host: Host, create: Create, controls: Controls, kind: str
) -> None:
    env_id = await create(host, kind, seed=1)
    await await_maybe(host.step(env_id, "1", 0))
    controls.broken = {"reset"}
    with pytest.raises(EnvironmentFailedError):
        await await_maybe(host.reset(env_id, 9))
    controls.broken = set()
    assert total(await await_maybe(host.step(env_id, "1", 1))) == 3
    assert total(await await_maybe(host.reset(env_id, 9))) == 9


@pytest.mark.parametrize("kind", REPLAYED)
async def test_reset_brings_a_failed_environment_back(host: Host, create: Create, kind: str) -> None:
    env_id = await create(host, kind, seed=1)
    with pytest.raises(EnvironmentFailedError):
        await await_maybe(host.step(env_id, "raise", 0))
    assert total(await await_maybe(host.reset(env_id, 9))) == 9
    assert total(await await_maybe(host.step(env_id, "1", 0))) == 10


@pytest.mark.parametrize("kind", REPLAYED)
async def test_outgrown_history_means_a_failure_loses_the_environment(
    make_host: Callable[..., Host], create: Create, kind: str
) -> None:
    host = make_host(max_journal_bytes=8)
    env_id = await create(host, kind)
    for seq in range(3):
        await await_maybe(host.step(env_id, "1", seq))
    with pytest.raises(EnvironmentLostError):
        await await_maybe(host.step(env_id, "raise", 3))


# --- hanging ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["thread", "async"])
async def test_hanging_step_times_out_and_is_not_applied(
    make_host: Callable[..., Host], create: Create, hang: Create, controls: Controls, kind: str
) -> None:
    host = make_host(max_step_s=LIMIT_S)
    env_id, other = await create(host, kind, seed=10), await create(host, kind)
    await await_maybe(host.step(env_id, "1", 0))
    hanging = await hang(host, env_id, 1)
    await await_maybe(host.step(other, "1", 0))
    await pass_time(0.9 * LIMIT_S)
    assert not hanging.done()
    await pass_time(0.2 * LIMIT_S)
    with pytest.raises(EnvironmentTimeoutError) as caught:
        await hanging
    assert (caught.value.env_id, caught.value.max_step_s) == (env_id, LIMIT_S)
    assert host.faults == {(f"probe/{kind}-v0", "timeout"): 1}
    assert total(await await_maybe(host.step(env_id, "2", 1))) == 13
    controls.gate.set()
    await until(lambda: host.stuck_threads == 0)
    await await_maybe(host.step(env_id, "wait", 2))
    await host.stop()
    # The one that hung is closed as well, by its own thread when that came back, and by nobody before.
    assert controls.counts["build"] == controls.counts["close"] == 3
    assert controls.overlaps == 0


@pytest.mark.parametrize("kind", ["live", "async_live"])
async def test_hanging_step_loses_what_cannot_be_replayed(
    make_host: Callable[..., Host], create: Create, hang: Create, kind: str
) -> None:
    host = make_host(max_step_s=LIMIT_S)
    env_id = await create(host, kind)
    hanging = await hang(host, env_id, 0)
    await pass_time(LIMIT_S)
    with pytest.raises(EnvironmentLostError) as caught:
        await hanging
    assert f"{LIMIT_S:g} s" in caught.value.reason


async def test_stuck_threads_are_replaced_until_there_are_too_many(
    make_host: Callable[..., Host], create: Create, hang: Create, controls: Controls
) -> None:
    host = make_host(max_step_s=LIMIT_S, max_threads=1, max_stuck_threads=2)
    ids = [await create(host, "thread", seed=0) for _ in range(3)]
    for env_id in ids[:2]:
        hanging = await hang(host, env_id, 0)
        await pass_time(LIMIT_S)
        with pytest.raises(EnvironmentTimeoutError):
            await hanging
    assert host.stuck_threads == 2
    with pytest.raises(AtCapacityError):
        await await_maybe(host.step(ids[2], "1", 0))
    with pytest.raises(AtCapacityError):
        await await_maybe(host.step(ids[0], "1", 0))
    with pytest.raises(AtCapacityError):
        await create(host, "thread")
    assert len(host.env_table) == 3
    controls.gate.set()
    await until(lambda: host.stuck_threads == 0)
    assert [total(await await_maybe(host.step(env_id, "1", 0))) for env_id in ids] == [1, 1, 1]


async def test_full_threads_in_the_middle_of_a_rebuild_change_nothing(
    make_host: Callable[..., Host], create: Create, controls: Controls, begun: Create
) -> None:
    host = make_host(max_threads=2, max_stuck_threads=1)
    env_id, hanging = await create(host, "thread", seed=0), await create(host, "thread")
    for seq in range(3):
        await await_maybe(host.step(env_id, "1", seq))
    with pytest.raises(EnvironmentFailedError):
        await await_maybe(host.step(env_id, "raise", 3))
    stuck = asyncio.create_task(ask(host.step, hanging, "wait", 0))
    await begun()
    # The rebuild itself is under way when the threads run out.
    threads = host.executor._threads.of(host.env_table.find(env_id).kind)
    original = threads.run
    calls = 0

    async def run(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise AtCapacityError("stuck threads", 1)
        return await original(*arguments)

    threads.run = run  # type: ignore[assignment,method-assign]
    with pytest.raises(AtCapacityError):
        await await_maybe(host.step(env_id, "1", 3))
    threads.run = original  # type: ignore[method-assign]
    assert total(await await_maybe(host.step(env_id, "1", 3))) == 4
    controls.gate.set()
    await stuck


async def test_waiting_for_a_thread_is_no_time_out(
    make_host: Callable[..., Host], create: Create, hang: Create, controls: Controls
) -> None:
    host = make_host(max_step_s=LIMIT_S, max_threads=1)
    ids = [await create(host, "thread") for _ in range(4)]
    first = await hang(host, ids[0], 0)
    others = [asyncio.create_task(ask(host.step, env_id, "1", 0)) for env_id in ids[1:]]
    # All together take longer than any of them may.
    await pass_time(0.9 * LIMIT_S)
    controls.gate.set()
    await first
    await asyncio.gather(*others)
    assert not host.faults


async def test_each_call_of_a_rebuild_has_its_own_time(
    make_host: Callable[..., Host], create: Create, controls: Controls
) -> None:
    host = make_host(max_step_s=LIMIT_S)
    env_id = await create(host, "thread", seed=0)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SteeredLoop)

    def slow(timeout: float | None = None) -> bool:
        loop.put_forward(0.3 * LIMIT_S)
        return True

    controls.gate.wait = slow  # type: ignore[method-assign]
    for seq in range(5):
        await await_maybe(host.step(env_id, "wait", seq))
    with pytest.raises(EnvironmentFailedError):
        await await_maybe(host.step(env_id, "raise", 5))
    assert total(await await_maybe(host.step(env_id, "3", 5))) == 3


async def test_stuck_create_leaves_nothing(make_host: Callable[..., Host], controls: Controls) -> None:
    host = make_host(max_step_s=LIMIT_S)

    def slow(event: str) -> None:
        Controls.note(controls, event)
        if event == "reset":
            controls.gate.wait(NEVER_S)

    controls.note = slow  # type: ignore[method-assign]
    creating = asyncio.create_task(ask(host.create, CreateRequest("probe/thread-v0")))
    await until(lambda: controls.counts["reset"] == 1)
    await pass_time(LIMIT_S)
    with pytest.raises(EnvironmentTimeoutError):
        await creating
    assert len(host.env_table) == 0
    controls.gate.set()
    await until(lambda: host.stuck_threads == 0)
    assert controls.counts["close"] == 1


async def test_hanging_close_harms_nobody(
    make_host: Callable[..., Host], create: Create, controls: Controls
) -> None:
    host = make_host(max_step_s=LIMIT_S)
    env_id, other = await create(host, "thread"), await create(host, "thread")

    def slow(event: str) -> None:
        Controls.note(controls, event)
        if event == "close":
            controls.gate.wait(NEVER_S)

    controls.note = slow  # type: ignore[method-assign]
    host.close(env_id)
    await until(lambda: controls.counts["close"] == 1)
    await pass_time(LIMIT_S)
    await until(lambda: host.stuck_threads == 1)
    await await_maybe(host.step(other, "1", 0))
    controls.gate.set()


async def test_awaited_environment_leaves_the_loop_to_others(
    host: Host, create: Create, controls: Controls, begun: Create
) -> None:
    ids = [await create(host, "async", seed=0) for _ in range(20)]
    steps = [asyncio.create_task(ask(host.step, env_id, "wait", 0)) for env_id in ids]
    await begun(20)
    # All of them wait at once, in this thread.
    controls.gate.set()
    await asyncio.gather(*steps)
    assert controls.overlaps == 0
