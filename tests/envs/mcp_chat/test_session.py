"""A session outlives its connections: what is told, what is made again, and when it gives up."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from mcp.types import CallToolResult, TextContent, Tool

from tests.envs.mcp_chat.support import probe
from verl_agent_env.envs.mcp_chat.errors import (
    ConnectionLostError,
    McpCallTimeoutError,
    ServerLostError,
    ServerStartError,
    SessionForgottenError,
    ToolRefusedError,
)
from verl_agent_env.envs.mcp_chat.session import HttpSession, McpSession


class FakeLink:
    """A connection that fails as it is told to."""

    def __init__(
        self,
        fault: Exception | None = None,
        *,
        starts: bool = True,
        forgotten: bool = False,
        answering: bool = True,
        session_id: str = "",
    ) -> None:
        self.fault = fault
        self.starts = starts
        self.forgotten = forgotten
        self.http_session = HttpSession(session_id, "2025-11-25") if session_id else None
        self.is_resumed = False
        self.answering = answering
        self.is_open = False
        self.tools: list[Tool] = []
        self.calls: list[str] = []

    async def open(self) -> None:
        await asyncio.sleep(0)
        if not self.starts:
            raise ServerStartError("it is broken")
        if self.forgotten:
            raise SessionForgottenError
        self.is_open = True

    def connected(self, resumed: HttpSession | None) -> FakeLink:
        """This connection, made to go on with a session or to begin one."""
        self.is_resumed = resumed is not None
        self.http_session = resumed or self.http_session
        return self

    async def call(self, tool: str, arguments: dict[str, Any]) -> CallToolResult:
        await asyncio.sleep(0)
        self.calls.append(tool)
        if self.fault is not None:
            raise self.fault
        return CallToolResult(content=[TextContent(text="fine")])

    async def answers(self) -> bool:
        return self.answering

    async def close(self, *, at_once: bool = False) -> None:
        self.is_open = False


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def session_of(*links: FakeLink, clock: Clock | None = None, **fields: Any) -> McpSession:
    waiting = list(links)
    session = McpSession(probe(**fields), lambda resumed: waiting.pop(0).connected(resumed), clock or Clock())
    await session.open()
    return session


async def test_lost_connection_is_told_and_the_call_is_not_made_again() -> None:
    first, second = FakeLink(ConnectionLostError()), FakeLink()
    session = await session_of(first, second)
    reply = await session.call("x", {}, 100)
    assert (reply.is_error, reply.has_failed) == (True, True)
    assert second.calls == []
    assert (await session.call("y", {}, 100)).content == "fine"
    assert second.calls == ["y"]


async def test_connection_found_closed_is_replaced_before_the_call() -> None:
    first, second = FakeLink(), FakeLink()
    session = await session_of(first, second)
    first.is_open = False
    reply = await session.call("x", {}, 100)
    assert (reply.is_error, reply.has_failed) == (False, True)
    assert str(reply.content).endswith("fine")
    assert (first.calls, second.calls) == ([], ["x"])


async def test_shared_server_has_nothing_to_forget_so_nothing_is_noted() -> None:
    first = FakeLink()
    session = await session_of(first, FakeLink(), shared=True)
    first.is_open = False
    assert (await session.call("x", {}, 100)).content == "fine"


async def test_calls_that_fail_together_make_one_new_connection() -> None:
    session = await session_of(FakeLink(ConnectionLostError()), FakeLink())
    replies = await asyncio.gather(*(session.call("x", {}, 100) for _ in range(5)))
    assert all(reply.has_failed for reply in replies)


async def test_late_answer_keeps_a_connection_that_still_answers() -> None:
    link = FakeLink(McpCallTimeoutError())
    session = await session_of(link)
    assert (await session.call("x", {}, 100)).has_failed
    assert link.is_open


async def test_late_answer_replaces_a_connection_that_hangs() -> None:
    link, fresh = FakeLink(McpCallTimeoutError(), answering=False), FakeLink()
    session = await session_of(link, fresh)
    assert (await session.call("x", {}, 100)).has_failed
    assert (link.is_open, fresh.is_open) == (False, True)


async def test_refused_call_is_an_error_but_no_failure() -> None:
    session = await session_of(FakeLink(ToolRefusedError("no such thing")))
    assert await session.call("x", {}, 100) == ("Error: no such thing", True, False)


async def test_server_that_does_not_come_back_is_lost() -> None:
    session = await session_of(FakeLink(ConnectionLostError()), FakeLink(starts=False))
    with pytest.raises(ServerLostError):
        await session.call("x", {}, 100)


async def test_restarts_are_counted_within_a_minute() -> None:
    clock = Clock()
    session = await session_of(
        *(FakeLink(ConnectionLostError()) for _ in range(9)), clock=clock, max_restarts=2
    )
    await session.call("x", {}, 100)
    await session.call("x", {}, 100)
    with pytest.raises(ServerLostError):
        await session.call("x", {}, 100)
    clock.now += 61
    assert (await session.call("x", {}, 100)).has_failed


async def test_closed_session_begins_no_connection() -> None:
    session = await session_of(FakeLink())
    await session.close()
    with pytest.raises(ServerLostError):
        await session.call("x", {}, 100)


async def test_a_session_that_can_be_resumed_goes_on_over_another_connection() -> None:
    first, second = FakeLink(session_id="a"), FakeLink()
    session = await session_of(first, second)
    first.is_open = False
    assert await session.call("x", {}, 100) == ("fine", False, False)
    third = FakeLink()
    session = await session_of(FakeLink(ConnectionLostError(), session_id="a"), third)
    reply = await session.call("x", {}, 100)
    assert str(reply.content).endswith("is unknown. The session goes on.")
    assert third.http_session == session.http_session


async def test_a_session_that_was_forgotten_meanwhile_is_begun_anew() -> None:
    first, forgotten, fresh = FakeLink(session_id="a"), FakeLink(forgotten=True), FakeLink(session_id="b")
    session = await session_of(first, forgotten, fresh)
    first.is_open = False
    replies = await asyncio.gather(*(session.call("x", {}, 100) for _ in range(2)))
    assert all(str(reply.content).startswith("[A new session") and reply.has_failed for reply in replies)
    assert session.http_session == HttpSession("b", "2025-11-25")


async def test_a_session_that_a_call_finds_forgotten_is_not_tried_again() -> None:
    fresh = FakeLink(session_id="b")
    session = await session_of(FakeLink(SessionForgottenError(), session_id="a"), fresh)
    assert (await session.call("x", {}, 100)).has_failed
    assert not fresh.is_resumed


async def test_a_server_that_is_away_is_asked_again_for_the_session_to_go_on_with() -> None:
    away, there = FakeLink(starts=False), FakeLink()
    waiting = [away, there]
    known = HttpSession("a", "2025-11-25")
    session = McpSession(
        probe(), lambda resumed: waiting.pop(0).connected(resumed), Clock(), http_session=known
    )
    await session.open()
    assert await session.call("x", {}, 100) == ("fine", False, False)
    assert there.http_session == known
