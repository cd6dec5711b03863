"""The memory that large requests take together."""

from __future__ import annotations

import asyncio

import pytest

from tests.waiting import no_hang, until
from verl_agent_env.errors import AtCapacityError
from verl_agent_env.server.http.request_memory import RequestMemory, Share

MEGABYTE = 1024 * 1024


def test_bodies_that_arrive_are_counted_until_their_requests_are_answered() -> None:
    memory = RequestMemory(3 * MEGABYTE, 1000)
    first, second = memory.share(), memory.share()
    first.receive(MEGABYTE // 2)
    second.receive(MEGABYTE // 2)
    with pytest.raises(AtCapacityError) as refused:
        second.receive(1)
    assert refused.value.retryable
    first.free_body()
    second.close()
    memory.share().receive(MEGABYTE)


def test_there_is_room_for_one_body_in_any_case() -> None:
    RequestMemory(3000, 5000).share().receive(5000)


def _share(memory: RequestMemory, tag: str) -> Share:
    share = memory.share()
    share.tag = tag
    return share


def test_bodies_of_one_holder_leave_room_for_those_of_others() -> None:
    memory = RequestMemory(30 * MEGABYTE, MEGABYTE)
    greedy = [_share(memory, "a") for _ in range(9)]
    for share in greedy[:8]:
        share.receive(MEGABYTE)
    with pytest.raises(AtCapacityError):
        greedy[8].receive(MEGABYTE)
    other = _share(memory, "b")
    other.receive(MEGABYTE)
    greedy[0].close()
    greedy[1].free_body()
    greedy[8].receive(MEGABYTE)
    for share in (*greedy, other):
        share.close()
    # The first body may take all of it, as one without a token.
    for tag in ("a", ""):
        large = _share(memory, tag)
        for _ in range(10):
            large.receive(MEGABYTE)
        large.close()


async def test_holders_wait_in_turn() -> None:
    memory = RequestMemory(3 * MEGABYTE, MEGABYTE)
    begun: list[str] = []

    async def work(tag: str) -> None:
        async with _share(memory, tag).working_on(b" " * (MEGABYTE // 2)):
            begun.append(tag)
            await asyncio.sleep(0)

    async with no_hang(), asyncio.TaskGroup() as group:
        for tag in "aaaaab":
            group.create_task(work(tag))
    # One has the room and one is next; then the holders have their turns.
    assert begun.index("b") <= 3
    assert len(begun) == 6


async def test_who_would_be_too_much_waits_in_turn() -> None:
    memory = RequestMemory(3 * MEGABYTE, MEGABYTE)
    large, small = b" " * (MEGABYTE // 2), b" " * 1000
    begun: list[str] = []
    free = asyncio.Event()

    async def work(name: str, body: bytes) -> None:
        async with memory.share().working_on(body):
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
        async with memory.share().working_on(body):
            pass

    async with no_hang():
        async with memory.share().working_on(body):
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
        async with memory.share().working_on(body):
            with pytest.raises(AtCapacityError):
                async with memory.share().working_on(body):
                    pass
        async with memory.share().working_on(body):
            pass


async def test_what_takes_more_values_takes_more_room() -> None:
    memory = RequestMemory(3 * MEGABYTE, 1000)
    memory.share().receive(MEGABYTE)
    async with no_hang(), memory.share().working_on(b"[" + b"1," * 5_000 + b"1]"):
        pass
    many = b"{}," * 10_000
    async with memory.share().working_on(many):
        waiting = asyncio.create_task(_hold(memory, b" " * 70_000))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
    async with no_hang():
        await waiting


async def _hold(memory: RequestMemory, body: bytes) -> None:
    async with memory.share().working_on(body):
        pass


async def test_a_part_of_another_call_is_counted_and_does_not_wait() -> None:
    memory = RequestMemory(3 * MEGABYTE, MEGABYTE)
    body = b" " * MEGABYTE
    async with no_hang(), memory.share().working_on(body):
        async with memory.share().working_on(body, waits_for_room=False):
            pass
        with pytest.raises(AtCapacityError):
            async with memory.share().working_on(body, waits_for_room=False):
                memory.share().require()


async def test_answers_take_room_until_they_are_sent() -> None:
    memory = RequestMemory(3 * MEGABYTE, MEGABYTE)
    sending, asked = memory.share(), memory.share()
    sending.answer(3 * MEGABYTE)
    with pytest.raises(AtCapacityError):
        asked.require()
    with pytest.raises(AtCapacityError):
        asked.receive(1)
    waiting = asyncio.create_task(_hold(memory, b" " * 70_000))
    await asyncio.sleep(0)
    assert not waiting.done()
    sending.close()
    asked.require()
    async with no_hang():
        await waiting


def test_memory_is_given_back_after_large_requests() -> None:
    idle: list[str] = []
    memory = RequestMemory(300 * MEGABYTE, 100 * MEGABYTE, lambda: idle.append("idle"))
    small, first, second = memory.share(), memory.share(), memory.share()
    small.receive(MEGABYTE)
    small.close()
    assert not idle
    first.receive(40 * MEGABYTE)
    second.answer(MEGABYTE)
    first.close()
    assert not idle
    second.close()
    assert idle == ["idle"]
