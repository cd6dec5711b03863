"""Reading a body, message by message."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.waiting import no_hang
from verl_agent_env.config import HttpLimits
from verl_agent_env.errors import BodyTimeoutError, BodyTooLargeError
from verl_agent_env.server.http.body import ClientGoneError, drain_body, read_body

LIMITS = HttpLimits(max_body_bytes=10, body_timeout_s=0.05)
GONE = {"type": "http.disconnect"}
Receive = Callable[[], Awaitable[dict[str, Any]]]


def part(body: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def sender(*messages: dict[str, Any], late: bool = False) -> Receive:
    """A receive that gives these messages, at once or each after a turn of the loop, and then stalls."""
    left = list(messages)

    async def receive() -> dict[str, Any]:
        if late:
            await asyncio.sleep(0)
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    return receive


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("messages", "body"),
    [
        ([part(b"")], b""),
        ([part(b"abc")], b"abc"),
        ([{"type": "http.request"}], b""),
        ([part(b"abc", more=True), part(b"de", more=True), part(b"")], b"abcde"),
        ([part(b"", more=True), part(b"0123456789")], b"0123456789"),
    ],
)
async def test_a_body_comes_whole_in_whatever_pieces(
    messages: list[dict[str, Any]], body: bytes, late: bool
) -> None:
    assert await read_body(sender(*messages, late=late), b"", LIMITS) == body


async def test_a_long_body_is_in_memory_once() -> None:
    piece, count = b"x" * 65_536, 320
    messages = [part(piece, more=True) for _ in range(count)] + [part(b"")]
    tracemalloc.start()
    try:
        body = await read_body(sender(*messages), b"", HttpLimits())
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(body) == count * len(piece)
    assert most < 1.3 * len(body)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    "messages",
    [
        [part(b"x" * 11)],
        [part(b"x" * 11, more=True)],
        [part(b"x" * 6, more=True), part(b"x" * 5)],
        [part(b"x" * 6, more=True), part(b"x" * 5, more=True)],
    ],
)
async def test_a_body_over_the_limit_is_refused(messages: list[dict[str, Any]], late: bool) -> None:
    with pytest.raises(BodyTooLargeError) as caught:
        await read_body(sender(*messages, late=late), b"", LIMITS)
    assert caught.value.max_body_bytes == 10


@pytest.mark.parametrize("declared", [b"11", b"0011", b"9" * 30, b"9" * 6000, b"0" * 6000 + b"11"])
async def test_a_declared_length_over_the_limit_is_refused_unread(declared: bytes) -> None:
    with pytest.raises(BodyTooLargeError):
        await read_body(sender(), declared, LIMITS)


@pytest.mark.parametrize("declared", [b"", b"0", b"10", b"0" * 6000 + b"10", b"-5", b"ten", b"1_0"])
async def test_a_declared_length_within_the_limit_or_none_is_read(declared: bytes) -> None:
    assert await read_body(sender(part(b"abc")), declared, LIMITS) == b"abc"


@pytest.mark.parametrize(
    "messages", [[], [part(b"a", more=True)], [part(b"a", more=True), part(b"b", more=True)]]
)
async def test_a_body_that_stalls_times_out(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(BodyTimeoutError) as caught:
        async with no_hang():
            await read_body(sender(*messages), b"", LIMITS)
    assert caught.value.body_timeout_s == 0.05


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("messages", [[GONE], [part(b"a", more=True), GONE]])
async def test_a_client_that_leaves_is_gone(messages: list[dict[str, Any]], late: bool) -> None:
    with pytest.raises(ClientGoneError):
        await read_body(sender(*messages, late=late), b"", LIMITS)


async def test_cancelling_a_waiting_read_ends_what_it_waits_for() -> None:
    ended = asyncio.Event()

    async def receive() -> dict[str, Any]:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return {}

    task = asyncio.create_task(read_body(receive, b"", HttpLimits()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


@pytest.mark.parametrize(
    "messages", [[GONE], [part(b"x", more=True), part(b"x")], [part(b"x", more=True), GONE]]
)
async def test_lingering_ends_with_the_body_or_the_client(messages: list[dict[str, Any]]) -> None:
    async with no_hang():
        await drain_body(sender(*messages))
