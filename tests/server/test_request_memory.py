"""The memory that large requests take together."""

from __future__ import annotations

import asyncio

import pytest

from tests.waiting import no_hang, until
from verl_agent_env.errors import AtCapacityError
from verl_agent_env.server.request_memory import RequestMemory

MEGABYTE = 1024 * 1024


def test_bodies_that_arrive_are_counted_until_their_requests_are_answered() -> None:
    memory = RequestMemory(3 * MEGABYTE, 1000)
    with memory.receiving() as count, memory.receiving() as other:
        count(MEGABYTE // 2)
        other(MEGABYTE // 2)
        with pytest.raises(AtCapacityError) as refused:
            other(1)
        assert refused.value.retryable
    with memory.receiving() as count:
        count(MEGABYTE)


def test_there_is_room_for_one_body_in_any_case() -> None:
    with RequestMemory(3000, 5000).receiving() as count:
        count(5000)


async def test_who_would_be_too_much_waits_in_turn() -> None:
    memory = RequestMemory(3 * MEGABYTE, MEGABYTE)
    large, small = b" " * (MEGABYTE // 2), b" " * 1000
    begun: list[str] = []
    free = asyncio.Event()

    async def work(name: str, body: bytes) -> None:
        async with memory.room_for(body):
            begun.append(name)
            await free.wait()

    async with no_hang(), asyncio.TaskGroup() as group:
        group.create_task(work("first", large))
        await until(lambda: begun == ["first"])
        group.create_task(work("second", large))
        group.create_task(work("third", small))
        for _ in range(10):
            await asyncio.sleep(0)
        # A small one does not pass by: a large one would wait for ever.
        assert begun == ["first"]
        free.set()
    assert begun == ["first", "second", "third"]


async def test_who_stops_waiting_leaves_the_room_to_others() -> None:
    memory = RequestMemory(3 * MEGABYTE, MEGABYTE)
    body = b" " * MEGABYTE

    async def work() -> None:
        async with memory.room_for(body):
            pass

    async with no_hang():
        async with memory.room_for(body):
            leaving = asyncio.create_task(work())
            await asyncio.sleep(0)
            staying = asyncio.create_task(work())
            await asyncio.sleep(0)
            leaving.cancel()
        await staying
        await work()
    assert leaving.cancelled()


async def test_who_waited_too_long_is_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verl_agent_env.waits.PLACE_S", 0.01)
    memory = RequestMemory(3 * MEGABYTE, MEGABYTE)
    body = b" " * MEGABYTE
    async with no_hang():
        async with memory.room_for(body):
            with pytest.raises(AtCapacityError):
                async with memory.room_for(body):
                    pass
        async with memory.room_for(body):
            pass


async def test_what_takes_more_values_takes_more_room() -> None:
    memory = RequestMemory(3 * MEGABYTE, 1000)
    async with no_hang(), memory.room_for(b"[" + b"1," * 10_000 + b"1]"):
        pass
    many = b"{}," * 30_000
    async with memory.room_for(many):
        waiting = asyncio.create_task(_hold(memory, b" " * 70_000))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
    async with no_hang():
        await waiting


async def _hold(memory: RequestMemory, body: bytes) -> None:
    async with memory.room_for(body):
        pass
