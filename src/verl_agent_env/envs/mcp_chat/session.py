"""Session with an MCP server that survives the restart of the server."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from verl_agent_env.envs.mcp_chat.content import content_of, cut
from verl_agent_env.envs.mcp_chat.definition import ServerDefinition
from verl_agent_env.envs.mcp_chat.errors import (
    ConnectionLostError,
    McpCallTimeoutError,
    NoMcpAnswerError,
    ServerLostError,
    ServerStartError,
    SessionForgottenError,
    ToolRefusedError,
)
from verl_agent_env.types import Content

if TYPE_CHECKING:
    from mcp.types import CallToolResult, Tool

_RESTART_WINDOW_S = 60.0
_PAUSE_S = 0.5
_MAX_PAUSE_S = 4.0


class HttpSession(NamedTuple):
    """Session of streamable HTTP, as any client needs to know it to go on with it."""

    session_id: str
    """Value of the header ``Mcp-Session-Id``."""
    protocol_version: str
    """Version of the protocol that its handshake agreed on."""


class Link(Protocol):
    """Protocol of a live connection, such as :class:`~verl_agent_env.envs.mcp_chat.connection.McpConnection`."""

    is_open: bool
    is_resumed: bool
    http_session: HttpSession | None
    tools: list[Tool]

    async def open(self) -> None:
        """Open the connection."""

    async def call(self, tool: str, arguments: dict[str, Any]) -> CallToolResult:
        """Call a tool."""

    async def answers(self) -> bool:
        """Return true if the server responds."""

    async def close(self, *, at_once: bool = False) -> None:
        """Close the connection."""


class CallResult(NamedTuple):
    """Result of a call."""

    content: Content
    is_error: bool = False
    """True if the tool reported an error, or did not respond."""
    has_failed: bool = False
    """True if the server failed: it ended, forgot the session, or did not respond in time."""


class McpSession:
    """Session with one server, reopened when the server ends.

    A call that was running at that time is not repeated: it may have been carried out. Several environments use a shared
    session at a time.
    """

    def __init__(
        self,
        definition: ServerDefinition,
        connect: Callable[[HttpSession | None], Link],
        clock: Callable[[], float] = time.monotonic,
        http_session: HttpSession | None = None,
    ) -> None:
        """Open nothing yet.

        Args:
            definition: Definition of the server.
            connect: Makes a connection, which begins a session, or goes on with the one that is given.
            clock: Seconds.
            http_session: Session to go on with; by default a new one is begun.
        """
        self.definition = definition
        self.http_session = http_session
        """Session of a resumable server; None before one is begun, and of other servers."""
        self._connect = connect
        self._clock = clock
        self._link: Link | None = None
        self._restarting = asyncio.Lock()
        self._restarts: deque[float] = deque()
        self._closed = False

    @property
    def tools(self) -> list[Tool]:
        """Tools of the server."""
        return [] if self._link is None else self._link.tools

    async def open(self) -> None:
        """Open the session, unless it is open.

        Raises:
            ServerStartError: The server cannot be started or reached.
        """
        async with self._restarting:
            if self._link is not None:
                return
            link = self._connect(self.http_session)
            try:
                await link.open()
            except SessionForgottenError:
                # The first call begins another one, and tells of it.
                self.http_session = None
            except ServerStartError:
                # The first call tries again, and tells what came of it, if there is a session to go on with.
                if self.http_session is None:
                    raise
            else:
                self._keep(link)

    async def call(self, tool: str, arguments: dict[str, Any], max_chars: int) -> CallResult:
        """Call a tool.

        Raises:
            ServerLostError: The server is gone and cannot be restarted.
        """
        link, is_fresh = self._link, False
        if link is None or not link.is_open:
            link = await self._reopened(link)
            is_fresh = not link.is_resumed
        try:
            return await self._call_on(link, tool, arguments, max_chars, is_fresh=is_fresh)
        except SessionForgottenError:
            link = await self._reopened(link, is_forgotten=True)
        try:
            # Made again, for the server refused it: it was not carried out.
            return await self._call_on(link, tool, arguments, max_chars, is_fresh=True)
        except SessionForgottenError:
            text = f"The server '{self.definition.name}' refuses the sessions that it begins."
            return CallResult(f"Error: {text}", is_error=True, has_failed=True)

    async def _call_on(
        self, link: Link, tool: str, arguments: dict[str, Any], max_chars: int, *, is_fresh: bool
    ) -> CallResult:
        """Call a tool on a connection, which is_fresh if it was opened for this call in place of another one.

        Raises:
            ServerLostError: The server is gone and does not come back.
            SessionForgottenError: The server does not know the session.
        """
        name, note = self.definition.name, ""
        if is_fresh and not self.definition.shared:
            note = f"[A new session with the server '{name}' was begun before this call; what it remembered is gone.]"
        try:
            result = await link.call(tool, arguments)
        except ToolRefusedError as refused:
            text = cut(str(refused), max_chars)
            return CallResult(_noted(note, f"Error: {text}"), is_error=True, has_failed=is_fresh)
        except NoMcpAnswerError:
            text = f"What answered for the server '{name}' is no MCP; whether the call was carried out is unknown."
            return CallResult(_noted(note, f"Error: {text}"), is_error=True, has_failed=True)
        except McpCallTimeoutError:
            text = f"The tool '{tool}' did not answer within {self.definition.call_timeout_s:g} s; the call was given up."
            if await link.answers():
                return CallResult(_noted(note, f"Error: {text}"), is_error=True, has_failed=True)
            renewal = self._renewal(await self._reopened(link))
            return CallResult(f"Error: {text} {renewal}", is_error=True, has_failed=True)
        except ConnectionLostError:
            renewal = self._renewal(await self._reopened(link))
            text = f"The server '{name}' ended during the call; whether it was carried out is unknown."
            return CallResult(f"Error: {text} {renewal}", is_error=True, has_failed=True)
        content = content_of(result, self.definition.redactor, max_chars)
        return CallResult(_noted(note, content), is_error=result.is_error, has_failed=is_fresh)

    async def close(self) -> None:
        """End the session; never raises."""
        self._closed = True
        async with self._restarting:
            link, self._link = self._link, None
            if link is not None:
                await link.close()

    async def _reopened(self, dead: Link | None, *, is_forgotten: bool = False) -> Link:
        """Return a connection in place of ``dead``: a new one, or the one that a concurrent call has opened.

        Args:
            dead: Connection that is of no use any more.
            is_forgotten: True if the server does not know its session any more, which nobody can go on with then.

        Raises:
            ServerLostError: No connection could be opened.
        """
        name = self.definition.name
        async with self._restarting:
            if self._closed:
                raise ServerLostError(f"The session with the MCP server '{name}' was closed.")
            link = self._link
            if link is not None and link is not dead and link.is_open:
                return link
            now = self._clock()
            while self._restarts and now - self._restarts[0] > _RESTART_WINDOW_S:
                self._restarts.popleft()
            if len(self._restarts) >= self.definition.max_restarts:
                raise ServerLostError(
                    f"The MCP server '{name}' ended again, after {len(self._restarts)} restarts within a minute."
                )
            self._restarts.append(now)
            if link is not None:
                await link.close(at_once=True)
            if is_forgotten:
                self.http_session = None
            return self._keep(await self._connected_again())

    async def _connected_again(self) -> Link:
        """Reconnect to a server that ended. A server at a URL is restarted by its operator, which takes a moment.

        Raises:
            ServerLostError: It does not come back.
        """
        tries = 1 if self.definition.type == "stdio" else max(1, self.definition.max_restarts)
        for number in range(tries):
            try:
                return await self._connected()
            except ServerStartError as refused:
                reason = refused
            if number + 1 < tries:
                await asyncio.sleep(min(_PAUSE_S * 2**number, _MAX_PAUSE_S))
        raise ServerLostError(
            f"The MCP server '{self.definition.name}' ended and did not come back: {reason}"
        )

    async def _connected(self) -> Link:
        """Connect: in the session that there was, where the server still knows that, else in a new one.

        Raises:
            ServerStartError: The server cannot be started or reached.
        """
        if self.http_session is not None:
            resumed = self._connect(self.http_session)
            try:
                await resumed.open()
            except SessionForgottenError:
                self.http_session = None
            else:
                return resumed
        fresh = self._connect(None)
        await fresh.open()
        return fresh

    def _keep(self, link: Link) -> Link:
        self._link, self.http_session = link, link.http_session
        return link

    def _renewal(self, link: Link) -> str:
        if link.is_resumed:
            return "The session goes on."
        kept = "" if self.definition.shared else "; what the server remembered is gone"
        return f"A new session was begun{kept}."


def _noted(note: str, content: Content) -> Content:
    if not note:
        return content
    if isinstance(content, str):
        return f"{note}\n{content}"
    return [{"type": "text", "text": note}, *content]
