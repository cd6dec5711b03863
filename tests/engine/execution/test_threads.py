"""Threads that can be given up."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.steered import SteeredLoop, pass_time
from tests.waiting import NEVER_S, until
from verl_agent_env.engine.execution.threads import ForeignExitError, StuckCallError, ThreadRunner
from verl_agent_env.errors import AtCapacityError
from verl_agent_env.turns import Caller, current_caller

LIMIT_S = 100.0
"""Of a call: nobody waits so long, tests put the clock forward."""


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


async def get_stuck(
    runner: ThreadRunner, gate: threading.Event, late: Callable[[object], None] | None = None
) -> None:
    """Have a call exceed its time, which returns ``True`` when the gate opens."""
    begun = threading.Event()

    def call() -> bool:
        begun.set()
        return gate.wait(NEVER_S)

    running = asyncio.create_task(runner.run(call, LIMIT_S, late))
    await until(begun.is_set)
    await pass_time(LIMIT_S)
    with pytest.raises(StuckCallError):
        await running


async def test_result_comes_from_another_thread() -> None:
    runner = ThreadRunner(2, 2)
    assert await runner.run(threading.get_ident, NEVER_S) != threading.get_ident()
    runner.stop()


async def test_idle_thread_is_used_again() -> None:
    runner = ThreadRunner(4, 2)
    names = {await runner.run(threading.get_ident, NEVER_S) for _ in range(20)}
    assert len(names) == 1
    runner.stop()


async def test_no_more_threads_at_work_than_allowed(gate: threading.Event) -> None:
    runner = ThreadRunner(3, 2)
    lock, at_work, most = threading.Lock(), 0, 0

    def call() -> None:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        time.sleep(0.005)
        with lock:
            at_work -= 1

    await asyncio.gather(*(runner.run(call, NEVER_S) for _ in range(12)))
    assert most == 3
    runner.stop()


async def test_one_call_does_not_wait_for_a_whole_batch(gate: threading.Event) -> None:
    runner = ThreadRunner(1, 1)
    ended: list[str] = []

    def call(name: str) -> None:
        gate.wait(20.0)
        ended.append(name)

    async def batch() -> None:
        current_caller.set(Caller())
        await asyncio.gather(*(runner.run(lambda: call("of the batch"), 60.0) for _ in range(50)))

    many = asyncio.create_task(batch())
    await asyncio.sleep(0.01)
    single = asyncio.create_task(runner.run(lambda: call("single"), 60.0))
    await asyncio.sleep(0.01)
    gate.set()
    await asyncio.gather(many, single)
    assert ended.index("single") <= 2
    assert len(ended) == 51
    runner.stop()


@pytest.mark.parametrize("raised", [ValueError, TimeoutError, LookupError])
async def test_error_comes_out_unchanged(raised: type[Exception]) -> None:
    runner = ThreadRunner(1, 1)

    def call() -> None:
        raise raised

    with pytest.raises(raised):
        await runner.run(call, NEVER_S)
    assert runner.stuck == 0
    runner.stop()


@pytest.mark.parametrize(
    "raised", [StopIteration, SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit]
)
async def test_way_out_becomes_an_error(raised: type[BaseException]) -> None:
    runner = ThreadRunner(1, 1)

    def call() -> None:
        raise raised

    with pytest.raises(ForeignExitError) as caught:
        await runner.run(call, NEVER_S)
    assert caught.value.name == raised.__name__
    assert await runner.run(lambda: 7, NEVER_S) == 7
    runner.stop()


async def test_stuck_thread_is_replaced_and_counted_until_it_returns(gate: threading.Event) -> None:
    runner = ThreadRunner(1, 2)
    await get_stuck(runner, gate)
    assert runner.stuck == 1
    assert await runner.run(lambda: 7, NEVER_S) == 7
    gate.set()
    await until(lambda: runner.stuck == 0)
    runner.stop()


async def test_too_many_stuck_threads_refuse_more(gate: threading.Event) -> None:
    runner = ThreadRunner(4, 2)
    for _ in range(2):
        await get_stuck(runner, gate)
    with pytest.raises(AtCapacityError) as caught:
        await runner.run(lambda: 7, NEVER_S)
    assert caught.value.limit == 2
    gate.set()
    await until(lambda: runner.stuck == 0)
    assert await runner.run(lambda: 7, NEVER_S) == 7
    runner.stop()


async def test_waiting_for_a_free_thread_does_not_count_as_time_out(gate: threading.Event) -> None:
    runner = ThreadRunner(1, 1)
    first = asyncio.create_task(runner.run(gate.wait, 10 * LIMIT_S))
    others = [asyncio.create_task(runner.run(lambda: 7, LIMIT_S)) for _ in range(3)]
    await pass_time(5 * LIMIT_S)
    gate.set()
    assert await asyncio.gather(first, *others) == [True, 7, 7, 7]
    assert runner.stuck == 0
    runner.stop()


async def test_late_outcome_is_handed_over_in_its_thread(gate: threading.Event) -> None:
    runner = ThreadRunner(1, 2)
    late: list[tuple[object, str]] = []

    await get_stuck(runner, gate, lambda result: late.append((result, threading.current_thread().name)))
    assert late == []
    gate.set()
    await until(lambda: runner.stuck == 0)
    assert late == [(True, "env-call")]
    runner.stop()


async def test_late_error_of_the_follow_up_harms_nobody(gate: threading.Event) -> None:
    runner = ThreadRunner(1, 2)

    def fail(_: object) -> None:
        raise SystemExit

    await get_stuck(runner, gate, fail)
    gate.set()
    await until(lambda: runner.stuck == 0)
    runner.stop()


async def test_call_that_ends_in_the_moment_of_its_time_out_has_its_outcome() -> None:
    runner = ThreadRunner(1, 1)
    returned = threading.Event()

    def call() -> int:
        returned.set()
        return 7

    loop = asyncio.get_running_loop()
    assert isinstance(loop, SteeredLoop)

    def hold_the_loop() -> None:
        # The call ends and its time runs out before the loop sees either.
        returned.wait(NEVER_S)
        time.sleep(0.05)
        loop.put_forward(LIMIT_S)

    loop.call_soon(lambda: loop.call_soon(hold_the_loop))
    task = asyncio.create_task(runner.run(call, LIMIT_S))
    assert await task == 7
    assert runner.stuck == 0
    assert await runner.run(lambda: 8, NEVER_S) == 8
    runner.stop()


async def test_cancelled_caller_gives_the_thread_up(gate: threading.Event) -> None:
    runner = ThreadRunner(1, 2)
    started, late = threading.Event(), threading.Event()

    def call() -> None:
        started.set()
        gate.wait(NEVER_S)

    task = asyncio.create_task(runner.run(call, NEVER_S, lambda _: late.set()))
    await until(started.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert runner.stuck == 1
    gate.set()
    await until(lambda: runner.stuck == 0)
    assert late.is_set()
    runner.stop()


async def test_call_cancelled_in_the_moment_it_ends_is_followed_up() -> None:
    runner = ThreadRunner(1, 1)
    returned, late = threading.Event(), threading.Event()

    def call() -> int:
        returned.set()
        return 7

    def cancel_when_it_ended() -> None:
        returned.wait(NEVER_S)
        time.sleep(0.05)
        task.cancel()

    task = asyncio.create_task(runner.run(call, NEVER_S, lambda _: late.set()))
    asyncio.get_running_loop().call_soon(cancel_when_it_ended)
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(late.is_set)
    assert runner.stuck == 0
    runner.stop()


async def test_call_cancelled_before_or_after_it_begins_is_followed_up_once() -> None:
    runner = ThreadRunner(2, 200)
    late: list[int] = []
    for i in range(50):
        task = asyncio.create_task(runner.run(lambda: None, NEVER_S, lambda _, i=i: late.append(i)))  # type: ignore[misc]
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await until(lambda: len(late) >= 50)
    await until(lambda: runner.stuck == 0)
    assert sorted(late) == list(range(50))
    assert await runner.run(lambda: 7, NEVER_S) == 7
    runner.stop()


async def test_machine_without_threads_is_at_capacity(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = ThreadRunner(2, 2)

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(AtCapacityError):
            await runner.run(lambda: 7, NEVER_S)
    assert await runner.run(lambda: 7, NEVER_S) == 7
    runner.stop()


async def test_stop_ends_the_threads(gate: threading.Event) -> None:
    runner = ThreadRunner(3, 2)
    # By identity: threads of earlier tests may end at any moment.
    before = set(threading.enumerate())
    calls = [asyncio.ensure_future(runner.run(gate.wait, NEVER_S)) for _ in range(3)]
    await until(lambda: len(set(threading.enumerate()) - before) == 3)
    started = set(threading.enumerate()) - before
    gate.set()
    await asyncio.gather(*calls)
    runner.stop()
    await until(lambda: not any(thread.is_alive() for thread in started))
