"""How calls that are made side by side become batches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

import pytest

from tests.steered import pass_time
from verl_agent_env.client.errors import ClientClosedError
from verl_agent_env.client.micro_batching import MicroBatcher
from verl_agent_env.errors import (
    BatchTooLargeError,
    InvalidRequestError,
    UnauthorizedError,
    VerlAgentEnvError,
)

BAD = 5013
"""A value that the server refuses, with the whole batch."""


@dataclass
class Number:
    """A call that gives its double."""

    value: int
    sent: bool = False
    retries: int = 0


class Server:
    """Answers batches when it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.at_once = 0
        self.most_at_once = 0

    async def send(self, items: list[Number]) -> list[int | VerlAgentEnvError]:
        values = [item.value for item in items]
        self.batches.append(values)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await self.gate.wait()
        self.at_once -= 1
        if len(values) > 100:
            raise BatchTooLargeError(len(values), 100)
        if any(value == BAD for value in values):
            raise InvalidRequestError([{"loc": ["seeds"], "msg": "bad"}])
        return [2 * value if value >= 0 else BatchTooLargeError(value) for value in values]


Gather = Callable[..., MicroBatcher[Number, int]]


@pytest.fixture
async def server() -> Server:
    return Server()


@pytest.fixture
def gather(server: Server) -> Gather:
    def make(
        max_batch: int = 1000,
        linger_s: float = 0.0,
        max_delay_s: float = 60.0,
        on_unclaimed: Callable[[int], None] | None = None,
    ) -> MicroBatcher[Number, int]:
        return MicroBatcher(
            server.send,
            max_batch=max_batch,
            linger_s=linger_s,
            max_delay_s=max_delay_s,
            on_unclaimed=on_unclaimed,
        )

    return make


async def ask(batcher: MicroBatcher[Number, int], value: int) -> int:
    return await batcher.submit(Number(value))


async def test_call_alone_goes_at_once_and_what_comes_meanwhile_goes_together(
    server: Server, gather: Gather
) -> None:
    batcher = gather()
    server.gate.clear()
    first = asyncio.create_task(ask(batcher, 0))
    await pass_time(0.01)
    rest = [asyncio.create_task(ask(batcher, value)) for value in range(1, 50)]
    await pass_time(10.0)
    assert server.batches == [[0]]
    server.gate.set()
    assert await asyncio.gather(first, *rest) == [2 * value for value in range(50)]
    assert server.batches == [[0], list(range(1, 50))]
    assert batcher.is_idle


async def test_a_batch_is_sent_in_the_context_of_its_first_call() -> None:
    whose: ContextVar[str] = ContextVar("whose")
    seen: list[str] = []
    gate = asyncio.Event()

    async def send(items: list[Number]) -> list[int | VerlAgentEnvError]:
        seen.append(whose.get())
        await gate.wait()
        return [item.value for item in items]

    batcher = MicroBatcher(send, max_batch=1000, linger_s=0.0, max_delay_s=60.0)

    async def ask_as(name: str) -> int:
        whose.set(name)
        return await ask(batcher, 1)

    first = asyncio.create_task(ask_as("first"))
    await pass_time(0.01)
    rest = [asyncio.create_task(ask_as(name)) for name in ("second", "third")]
    await pass_time(0.01)
    gate.set()
    await asyncio.gather(first, *rest)
    assert seen == ["first", "second"]


async def test_calls_of_one_turn_of_the_loop_share_the_first_batch(server: Server, gather: Gather) -> None:
    batcher = gather()
    await asyncio.gather(*(ask(batcher, value) for value in range(20)))
    assert server.batches == [list(range(20))]


async def test_batches_are_bounded_in_size_and_number(server: Server, gather: Gather) -> None:
    batcher = gather(max_batch=10)
    server.gate.clear()
    asked = asyncio.gather(*(ask(batcher, value) for value in range(14, 114)))
    await pass_time(10.0)
    assert server.at_once == 4
    server.gate.set()
    assert await asked == [2 * value for value in range(14, 114)]
    assert [len(batch) for batch in server.batches] == [10] * 10
    assert server.most_at_once <= 4


async def test_batch_that_takes_long_is_waited_for_max_delay_s_only(server: Server, gather: Gather) -> None:
    batcher = gather(max_delay_s=60.0)
    server.gate.clear()
    tasks = [asyncio.create_task(ask(batcher, 1))]
    await pass_time(50.0)
    tasks += [asyncio.create_task(ask(batcher, value)) for value in (2, 3)]
    await pass_time(5.0)
    assert server.batches == [[1]]
    await pass_time(60.0)
    assert server.batches == [[1], [2, 3]]
    server.gate.set()
    assert await asyncio.gather(*tasks) == [2, 4, 6]


async def test_lingering_lets_later_calls_join(server: Server, gather: Gather) -> None:
    batcher = gather(linger_s=60.0)
    first = asyncio.create_task(ask(batcher, 1))
    # It begins to linger, and then time passes.
    await asyncio.sleep(0)
    await pass_time(50.0)
    second = asyncio.create_task(ask(batcher, 2))
    await pass_time(5.0)
    assert server.batches == []
    await pass_time(5.0)
    assert list(await asyncio.gather(first, second)) == [2, 4]
    assert server.batches == [[1, 2]]


async def test_item_that_is_refused_fails_alone(gather: Gather) -> None:
    batcher = gather()
    outcomes = await asyncio.gather(
        *(ask(batcher, value) for value in range(BAD - 3, BAD + 7)), return_exceptions=True
    )
    assert isinstance(outcomes.pop(3), InvalidRequestError)
    assert outcomes == [2 * value for value in range(BAD - 3, BAD + 7) if value != BAD]


async def test_batch_that_the_server_finds_too_large_is_split(server: Server, gather: Gather) -> None:
    batcher = gather()
    assert len(await asyncio.gather(*(ask(batcher, value) for value in range(1000, 1301)))) == 301
    assert max(len(batch) for batch in server.batches[1:]) <= 151


async def test_errors_of_items_are_raised_to_those_who_asked_and_not_shared(gather: Gather) -> None:
    batcher = gather()
    outcomes = await asyncio.gather(
        ask(batcher, 1), ask(batcher, -2), ask(batcher, -2), return_exceptions=True
    )
    assert outcomes[0] == 2
    assert all(isinstance(outcome, BatchTooLargeError) and outcome.size == -2 for outcome in outcomes[1:])
    assert outcomes[1] is not outcomes[2]


async def test_unauthorized_batch_is_not_tried_by_halves() -> None:
    calls = []

    async def refuse(items: list[Number]) -> list[int]:
        calls.append(len(items))
        raise UnauthorizedError

    batcher: MicroBatcher[Number, int] = MicroBatcher(refuse, max_batch=10, linger_s=0, max_delay_s=1)
    outcomes = await asyncio.gather(*(ask(batcher, value) for value in range(4)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [UnauthorizedError] * 4
    assert calls == [4]


async def test_call_that_was_cancelled_before_it_went_is_not_sent(server: Server, gather: Gather) -> None:
    batcher = gather()
    server.gate.clear()
    first = asyncio.create_task(ask(batcher, 1))
    await pass_time(0.01)
    item = Number(2)
    batcher.submit(item).cancel()
    server.gate.set()
    assert list(await asyncio.gather(first, ask(batcher, 3))) == [2, 6]
    assert not item.sent
    assert server.batches == [[1], [3]]


async def test_result_that_nobody_waits_for_is_handed_over(server: Server, gather: Gather) -> None:
    unclaimed: list[int] = []
    batcher = gather(on_unclaimed=unclaimed.append)
    server.gate.clear()
    item = Number(4)
    future = batcher.submit(item)
    await pass_time(0.01)
    assert item.sent
    future.cancel()
    server.gate.set()
    assert await ask(batcher, 5) == 10
    assert unclaimed == [8]


async def test_closing_tells_those_who_wait_and_leaves_no_task(server: Server, gather: Gather) -> None:
    batcher = gather()
    server.gate.clear()
    tasks = [asyncio.create_task(ask(batcher, 1))]
    await pass_time(0.01)
    tasks.append(asyncio.create_task(ask(batcher, 2)))
    await asyncio.sleep(0)
    await batcher.close()
    outcomes = await asyncio.gather(*tasks, ask(batcher, 3), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ClientClosedError] * 3
    assert asyncio.all_tasks() == {asyncio.current_task()}
