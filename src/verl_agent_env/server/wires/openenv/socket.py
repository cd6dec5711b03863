"""OpenEnv's WebSocket: one connection, one session, one message at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

import orjson
from starlette.types import Receive, Scope, Send

from verl_agent_env.errors import InternalError, VerlAgentEnvError
from verl_agent_env.server.api.operations import Operations
from verl_agent_env.server.http.metrics import Metrics
from verl_agent_env.server.http.tokens import Principal
from verl_agent_env.server.wires.openenv import rpc
from verl_agent_env.server.wires.openenv.frames import (
    Frame,
    error_frame,
    fault,
    frame_of_error,
    observation_frame,
)
from verl_agent_env.server.wires.openenv.session import Session, SessionError

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
        """Serve an admitted connection until it ends.

        The environment of a connection that breaks lives on, for whoever comes back with its id; one that is closed in good
        order is closed with it.

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
        except SessionError as failed:
            await _refuse(send, error_frame(failed.code, str(failed), problem=failed.error.to_problem()))
            return
        except VerlAgentEnvError as failed:
            await _refuse(send, frame_of_error(failed))
            return
        while True:
            message = await receive()
            if message["type"] != "websocket.receive":
                return
            text = message.get("text") or message.get("bytes") or b""
            if is_rpc:
                answer = await rpc.answer_text(text, session, self._maker(env_name, principal))
                await send({"type": "websocket.send", "text": orjson.dumps(answer).decode()})
                continue
            frame = await self._answer(text, session, env_name, principal)
            if frame is None:
                await session.leave()
                await send({"type": "websocket.close", "code": _NORMAL})
                return
            await send({"type": "websocket.send", "text": frame.encoded()})
            if session.env_id is None and frame["data"].get("code") == "CAPACITY_REACHED":
                await send({"type": "websocket.close", "code": _TRY_AGAIN_LATER})
                return

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

    async def _answer(
        self, text: str | bytes, session: Session, env_name: str, principal: Principal
    ) -> Frame | None:
        """Answer a message; ``None`` where it asks for the end."""
        started = time.perf_counter()
        code = ""
        try:
            return await self._carry_out(text, session, env_name, principal)
        except SessionError as failed:
            code = failed.error.code
            return error_frame(failed.code, str(failed), problem=failed.error.to_problem())
        except VerlAgentEnvError as failed:
            code = failed.code
            return frame_of_error(failed)
        except Exception:
            logger.exception("WebSocket message failed")
            code = InternalError.code
            return frame_of_error(InternalError())
        finally:
            self._metrics.observe(_ROUTE, time.perf_counter() - started, code)

    async def _carry_out(
        self, text: str | bytes, session: Session, env_name: str, principal: Principal
    ) -> Frame | None:
        try:
            message = orjson.loads(text)
        except orjson.JSONDecodeError as malformed:
            return error_frame("INVALID_JSON", f"Invalid JSON: {malformed}")
        if not isinstance(message, dict):
            return error_frame("VALIDATION_ERROR", "Invalid message", errors=["a message is an object"])
        kind, data = message.get("type", ""), message.get("data")
        if kind == "step":
            return observation_frame(await session.step(_object(data)))
        if kind == "reset":
            return observation_frame(await session.reset({} if data is None else _object(data)))
        if kind == "state":
            return Frame(type="state", data=await session.state())
        if kind == "mcp":
            answered = await rpc.answer(_object(data), session, self._maker(env_name, principal))
            return Frame(type="mcp", data=answered)
        if kind == "close":
            return None
        return error_frame("UNKNOWN_TYPE", f"Unknown message type: {kind!s:.64}")

    def _maker(self, env_name: str, principal: Principal) -> rpc.SessionMaker:
        def make(session_id: str | None, env_kwargs: Mapping[str, Any]) -> Session:
            return Session(
                self._operations, principal, env_name, session_id=session_id, env_kwargs=env_kwargs
            )

        return make


def _object(data: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise fault(["data"], "must be an object")
    return data


async def _refuse(send: Send, frame: Frame) -> None:
    """Say why there is no session, then end the connection, as OpenEnv's own server does."""
    await send({"type": "websocket.send", "text": frame.encoded()})
    await send({"type": "websocket.close", "code": _NORMAL})
