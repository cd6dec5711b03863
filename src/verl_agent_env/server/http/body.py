"""Reads the bodies of requests, within limits on size and time."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from starlette.types import Message, Receive

from verl_agent_env.config import HttpLimits
from verl_agent_env.errors import BodyTimeoutError, BodyTooLargeError
from verl_agent_env.server.http.request_memory import UNCOUNTED_BYTES

_LINGER_S = 2.0


def ignore(_: int) -> None:
    """Count nothing."""


class ClientGoneError(Exception):
    """The client left before its request was whole; nobody waits for an answer."""


async def read_body(
    receive: Receive, declared: bytes, limits: HttpLimits, count: Callable[[int], None] = ignore
) -> bytes:
    """The whole body of a request, whose ``Content-Length`` is ``declared``.

    Args:
        receive: Gives its parts.
        declared: As it came.
        limits: On its size and time.
        count: Called with the bytes of each part of a long body; may refuse them.

    Raises:
        BodyTooLargeError: It is declared as, or turns out, longer than ``max_body_bytes``.
        BodyTimeoutError: It did not arrive within ``body_timeout_s``.
        ClientGoneError: The client left.
    """
    # Up to five digits are seldom too much, and are what nearly every request declares.
    if len(declared) > 5 or limits.max_body_bytes < 100_000:
        _require_allowed(declared, limits)
    waiting = receive().__await__()
    message: Message | None = None
    blocker = None
    try:
        blocker = next(waiting)
    except StopIteration as arrived:
        message = arrived.value
        # Nearly every body comes in one piece with its head; a timer would cost more than all of this.
        if not arrived.value.get("more_body", False):
            part = _part_of(arrived.value, limits)
            if len(part) > UNCOUNTED_BYTES:
                count(len(part))
            return part
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            if message is None:
                message = await _Continued(blocker, waiting)
            return await _read_rest(message, receive, limits, count)
    except TimeoutError:
        raise BodyTimeoutError(limits.body_timeout_s) from None


def _require_allowed(declared: bytes, limits: HttpLimits) -> None:
    # Without its leading zeros: Python refuses to read a number of thousands of digits.
    digits = declared.lstrip(b"0")
    if digits.isdigit() and (len(digits) > 18 or int(digits) > limits.max_body_bytes):
        raise BodyTooLargeError(limits.max_body_bytes)


def has_arrived(receive: Receive) -> bool:
    """Take in what is there of a body that nobody has read from; whether that is all of it. Waits for nothing."""
    waiting = receive().__await__()
    try:
        next(waiting)
    except StopIteration as arrived:
        return arrived.value["type"] == "http.disconnect" or not arrived.value.get("more_body", False)
    waiting.close()
    return False


async def drain_body(receive: Receive) -> None:
    """Take in, for a moment, what a client still sends of a body that was refused.

    Closing at once would reset the connection under the client's hands, often before it has read the answer.
    """
    try:
        async with asyncio.timeout(_LINGER_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return


class _Continued(Awaitable[Message]):
    """The rest of an awaitable that was begun by hand and then had to wait, for ``blocker``."""

    def __init__(self, blocker: Any, rest: Generator[Any, None, Message]) -> None:
        self._blocker = blocker
        self._rest = rest

    def __await__(self) -> Generator[Any, None, Message]:
        try:
            yield self._blocker
        except BaseException as raised:
            self._rest.throw(raised)
            raise
        return (yield from self._rest)


async def _read_rest(
    message: Message, receive: Receive, limits: HttpLimits, count: Callable[[int], None]
) -> bytes:
    # Grows in place and gives what it holds without a copy: there is each byte of a large body once.
    parts = io.BytesIO()
    while True:
        part = _part_of(message, limits)
        count(len(part))
        if parts.tell() + len(part) > limits.max_body_bytes:
            raise BodyTooLargeError(limits.max_body_bytes)
        parts.write(part)
        if not message.get("more_body", False):
            return parts.getvalue()
        message = await receive()


def _part_of(message: Message, limits: HttpLimits) -> bytes:
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    part: bytes = message.get("body", b"")
    if len(part) > limits.max_body_bytes:
        raise BodyTooLargeError(limits.max_body_bytes)
    return part
