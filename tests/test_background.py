"""Background tasks start again, whatever ends them, and end when they are told to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from verl_agent_env import background

HANG_S = 60.0


async def raise_error() -> None:
    raise AttributeError("'NoneType' object has no attribute 'snapshot'")


async def return_early() -> None:
    return


async def wait_for_what_somebody_else_cancels() -> None:
    foreign: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(foreign.cancel)
    await foreign


@pytest.mark.parametrize("fault", [raise_error, return_early, wait_for_what_somebody_else_cancels])
async def test_task_that_ends_is_logged_and_starts_again(
    fault: Callable[[], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    starts = 0
    is_back = asyncio.Event()

    async def run() -> None:
        nonlocal starts
        starts += 1
        if starts < 4:
            await fault()
            return
        is_back.set()
        await asyncio.Event().wait()

    task = background.start("journal", run, pause_s=0.001)
    await asyncio.wait_for(is_back.wait(), HANG_S)
    assert [(record.levelno, vars(record)["task"]) for record in caplog.records] == [
        (logging.ERROR, "journal")
    ] * 3
    task.cancel()
    await asyncio.wait([task], timeout=HANG_S)
    assert task.cancelled()


async def test_task_that_is_cancelled_in_its_pause_ends(caplog: pytest.LogCaptureFixture) -> None:
    task = background.start("journal", return_early, pause_s=3600.0)
    while not caplog.records:  # noqa: ASYNC110 - a log has no event
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=HANG_S)
    assert task.cancelled()
    assert len(caplog.records) == 1


async def test_what_ends_the_process_is_passed_on() -> None:
    async def run() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        await background.keep_running("journal", run)
