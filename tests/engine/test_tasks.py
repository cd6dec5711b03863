"""What looking for tasks costs: memory that stays, and time of others."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable

import pytest

from tests.cpu import assert_within
from tests.waiting import NEVER_S
from verl_agent_env.engine import CreateRequest, Host
from verl_agent_env.engine.tasks import TaskFinder

CHAT = "single_turn_chat"


async def no_turn() -> None:
    """Wait for nobody."""


def finder_of(host: Host) -> TaskFinder:
    return TaskFinder(host.registry, host.kinds, host.executor, no_turn, {}, host.limits)


async def test_arguments_of_tasks_are_not_kept(host: Host) -> None:
    finder = finder_of(host)
    await finder.find(CHAT, "train", 0, {"task_prompt": "Hello."})
    tracemalloc.start()
    try:
        for number in range(10):
            env_kwargs = {"task_prompt": f"{number:04}" * 25_000}
            assert (await finder.find(CHAT, "train", 1, env_kwargs)).env_kwargs == env_kwargs
        assert tracemalloc.get_traced_memory()[0] < 200_000
    finally:
        tracemalloc.stop()


async def test_arguments_that_a_batch_shares_are_looked_at_once(make_host: Callable[..., Host]) -> None:
    finder, env_kwargs = finder_of(make_host(yield_after_s=NEVER_S)), {"task_prompt": "a" * 1_000_000}
    requests = [CreateRequest(CHAT, env_kwargs=env_kwargs) for _ in range(2_000)]
    tasks = [("train", index) for index in range(2_000)]
    assigned = await finder.assign(requests, tasks)
    assert all(
        isinstance(request, CreateRequest) and request.env_kwargs is env_kwargs for request in assigned
    )

    def assign() -> None:
        # Nothing is waited for: what is needed of the arguments is known.
        with pytest.raises(StopIteration):
            finder.assign(requests, tasks).send(None)

    # Each look at them would take half a millisecond.
    assert_within(0.25, assign)


async def test_others_have_their_turns_while_tasks_are_given_to_a_batch(
    make_host: Callable[..., Host],
) -> None:
    finder = finder_of(make_host(yield_after_s=1e-9))
    await finder.find(CHAT, "train", 0)
    requests = [CreateRequest(CHAT) for _ in range(50)]
    assigning = asyncio.create_task(finder.assign(requests, [("train", index) for index in range(50)]))
    for _ in range(50):
        assert not assigning.done()
        await asyncio.sleep(0)
    assert len(await assigning) == 50
