"""Idempotency keys: unit tests of what is kept, and the calls that take them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import httpx
import pytest

from tests.server.conftest import LAKE, MakeClient, Problem, app_of
from verl_agent_env.errors import (
    AtCapacityError,
    IdempotencyKeyReusedError,
    InvalidRequestError,
    ShuttingDownError,
)
from verl_agent_env.server.idempotency import IdempotentAnswers


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Work:
    """Counts how often it is done; waits for its gate."""

    def __init__(self, answer: bytes = b"done") -> None:
        self.times = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self._answer = answer

    async def __call__(self) -> bytes:
        self.times += 1
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return b"%b %d" % (self._answer, self.times)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def answers(clock: Clock) -> IdempotentAnswers:
    return IdempotentAnswers(60.0, 10_000, clock)


async def test_without_a_key_the_work_is_done_each_time(answers: IdempotentAnswers) -> None:
    work = Work()
    assert [await answers.answer("r", None, b"", work) for _ in range(2)] == [b"done 1", b"done 2"]


async def test_the_same_key_is_answered_once_and_for_all(answers: IdempotentAnswers) -> None:
    work = Work()
    assert [await answers.answer("r", b"k", b"", work) for _ in range(3)] == [b"done 1"] * 3


async def test_keys_of_different_routes_are_different(answers: IdempotentAnswers) -> None:
    work = Work()
    assert await answers.answer("a", b"k", b"", work) != await answers.answer("b", b"k", b"", work)


async def test_the_same_key_with_another_body_is_refused(answers: IdempotentAnswers) -> None:
    work = Work()
    await answers.answer("r", b"k", b"1", work)
    with pytest.raises(IdempotencyKeyReusedError):
        await answers.answer("r", b"k", b"2", work)
    assert work.times == 1


async def test_requests_in_flight_are_joined(answers: IdempotentAnswers) -> None:
    work = Work()
    work.gate.clear()
    tasks = [asyncio.create_task(answers.answer("r", b"k", b"", work)) for _ in range(5)]
    await asyncio.sleep(0)
    with pytest.raises(IdempotencyKeyReusedError):
        await answers.answer("r", b"k", b"other", work)
    work.gate.set()
    assert await asyncio.gather(*tasks) == [b"done 1"] * 5


async def test_a_failure_reaches_all_who_joined_and_is_not_kept(answers: IdempotentAnswers) -> None:
    work = Work()
    work.gate.clear()
    work.failure = AtCapacityError("environments", 1)
    tasks = [asyncio.create_task(answers.answer("r", b"k", b"", work)) for _ in range(3)]
    await asyncio.sleep(0)
    work.gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [AtCapacityError] * 3
    work.failure = None
    assert await answers.answer("r", b"k", b"", work) == b"done 2"


async def test_a_cancelled_request_tells_those_who_joined_to_try_again(answers: IdempotentAnswers) -> None:
    work = Work()
    work.gate.clear()
    first = asyncio.create_task(answers.answer("r", b"k", b"", work))
    await asyncio.sleep(0)
    second = asyncio.create_task(answers.answer("r", b"k", b"", work))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    with pytest.raises(ShuttingDownError):
        await second
    work.gate.set()
    assert await answers.answer("r", b"k", b"", work) == b"done 2"


async def test_a_joined_request_that_is_cancelled_leaves_the_others(answers: IdempotentAnswers) -> None:
    work = Work()
    work.gate.clear()
    first = asyncio.create_task(answers.answer("r", b"k", b"", work))
    await asyncio.sleep(0)
    second = asyncio.create_task(answers.answer("r", b"k", b"", work))
    await asyncio.sleep(0)
    second.cancel()
    work.gate.set()
    assert await first == b"done 1"


async def test_an_answer_is_forgotten_after_its_time(answers: IdempotentAnswers, clock: Clock) -> None:
    work = Work()
    await answers.answer("r", b"k", b"", work)
    clock.now = 59.0
    assert await answers.answer("r", b"k", b"", work) == b"done 1"
    clock.now = 61.0
    assert await answers.answer("r", b"k", b"", work) == b"done 2"


async def test_memory_is_bounded_the_oldest_going_first(answers: IdempotentAnswers) -> None:
    work = Work(b"x" * 1000)
    for i in range(100):
        await answers.answer("r", b"key-%d" % i, b"", work)
    assert answers._size <= 10_000
    assert len(answers._entries) < 10
    assert (await answers.answer("r", b"key-99", b"", work)).endswith(b" 100")
    assert (await answers.answer("r", b"key-0", b"", work)).endswith(b" 101")


async def test_tiny_answers_are_bounded_too(answers: IdempotentAnswers) -> None:
    work = Work(b"")
    for i in range(1000):
        await answers.answer("r", b"%d" % i, b"", work)
    assert len(answers._entries) <= 10


async def test_an_answer_larger_than_the_memory_is_kept_until_the_next(answers: IdempotentAnswers) -> None:
    work = Work(b"x" * 50_000)
    first = await answers.answer("r", b"large", b"", work)
    assert await answers.answer("r", b"large", b"", work) == first
    await answers.answer("r", b"next", b"", Work())
    assert len(answers._entries) == 1


@pytest.mark.parametrize("key", [b"", b"x" * 257, b"a b", b"\x00", b"\xff"])
async def test_a_key_that_is_no_token_is_refused(answers: IdempotentAnswers, key: bytes) -> None:
    work = Work()
    with pytest.raises(InvalidRequestError) as caught:
        await answers.answer("r", key, b"", work)
    assert caught.value.errors[0]["loc"] == ["header", "Idempotency-Key"]
    assert work.times == 0


Send = Callable[[], Awaitable[httpx.Response]]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/environment/initialize", {"env_name": LAKE}),
        ("/api/batch/initialize", {"env_name": LAKE, "num_envs": 3}),
    ],
)
async def test_a_repeated_initialize_makes_one_environment(
    client: httpx.AsyncClient, problem: Problem, path: str, body: dict[str, object]
) -> None:
    headers = {"idempotency-key": "key-1"}
    answers = await asyncio.gather(*(client.post(path, json=body, headers=headers) for _ in range(4)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert len(app_of(client).env_host.directory) == body.get("num_envs", 1)
    other = await client.post(
        path, json={**body, "seed" if "num_envs" not in body else "ttl_s": 5}, headers=headers
    )
    problem(other, 422, "idempotency_key_reused")
    problem(await client.post(path, json=body, headers={"idempotency-key": "a b"}), 422, "invalid_request")


async def test_a_failed_initialize_may_be_sent_again_under_its_key(
    make_client: MakeClient, problem: Problem, initialize: Callable[..., Awaitable[str]]
) -> None:
    client = await make_client(host={"max_envs": 1})
    env_id = await initialize(client)
    request = {"json": {"env_name": LAKE}, "headers": {"idempotency-key": "key-1"}}
    path = "/api/environment/initialize"
    problem(await client.post(path, **request), 503, "at_capacity")  # type: ignore[arg-type]
    await client.post(f"/api/environment/{env_id}/close")
    assert (await client.post(path, **request)).status_code == 200  # type: ignore[arg-type]
