"""OpenEnv's WebSocket: one connection, one session, one message at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

import orjson
from starlette.types import Receive, Scope, Send

from verl_agent_env.engine import AwaitableOrValue, await_maybe, map_maybe
from verl_agent_env.errors import InternalError, VerlAgentEnvError
from verl_agent_env.server.api.operations import Operations
from verl_agent_env.server.api.wires.openenv import rpc
from verl_agent_env.server.api.wires.openenv.frames import (
    Frame,
    error_frame,
    fault,
    frame_of_error,
    observation_frame,
)
from verl_agent_env.server.api.wires.openenv.session import Session, SessionError
from verl_agent_env.server.http.metrics import Metrics
from verl_agent_env.server.http.socket_messages import MessageAnswer, answer_messages
from verl_agent_env.server.http.tokens import Principal

logger = logging.getLogger(__name__)

_ROUTE = "/openenv/{env_name}/ws"
_NORMAL = 1000
_TRY_AGAIN_LATER = 1013
_MAX_ID_LENGTH = 128


class SocketServer:
    """Serves the connections of one worker."""

    def __init__(self, operations: Operations, metrics: Metrics) -> None:
        self._operations = operations
        self._metrics = metrics

    async def serve(
        self, env_name: str, principal: Principal, scope: Scope, receive: Receive, send: Send, *, is_rpc: bool
    ) -> None:
        """Serve an admitted connection until it ends, or until the protocol answers its messages itself.

        The environment of a connection that breaks stays, for a client that comes back with its id; where the connection is
        closed in good order, its environment is closed, too.

        Args:
            env_name: Full name of the environment.
            principal: Whose the connection is.
            scope: As ASGI has it.
            receive: As ASGI has it.
            send: As ASGI has it.
            is_rpc: Whether it speaks JSON-RPC alone.
        """
        await receive()
        await send({"type": "websocket.accept"})
        try:
            session = await self._begin(env_name, principal, scope["query_string"])
        except (SessionError, VerlAgentEnvError) as failed:
            # Why there is no session is said before the connection ends, as OpenEnv's own server does.
            await send({"type": "websocket.send", "text": _frame_of(failed).encoded().decode()})
            await send({"type": "websocket.close", "code": _NORMAL})
            return

        def make(session_id: str | None, env_kwargs: Mapping[str, Any]) -> Session:
            return Session(
                self._operations, principal, env_name, session_id=session_id, env_kwargs=env_kwargs
            )

        conversation = _Conversation(session, make, self._metrics)
        answer = conversation.answer_rpc if is_rpc else conversation.answer
        await answer_messages(answer, scope, receive, send)

    async def _begin(self, env_name: str, principal: Principal, query: bytes) -> Session:
        given = parse_qs(query.decode("latin-1"), keep_blank_values=True)
        env_kwargs: Any = {}
        if "env_kwargs" in given:
            try:
                env_kwargs = orjson.loads(given["env_kwargs"][-1])
            except orjson.JSONDecodeError:
                env_kwargs = None
            if not isinstance(env_kwargs, dict):
                raise fault(["query", "env_kwargs"], "must be a JSON object")
        session_id = given.get("session_id", [""])[-1] or None
        if session_id is not None and ("/" in session_id or len(session_id) > _MAX_ID_LENGTH):
            raise fault(["query", "session_id"], "is the id of no session")
        session = Session(self._operations, principal, env_name, session_id=session_id, env_kwargs=env_kwargs)
        if session_id is not None:
            await session.attach()
        return session


class _Conversation:
    """The messages of one connection, which are about one session."""

    __slots__ = ("_make", "_metrics", "_session")

    def __init__(self, session: Session, make: rpc.SessionMaker, metrics: Metrics) -> None:
        self._session = session
        self._make = make
        self._metrics = metrics

    def answer(self, message: str | bytes) -> AwaitableOrValue[MessageAnswer]:
        """Answer a message; never raises."""
        started = time.perf_counter()
        try:
            answer = self._carry_out(message)
        except Exception as raised:  # noqa: BLE001 - sent
            return self._done(started, raised)
        return (
            self._done(started, answer) if isinstance(answer, MessageAnswer) else self._later(started, answer)
        )

    async def answer_rpc(self, message: str | bytes) -> MessageAnswer:
        """Answer a message that is a request of JSON-RPC; never raises."""
        return MessageAnswer(orjson.dumps(await rpc.answer_text(message, self._session, self._make)))

    async def _later(self, started: float, answer: AwaitableOrValue[MessageAnswer]) -> MessageAnswer:
        try:
            return self._done(started, await await_maybe(answer))
        except Exception as raised:  # noqa: BLE001 - sent
            return self._done(started, raised)

    def _done(self, started: float, result: MessageAnswer | Exception) -> MessageAnswer:
        """Count a message that was carried out, or that failed, and give its answer."""
        if isinstance(result, Exception):
            self._metrics.count_error(_code_of(result))
            result = self._refusal(result)
        self._metrics.latency[_ROUTE].observe(time.perf_counter() - started)
        return result

    def _refusal(self, error: Exception) -> MessageAnswer:
        frame = _frame_of(error)
        is_full = self._session.env_id is None and frame["data"]["code"] == "CAPACITY_REACHED"
        return MessageAnswer(frame.encoded(), _TRY_AGAIN_LATER if is_full else 0)

    def _carry_out(self, text: str | bytes) -> AwaitableOrValue[MessageAnswer]:
        try:
            message = orjson.loads(text)
        except orjson.JSONDecodeError as malformed:
            return MessageAnswer(error_frame("INVALID_JSON", f"Invalid JSON: {malformed}").encoded())
        if not isinstance(message, dict):
            errors = ["a message is an object"]
            return MessageAnswer(error_frame("VALIDATION_ERROR", "Invalid message", errors=errors).encoded())
        kind, data = message.get("type", ""), message.get("data")
        if kind == "step":
            return map_maybe(self._session.step(_object(data)), _observed)
        if kind == "reset":
            return map_maybe(self._session.reset({} if data is None else _object(data)), _observed)
        if kind == "state":
            return self._state()
        if kind == "mcp":
            return self._mcp(_object(data))
        if kind == "close":
            return self._leave()
        return MessageAnswer(error_frame("UNKNOWN_TYPE", f"Unknown message type: {kind!s:.64}").encoded())

    async def _state(self) -> MessageAnswer:
        return MessageAnswer(Frame(type="state", data=await self._session.state()).encoded())

    async def _mcp(self, request: dict[str, Any]) -> MessageAnswer:
        answered = await rpc.answer(request, self._session, self._make)
        return MessageAnswer(Frame(type="mcp", data=answered).encoded())

    async def _leave(self) -> MessageAnswer:
        await self._session.leave()
        return MessageAnswer(close_code=_NORMAL)


def _observed(data: dict[str, Any]) -> MessageAnswer:
    return MessageAnswer(observation_frame(data).encoded())


def _object(data: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise fault(["data"], "must be an object")
    return data


def _frame_of(error: Exception) -> Frame:
    """Say that a message was not carried out, in OpenEnv's words."""
    if isinstance(error, SessionError):
        return error_frame(error.code, str(error), problem=error.error.to_problem())
    if isinstance(error, VerlAgentEnvError):
        return frame_of_error(error)
    logger.error("WebSocket message failed", exc_info=error)
    return frame_of_error(InternalError())


def _code_of(error: Exception) -> str:
    if isinstance(error, SessionError):
        return error.error.code
    return error.code if isinstance(error, VerlAgentEnvError) else InternalError.code
