"""One MCP session, opened, kept and closed by its own task, as the SDK's contexts require."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx2
from mcp import Client, ClientSession, MCPError
from mcp.types import (
    CONNECTION_CLOSED,
    REQUEST_TIMEOUT,
    CallToolResult,
    Implementation,
    Tool,
)
from pydantic import ValidationError

from verl_agent_env import __version__
from verl_agent_env.envs.mcp_chat.definition import ServerDefinition
from verl_agent_env.envs.mcp_chat.errors import (
    ConnectionLostError,
    McpCallTimeoutError,
    NoMcpAnswerError,
    ServerStartError,
    SessionForgottenError,
    ToolRefusedError,
)
from verl_agent_env.envs.mcp_chat.http import http_transport, refuses_session
from verl_agent_env.envs.mcp_chat.pages import pages_of
from verl_agent_env.envs.mcp_chat.resources import READ_RESOURCE, read_resource, reading_tool
from verl_agent_env.envs.mcp_chat.resumption import resumed_session
from verl_agent_env.envs.mcp_chat.schemas import with_schemas_of_objects
from verl_agent_env.envs.mcp_chat.session import HttpSession
from verl_agent_env.envs.mcp_chat.stdio import StandardError, stdio_transport
from verl_agent_env.envs.processes import LauncherClient

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

logger = logging.getLogger("verl_agent_env.mcp")

_PROBE_S = 2.0
_LATE_S = 1.0
_CLOSE_S = 15.0
_REFUSALS_S = 2.0
_MAX_REASON_CHARS = 300
_MAX_SESSION_ID_CHARS = 1_024
_NO_ANSWERS = (
    *("Server returned an error response", "Unexpected content type: ", "Redirect to "),
    *(
        "Failed to parse JSON response: ",
        "Failed to parse SSE message: ",
        "server answered a request with 202",
    ),
)
"""How the SDK begins to say that an HTTP answer is no MCP, in the form of a server's own errors."""
_US = Implementation(name="verl-agent-env", version=__version__)


class McpConnection:
    """Live session with one server."""

    def __init__(
        self,
        definition: ServerDefinition,
        launcher: Callable[[], LauncherClient],
        resumed: HttpSession | None = None,
    ) -> None:
        self._definition = definition
        self._launcher = launcher
        self._errors = StandardError(definition)
        self._leaving = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_hurried = False
        self._is_forgotten = False
        self._has_ended = False
        self._calls: set[asyncio.Timeout] = set()
        """Time-outs of the running calls."""
        self._answered = asyncio.Event()
        """Set while no call is running."""
        self._client: Client | ClientSession | None = None
        self._begun_session_id = ""
        self.is_resumed = resumed is not None
        """True if it goes on with a session that another connection began."""
        self.http_session = resumed
        """Session that another connection can go on with; ``None`` until it is open, and with a server that is not resumable."""
        self.is_open = False
        """True while calls can be sent; false as soon as a stdio server has exited."""
        self.tools: list[Tool] = []
        """Tools that the server listed at the start of the session."""
        self._reads_resources = False

    async def open(self) -> None:
        """Start or reach the server and list its tools.

        Raises:
            ServerStartError: The server cannot be run or reached, or did not respond in time.
            SessionForgottenError: The server does not know the session that was to be gone on with.
        """
        definition = self._definition
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._live(ready), name=f"mcp-{definition.name}")
        reason = ""
        try:
            async with asyncio.timeout(definition.start_timeout_s):
                await ready
            return
        except TimeoutError:
            reason = f"it did not answer within {definition.start_timeout_s:g} s"
        except ServerStartError as refused:
            reason = str(refused)
        except BaseException:
            await self.close(at_once=True)
            raise
        await self.close(at_once=True)
        if self._is_forgotten and self.is_resumed:
            raise SessionForgottenError
        said = self._errors.tail()
        logger.warning(
            "an MCP server did not start: %s", reason, extra={"mcp_server": definition.name, "stderr": said}
        )
        raise ServerStartError(f"The MCP server '{definition.name}' did not start: {reason}.")

    async def call(self, tool: str, arguments: dict[str, Any]) -> CallToolResult:
        """Call a tool; cancelling the caller cancels the call.

        Raises:
            McpCallTimeoutError: No response in time.
            ConnectionLostError: The session ended; whether the call was carried out is unknown.
            SessionForgottenError: The server does not know the session any more; the call was not carried out.
            NoMcpAnswerError: What answered is no MCP, such as a proxy's page; whether the call was carried out is unknown.
            ToolRefusedError: The server refused the call; the message is for the model.
        """
        if not self.is_open or self._client is None:
            raise ConnectionLostError
        timeout_s = self._definition.call_timeout_s
        try:
            # The SDK's limit also cancels the call at the server; the outer one covers a server that does not even read.
            async with self._under_way(timeout_s + _LATE_S):
                if tool == READ_RESOURCE and self._reads_resources:
                    return await read_resource(_session_of(self._client), arguments)
                return await self._client.call_tool(tool, arguments, read_timeout_seconds=timeout_s)
        except ToolRefusedError:
            raise
        except TimeoutError:
            if self._has_ended:
                raise ConnectionLostError from None
            raise McpCallTimeoutError from None
        except MCPError as error:
            if self._has_http_session and refuses_session(error):
                self._forgotten()
            # First: a server that does not know the session may say so with the code of a time-out.
            if not self.is_open or error.code == CONNECTION_CLOSED:
                raise self._lost_error() from None
            if error.code == REQUEST_TIMEOUT:
                raise McpCallTimeoutError from None
            if error.message.startswith(_NO_ANSWERS):
                raise NoMcpAnswerError from None
            raise ToolRefusedError(self._definition.redactor.hide(error.message)) from None
        except Exception as error:  # noqa: BLE001 - whatever the SDK raises is told to the model
            if not self.is_open or isinstance(_first(error), OSError | httpx2.TransportError):
                raise self._lost_error() from None
            # A result that breaks the protocol or the tool's own schema, a question to the user, …
            raise ToolRefusedError(
                f"the server's answer cannot be used ({type(_first(error)).__name__})"
            ) from None

    async def answers(self) -> bool:
        """Return true if the server still responds to a ping."""
        if not self.is_open or self._client is None:
            return False
        try:
            async with asyncio.timeout(_PROBE_S):
                await self._client.list_tools()
        except (TimeoutError, Exception):  # noqa: BLE001 - whatever it is, it is no answer
            return False
        return True

    async def close(self, *, at_once: bool = False) -> None:
        """End the session, and the process of a stdio server; takes bounded time and never raises.

        Args:
            at_once: True to kill the server without a grace period, because it hangs.
        """
        self.is_open = False
        self._leaving.set()
        task = self._task
        if task is None:
            return
        if at_once:
            if self._is_forgotten and self._calls:
                # Each is about to be refused, and may then be made again.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_REFUSALS_S):
                        await self._answered.wait()
            self._is_hurried = True
            task.cancel()
        done, _ = await asyncio.wait([task], timeout=_CLOSE_S)
        if not done:
            task.cancel()
            await asyncio.wait([task], timeout=_CLOSE_S)

    async def _live(self, ready: asyncio.Future[None]) -> None:
        try:
            async with self._opened() as client:
                self.tools = await self._list_tools(_session_of(client))
                self._client = client
                self.is_open = not self._leaving.is_set()
                if not ready.done():
                    ready.set_result(None)
                await self._leaving.wait()
        except Exception as error:  # noqa: BLE001 - it is told to whoever waits for the session
            if not ready.done():
                ready.set_exception(ServerStartError(self._reason(error)))
        finally:
            self._client = None
            self._has_ended = True
            self._lost()
            # The SDK leaves some of them waiting.
            for limit in self._calls:
                limit.reschedule(asyncio.get_running_loop().time())
            if not ready.done():
                ready.set_exception(ServerStartError("it ended at once"))
            if not ready.cancelled():
                # Retrieve the exception: nobody else does if the opener was cancelled.
                ready.exception()

    @asynccontextmanager
    async def _opened(self) -> AsyncGenerator[Client | ClientSession, None]:
        """Begin a session, or go on with the one that was given.

        Raises:
            ServerStartError: The server is to be resumable, and begins no session that could be.
        """
        definition, resumed = self._definition, self.http_session
        if resumed is not None:
            async with resumed_session(
                self._transport(), resumed, _US, definition.start_timeout_s
            ) as session:
                yield session
            return
        async with Client(
            self._transport(),
            # Only the handshake of 2025 begins a session.
            mode="legacy" if definition.resumable else definition.protocol,
            read_timeout_seconds=definition.start_timeout_s,
            client_info=_US,
            cache=None,
        ) as client:
            if definition.resumable:
                if not 0 < len(self._begun_session_id) <= _MAX_SESSION_ID_CHARS:
                    raise ServerStartError("it is 'resumable', and begins no session that could be resumed")
                self.http_session = HttpSession(self._begun_session_id, client.protocol_version)
            yield client

    async def _list_tools(self, session: ClientSession) -> list[Tool]:
        tools = await _list_tools(session)
        if self._definition.resources and all(tool.name != READ_RESOURCE for tool in tools):
            reading = await reading_tool(session)
            self._reads_resources = reading is not None
            tools += [reading] if reading is not None else []
        return tools

    @asynccontextmanager
    async def _under_way(self, timeout_s: float) -> AsyncGenerator[None, None]:
        """Limit a call by time, and by the end of the session.

        Raises:
            TimeoutError: The time limit or the end of the session came before the response.
        """
        async with asyncio.timeout(timeout_s) as limit:
            self._calls.add(limit)
            self._answered.clear()
            try:
                yield
            finally:
                self._calls.discard(limit)
                if not self._calls:
                    self._answered.set()

    def _grace_s(self) -> float:
        return 0.0 if self._is_hurried else self._definition.stop_grace_s

    def _lost(self) -> None:
        self.is_open = False
        self._leaving.set()

    def _lost_error(self) -> ConnectionLostError | SessionForgottenError:
        """End the session; return the error of a call that was running then."""
        self._lost()
        # Over SSE, and at the end of a session, it is not known which calls were refused and which were under way.
        is_refused = self._is_forgotten and not self._has_ended and self._definition.type != "sse"
        return SessionForgottenError() if is_refused else ConnectionLostError()

    def _forgotten(self) -> None:
        """Mark the session as refused by the server; running calls get the server's own refusals."""
        self._is_forgotten = True
        self.is_open = False
        if self._definition.type == "sse":
            # There the refusal of a message is not its answer, which would be waited for in vain.
            self._leaving.set()

    @property
    def _has_http_session(self) -> bool:
        return bool(self._begun_session_id) or self.is_resumed

    def _begun(self, session_id: str) -> None:
        self._begun_session_id = session_id

    def _transport(self) -> AbstractAsyncContextManager[TransportStreams]:
        transport: AbstractAsyncContextManager[TransportStreams]
        if self._definition.type == "stdio":
            transport = stdio_transport(
                self._definition, self._launcher, self._errors, self._lost, self._grace_s
            )
        else:
            transport = http_transport(self._definition, self._forgotten, self._begun, self.http_session)
        return with_schemas_of_objects(transport)

    def _reason(self, error: BaseException) -> str:
        """Describe why the session could not begin, without any secret."""
        first = _first(error)
        if isinstance(first, ServerStartError):
            return str(first)
        if isinstance(first, MCPError):
            if first.code == CONNECTION_CLOSED:
                return "it ended, or closed the connection"
            # The first line: the SDK's errors go on with all that a message could have been.
            return self._definition.redactor.hide(first.message.partition("\n")[0])[:_MAX_REASON_CHARS]
        if isinstance(first, httpx2.HTTPStatusError):
            return f"it answered with HTTP status {first.response.status_code}"
        if isinstance(first, httpx2.TransportError | OSError):
            return f"it cannot be reached ({type(first).__name__})"
        if isinstance(first, ValidationError):
            broken = first.errors(include_url=False, include_input=False, include_context=False)[0]
            place = ".".join(map(str, broken["loc"]))
            return self._definition.redactor.hide(
                f"what it says breaks the protocol ({place}: {broken['msg']})"
            )
        return f"the session could not begin ({type(first).__name__})"


async def _list_tools(session: ClientSession) -> list[Tool]:
    if session.server_capabilities is None or session.server_capabilities.tools is None:
        return []
    found: dict[str, Tool] = {}
    async for page in pages_of(session.list_tools):
        for tool in page.tools:
            # Calls name a tool, so one that is listed twice is one.
            found.setdefault(tool.name, tool)
    return list(found.values())


def _session_of(client: Client | ClientSession) -> ClientSession:
    return client if isinstance(client, ClientSession) else client.session


def _first(error: BaseException) -> BaseException:
    """Return the first error inside nested exception groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
