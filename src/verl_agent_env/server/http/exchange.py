"""Requests on the fast path whose responses come later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

import msgspec

from verl_agent_env.engine import PendingAnswer
from verl_agent_env.errors import MovedError, ShuttingDownError
from verl_agent_env.server.http.commands import note_source
from verl_agent_env.server.http.logs import current_request_id
from verl_agent_env.server.http.peer import Peer
from verl_agent_env.server.http.types import Request, Response, Route


class Head(msgspec.Struct):
    """A request of a route's own method, without its body."""

    route: Route
    env_id: str
    path: str
    headers: Mapping[bytes, bytes]


class Finisher(Protocol):
    """Finishes responses: the dispatcher."""

    waiting: set[Exchange]
    """Exchanges whose answers wait for the store."""

    def finish(
        self, head: Head, request_id: bytes, started: float, result: Response | BaseException
    ) -> Response:
        """Write the error if it is one, add headers, count and log."""


class Exchange:
    """A request whose handler has something to wait for, until its response is delivered."""

    __slots__ = (
        "_deliver",
        "_finisher",
        "_head",
        "_peer",
        "_request",
        "_request_id",
        "_result",
        "_started",
        "_tasks",
    )

    def __init__(
        self,
        finisher: Finisher,
        head: Head,
        peer: Peer,
        request: Request,
        request_id: bytes,
        started: float,
        result: PendingAnswer[Response] | Coroutine[Any, Any, Response],
    ) -> None:
        self._finisher = finisher
        self._head = head
        self._peer = peer
        self._request = request
        self._request_id = request_id
        self._started = started
        self._result = result
        self._deliver: Callable[[Response], None]
        self._tasks: set[asyncio.Task[None]]

    def start(self, deliver: Callable[[Response], None], tasks: set[asyncio.Task[None]]) -> None:
        """Have ``deliver`` called once with the response.

        Args:
            deliver: Takes the response.
            tasks: Of the server, which cancels those that are not done in time when it stops.
        """
        self._deliver, self._tasks = deliver, tasks
        if isinstance(self._result, PendingAnswer):
            self._finisher.waiting.add(self)
            self._result.add_done_callback(self._on_written)
        else:
            self._start_task(self._result)

    def reject(self) -> None:
        """Deliver an error, because the server stops; nobody takes what comes later."""
        self._finisher.waiting.discard(self)
        self._end(ShuttingDownError())

    def _on_written(self, answer: PendingAnswer[Response]) -> None:
        waiting = self._finisher.waiting
        if self not in waiting:
            return
        waiting.discard(self)
        result: Response | BaseException
        try:
            result = answer.result()
        except Exception as raised:  # noqa: BLE001 - delivered
            result = raised
            at_owner = self._head.route.at_owner
            if at_owner is not None and isinstance(raised, MovedError):
                self._start_task(at_owner(self._request))
                return
        # The writer's context, not the request's.
        before = current_request_id.set(self._request_id)
        self._end(result)
        current_request_id.reset(before)

    def _start_task(self, coroutine: Coroutine[Any, Any, Response]) -> None:
        task = asyncio.get_running_loop().create_task(self._run(coroutine))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, coroutine: Coroutine[Any, Any, Response]) -> None:
        current_request_id.set(self._request_id)
        note_source(self._peer, self._head.headers)
        try:
            try:
                response = await coroutine
            except MovedError:
                if self._head.route.at_owner is None:
                    raise
                response = await self._head.route.at_owner(self._request)
        except asyncio.CancelledError:
            # The server stops and waits no longer for this request.
            self._end(ShuttingDownError())
            raise
        except Exception as raised:  # noqa: BLE001 - delivered
            self._end(raised)
        else:
            self._end(response)

    def _end(self, result: Response | BaseException) -> None:
        self._deliver(self._finisher.finish(self._head, self._request_id, self._started, result))
