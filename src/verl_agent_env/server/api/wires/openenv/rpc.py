"""JSON-RPC 2.0 as OpenEnv's ``/mcp`` speaks it: the tools of a session, and sessions over plain HTTP."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from verl_agent_env.engine import await_maybe
from verl_agent_env.errors import EnvironmentStateError, RequestError, VerlAgentEnvError
from verl_agent_env.server.api.wires.openenv.frames import fault, text_of, tool_call, tool_specs
from verl_agent_env.server.api.wires.openenv.session import Session, SessionError

logger = logging.getLogger(__name__)

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
SERVER_ERROR = -32000

SessionMaker = Callable[["str | None", Mapping[str, Any]], Session]
"""Makes a session of an id, or a new one, with keyword arguments."""
_SESSION_FIELDS = ("seed", "task", "env_kwargs")
_FIELDS = frozenset({"jsonrpc", "method", "params", "id"})


class RpcError(Exception):
    """Convert an error into the JSON-RPC error of a failed call."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data


async def answer_text(text: str | bytes, session: Session | None, make: SessionMaker) -> dict[str, Any]:
    """Answer a request as it came; never raises.

    Args:
        text: JSON.
        session: Of the connection; ``None`` over plain HTTP, where requests name theirs.
        make: Makes sessions.
    """
    try:
        request = orjson.loads(text)
    except orjson.JSONDecodeError:
        return _failed(None, RpcError(PARSE_ERROR, "Parse error"))
    return await answer(request, session, make)


async def answer(request: Any, session: Session | None, make: SessionMaker) -> dict[str, Any]:
    """Answer a request; never raises. See :func:`answer_text`."""
    request_id = request.get("id") if isinstance(request, Mapping) else None
    try:
        return {"jsonrpc": "2.0", "id": request_id, "result": await _carry_out(request, session, make)}
    except RpcError as failed:
        return _failed(request_id, failed)
    except SessionError as failed:
        code = INVALID_PARAMS if failed.code == "SESSION_ERROR" else SERVER_ERROR
        return _failed(request_id, RpcError(code, str(failed), failed.error.to_problem()))
    except EnvironmentStateError as failed:
        return _failed(request_id, RpcError(INVALID_PARAMS, failed.detail, failed.to_problem()))
    except RequestError as failed:
        return _failed(request_id, RpcError(INVALID_PARAMS, failed.detail, failed.to_problem()))
    except VerlAgentEnvError as failed:
        return _failed(request_id, RpcError(SERVER_ERROR, failed.detail, failed.to_problem()))
    except Exception:
        logger.exception("JSON-RPC request failed")
        return _failed(request_id, RpcError(INTERNAL_ERROR, "Internal error"))


async def _carry_out(request: Any, session: Session | None, make: SessionMaker) -> Any:
    if (
        not isinstance(request, Mapping)
        or request.get("jsonrpc") != "2.0"
        or not isinstance(request.get("method"), str)
        or not _FIELDS.issuperset(request)
        or not isinstance(request.get("id"), str | int | None)
    ):
        raise RpcError(INVALID_REQUEST, "Invalid Request: send jsonrpc '2.0', a method, params and an id")
    params = request.get("params", {})
    if not isinstance(params, Mapping):
        raise RpcError(INVALID_PARAMS, "params must be an object")
    method = request["method"]
    if method == "openenv/session/create":
        return await _create(params, session, make)
    if method == "openenv/session/close":
        return await _close(params, session, make)
    if method not in ("tools/list", "tools/call"):
        raise RpcError(METHOD_NOT_FOUND, f"Method not found: {method[:64]}")
    session_id = params.get("session_id")
    if session is not None:
        return await _use(method, params, session)
    if session_id is not None:
        return await _use(method, params, make(_id_in(params), {}))
    # Without a session: an environment for this one request.
    briefly = make(None, {})
    try:
        if method == "tools/call":
            await briefly.make({})
        return await _use(method, params, briefly)
    finally:
        await briefly.close()


async def _use(method: str, params: Mapping[str, Any], session: Session) -> Any:
    if method == "tools/list":
        return {"tools": tool_specs(await session.tools(), "inputSchema")}
    name, arguments, seq = params.get("name"), params.get("arguments", {}), params.get("seq")
    if not isinstance(name, str) or not isinstance(arguments, Mapping):
        raise RpcError(INVALID_PARAMS, "a call has a 'name', and 'arguments' that are an object")
    if session.env_id is None:
        await session.make({})
    taken = await await_maybe(session.act(tool_call(name, arguments), seq))
    return {"data": text_of(taken["observation"]), **taken}


async def _create(params: Mapping[str, Any], session: Session | None, make: SessionMaker) -> dict[str, Any]:
    if session is None:
        session = make(None, {})
    if session.env_id is None:
        body = {name: params[name] for name in _SESSION_FIELDS if params.get(name) is not None}
        if not isinstance(body.get("env_kwargs", {}), Mapping):
            raise fault(["env_kwargs"], "must be an object")
        await session.make(body)
    return {"session_id": session.env_id}


async def _close(params: Mapping[str, Any], session: Session | None, make: SessionMaker) -> dict[str, Any]:
    session_id = _id_in(params)
    if session is not None and session.env_id == session_id:
        raise RpcError(INVALID_REQUEST, "A connection closes its own session with a message of type close")
    await make(session_id, {}).close()
    return {"session_id": session_id, "closed": True}


def _id_in(params: Mapping[str, Any]) -> str:
    session_id = params.get("session_id")
    if not isinstance(session_id, str) or not session_id or "/" in session_id or len(session_id) > 128:
        raise RpcError(INVALID_PARAMS, "session_id must be the one that openenv/session/create gave")
    return session_id


def _failed(request_id: Any, error: RpcError) -> dict[str, Any]:
    shown: dict[str, Any] = {"code": error.code, "message": str(error)}
    if error.data is not None:
        shown["data"] = error.data
    return {"jsonrpc": "2.0", "id": request_id, "error": shown}
