"""Turns of long works on the event loop."""

from __future__ import annotations

import asyncio

import pytest

from tests.waiting import NEVER_S, no_hang
from verl_agent_env.engine.execution.slices import Slices
from verl_agent_env.turns import Tenant, current_tenant


async def test_between_two_slices_of_whatever_works_the_loop_comes_round() -> None:
    slices, seen, rounds = Slices(), [], 0
    loop = asyncio.get_running_loop()
    is_over = False

    def come_round() -> None:
        nonlocal rounds
        rounds += 1
        if not is_over:
            loop.call_soon(come_round)

    async def work(name: str) -> None:
        for _ in range(5):
            await slices.turn()
            seen.append((rounds, name))

    loop.call_soon(come_round)
    async with no_hang():
        await asyncio.gather(*(work(name) for name in "abc"))
    is_over = True
    assert [name for _, name in seen] == list("abc" * 5)
    assert len({at for at, _ in seen}) == 15


async def test_who_has_many_works_gets_no_more_slices_than_who_has_one() -> None:
    slices, seen = Slices(), []

    async def work(tenant: Tenant) -> None:
        current_tenant.set(tenant)
        for _ in range(5):
            await slices.turn()
            seen.append(tenant)

    many = [Tenant("a", "r")] * 20 + [Tenant("a", "s")]
    async with no_hang():
        await asyncio.gather(*(work(tenant) for tenant in (*many, Tenant("b"))))
    assert [tenant.tag for tenant in seen[:10]] == ["a", "b"] * 5
    assert [tenant.run_id for tenant in seen[:20] if tenant.tag == "a"][:10] == ["r", "s"] * 5


async def test_work_that_was_cancelled_takes_no_turn() -> None:
    slices = Slices()
    first, second = asyncio.create_task(slices.turn()), asyncio.create_task(slices.turn())
    await asyncio.sleep(0)
    first.cancel()
    async with no_hang():
        await second
        await slices.turn()
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_work_of_many_parts_waits_when_its_slice_is_over() -> None:
    slices, seen = Slices(), []

    async def work(name: str, yield_after_s: float) -> None:
        pace = slices.pace(yield_after_s)
        for _ in range(3):
            seen.append(name)
            await pace.keep()

    async with no_hang():
        await asyncio.gather(work("a", 1e-9), work("b", 1e-9))
        assert seen == list("ababab")
        seen.clear()
        await asyncio.gather(work("a", NEVER_S), work("b", NEVER_S))
    assert seen == list("aaabbb")
