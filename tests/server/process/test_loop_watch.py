"""What holds up the event loop is found and named."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from tests.waiting import until
from verl_agent_env.server.process.loop_watch import UNSEEN, LoopWatch

MAX_S = 0.1


@pytest.fixture
async def watch() -> AsyncIterator[LoopWatch]:
    watch = LoopWatch(MAX_S)
    task = asyncio.create_task(watch.run())
    await asyncio.sleep(0)
    yield watch
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def compute(seconds: float) -> None:
    """Keep a core busy for so long, as the system counts it."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


async def test_code_that_computes_is_named(watch: LoopWatch, caplog: pytest.LogCaptureFixture) -> None:
    compute(5 * MAX_S)
    await until(lambda: bool(watch.held_up))
    assert set(watch.held_up) == {f"{__name__}.compute"}
    assert watch.held_up.total() == 1
    await until(lambda: watch.longest_s >= 5 * MAX_S)
    assert "compute" in caplog.text


async def test_code_that_sleeps_is_named(watch: LoopWatch) -> None:
    def doze() -> None:
        time.sleep(5 * MAX_S)

    doze()
    await until(lambda: bool(watch.held_up))
    assert any("doze" in name for name in watch.held_up)


async def test_code_that_keeps_the_interpreter_is_counted(watch: LoopWatch) -> None:
    # One call in C, which no other thread can look into.
    sum(range(40_000_000))
    await until(lambda: bool(watch.held_up))
    assert watch.held_up.total() == 1
    assert set(watch.held_up) <= {
        UNSEEN,
        f"{__name__}.{test_code_that_keeps_the_interpreter_is_counted.__name__}",
    }


async def test_many_short_callbacks_hold_nobody_up(watch: LoopWatch) -> None:
    for _ in range(40):
        compute(MAX_S / 20)
        await asyncio.sleep(0)
    assert not watch.held_up
