"""A call looks for an owner for a bounded time, in which workers that are at work on it do not count."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.sim.virtual_loop import VirtualLoop
from verl_agent_env import waits
from verl_agent_env.errors import MovedError, StoreUnavailableError, WorkerUnreachableError
from verl_agent_env.server.cluster.owner_search import OwnerSearch


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    made = VirtualLoop()
    yield made
    made.end()


async def after(search: OwnerSearch, seconds: float, error: Exception, heard_s: float | None) -> OwnerSearch:
    """The search after a worker has had the call for so long, which was heard of last after ``heard_s``."""
    search, began = search.sent(), asyncio.get_running_loop().time()
    await asyncio.sleep(seconds)
    assert isinstance(error, MovedError | StoreUnavailableError | WorkerUnreachableError)
    return search.after(error, None if heard_s is None else began + heard_s)


def test_time_at_work_does_not_count_until_the_worker_was_heard_of_last(loop: VirtualLoop) -> None:
    async def play() -> None:
        died = WorkerUnreachableError("b", "the connection broke before the answer came")
        search = await after(OwnerSearch.begin(), 300.0, died, heard_s=299.0)
        assert not search.is_over
        await asyncio.sleep(waits.OWNER_S + 0.1)
        assert search.is_over

    loop.run_until_complete(play())


@pytest.mark.parametrize("heard_s", [None, 0.0])
def test_silent_workers_are_waited_for_once_and_no_longer(loop: VirtualLoop, heard_s: float | None) -> None:
    async def play() -> None:
        silent = WorkerUnreachableError("b", "it gave no sign of life")
        began = loop.time()
        search = OwnerSearch.begin()
        while not search.is_over:
            search = await after(search, waits.PEER_SILENCE_S - 1.0, silent, heard_s)
        assert loop.time() - began < waits.PEER_SILENCE_S + waits.OWNER_S + waits.PEER_SILENCE_S

    loop.run_until_complete(play())


def test_worker_that_sends_the_call_on_was_at_work_on_it(loop: VirtualLoop) -> None:
    async def play() -> None:
        assert not (await after(OwnerSearch.begin(), 300.0, MovedError(1), None)).is_over

    loop.run_until_complete(play())


@pytest.mark.parametrize(
    "error", [StoreUnavailableError("redis"), WorkerUnreachableError("b", "refused", may_have_run=False)]
)
def test_time_in_which_nobody_was_at_work_counts(loop: VirtualLoop, error: Exception) -> None:
    async def play() -> None:
        assert (await after(OwnerSearch.begin(), waits.OWNER_S + 0.1, error, None)).is_over

    loop.run_until_complete(play())
