"""MCP sessions of one event loop: one for each episode, or shared ones if the operator allows it."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from collections import Counter
from collections.abc import Coroutine
from typing import Any
from weakref import WeakKeyDictionary

from verl_agent_env.envs.mcp_chat.definition import ServerDefinition
from verl_agent_env.envs.mcp_chat.session import HttpSession, Link, McpSession
from verl_agent_env.envs.processes import LauncherClient
from verl_agent_env.errors import AtCapacityError

_STARTS_AT_ONCE = max(4, 2 * (os.cpu_count() or 1))
"""Limit of concurrent starts of servers; more would only delay each other."""


class _Shared:
    """Instances of one shared server."""

    def __init__(self) -> None:
        self.sessions: list[McpSession] = []
        self.users: Counter[McpSession] = Counter()
        self.ending: asyncio.TimerHandle | None = None


class Pool:
    """Pool of the sessions of one event loop."""

    def __init__(self) -> None:
        self._launcher: LauncherClient | None = None
        self._starts = asyncio.Semaphore(_STARTS_AT_ONCE)
        self._count: Counter[str] = Counter()
        self._shared: dict[str, _Shared] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def num_sessions(self) -> int:
        """Number of sessions that are open or opening."""
        return self._count.total()

    async def acquire(
        self, definition: ServerDefinition, http_session: HttpSession | None = None
    ) -> McpSession:
        """Open a session with a server, or return a shared one.

        Args:
            definition: Definition of the server.
            http_session: Session of a resumable server to go on with.

        Raises:
            ServerStartError: The server cannot be started or reached.
            AtCapacityError: The server has ``max_sessions`` sessions.
        """
        await _load_sdk()
        if definition.shared:
            return await self._acquire_shared(definition)
        session = self._new(definition, http_session)
        try:
            await self._open(session)
        except BaseException:
            self._count[definition.name] -= 1
            raise
        return session

    async def release(self, session: McpSession) -> None:
        """Release a session; one that is not shared is ended. Never raises."""
        shared = self._shared.get(_key(session.definition)) if session.definition.shared else None
        if shared is None or session not in shared.users:
            await self._end(session)
            return
        shared.users[session] -= 1
        if shared.users.total() == 0:
            idle_s = session.definition.idle_s
            shared.ending = asyncio.get_running_loop().call_later(
                idle_s, self._end_shared, session.definition
            )

    def release_soon(self, session: McpSession) -> None:
        """Release a session in the background."""
        self._run(self.release(session))

    async def end(self, definition: ServerDefinition, http_session: HttpSession) -> None:
        """End a session of a resumable server, which needs no connection. Never raises."""
        await _load_sdk()
        from verl_agent_env.envs.mcp_chat.http import end_session

        await end_session(definition, http_session)

    def end_soon(self, definition: ServerDefinition, http_session: HttpSession) -> None:
        """End a session of a resumable server in the background."""
        self._run(self.end(definition, http_session))

    async def aclose(self) -> None:
        """End all shared sessions and the launcher, and with it all remaining server processes."""
        for shared in self._shared.values():
            if shared.ending is not None:
                shared.ending.cancel()
            for session in shared.sessions:
                self._run(self._end(session))
        self._shared.clear()
        while self._tasks:
            await asyncio.wait(self._tasks)
        launcher, self._launcher = self._launcher, None
        if launcher is not None:
            await launcher.aclose()

    async def _acquire_shared(self, definition: ServerDefinition) -> McpSession:
        shared = self._shared.setdefault(_key(definition), _Shared())
        if shared.ending is not None:
            shared.ending.cancel()
            shared.ending = None
        if len(shared.sessions) < definition.instances:
            session = self._new(definition)
            shared.sessions.append(session)
        else:
            session = min(shared.sessions, key=lambda each: shared.users[each])
        shared.users[session] += 1
        try:
            await self._open(session)
        except BaseException:
            await self.release(session)
            raise
        return session

    def _new(self, definition: ServerDefinition, http_session: HttpSession | None = None) -> McpSession:
        # Imported here: the SDK is an extra.
        from verl_agent_env.envs.mcp_chat.connection import McpConnection

        def connect(resumed: HttpSession | None) -> Link:
            return McpConnection(definition, self._running_launcher, resumed)

        if self._count[definition.name] >= definition.max_sessions:
            raise AtCapacityError(f"sessions of the MCP server '{definition.name}'", definition.max_sessions)
        self._count[definition.name] += 1
        return McpSession(definition, connect, http_session=http_session)

    async def _open(self, session: McpSession) -> None:
        async with self._starts:
            await session.open()

    async def _end(self, session: McpSession) -> None:
        try:
            await session.close()
        finally:
            self._count[session.definition.name] -= 1

    def _end_shared(self, definition: ServerDefinition) -> None:
        shared = self._shared.pop(_key(definition), None)
        for session in shared.sessions if shared is not None else ():
            self._run(self._end(session))

    def _running_launcher(self) -> LauncherClient:
        if self._launcher is None or not self._launcher.is_alive:
            self._launcher = LauncherClient()
        return self._launcher

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


_pools: WeakKeyDictionary[asyncio.AbstractEventLoop, Pool] = WeakKeyDictionary()


def pool_here() -> Pool:
    """Return the pool of the running event loop."""
    loop = asyncio.get_running_loop()
    pool = _pools.get(loop)
    if pool is None:
        pool = _pools[loop] = Pool()
    return pool


async def _load_sdk() -> None:
    """Import the SDK, which takes a second, without blocking the event loop."""
    name = "verl_agent_env.envs.mcp_chat.connection"
    if name not in sys.modules:
        await asyncio.to_thread(importlib.import_module, name)


def _key(definition: ServerDefinition) -> str:
    """Return a key of all fields of a definition; kept in memory only."""
    return definition.model_dump_json()
