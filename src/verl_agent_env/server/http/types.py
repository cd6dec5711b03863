"""Requests, responses and routes: what handlers and the dispatcher have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from verl_agent_env.engine.budget import UNCOUNTED, AnswerMemory
from verl_agent_env.errors import VerlAgentEnvError
from verl_agent_env.server.http.tokens import ANYBODY, Principal
from verl_agent_env.wire.pieces import Body

JSON = b"application/json"
PROBLEM_JSON = b"application/problem+json"

Headers = list[tuple[bytes, bytes]]


@dataclass(slots=True)
class Request:
    """One request, read."""

    env_id: str
    """From the path; empty where the path has none."""
    body: bytes
    query: bytes
    headers: Mapping[bytes, bytes]
    principal: Principal = ANYBODY
    """Whose the request is."""
    memory: AnswerMemory = UNCOUNTED
    """Counts the bytes of the response."""
    path: str = ""
    """As it was asked for, where it names an environment of the catalogue."""


@dataclass(slots=True)
class Response:
    """Response to a client."""

    body: Body
    media_type: bytes = JSON
    status: int = 200
    headers: Headers = field(default_factory=list)
    """Those besides the media type, the length and the request's id."""
    stream: AsyncIterator[bytes] | None = None
    """The body, in place of ``body``, where its parts come one after the other."""


Handler = Callable[[Request], Awaitable[Body | Response]]
QuickHandler = Callable[[Request], "bytes | None"]


@dataclass(frozen=True)
class Route:
    """One call of the API: its method and path, its handler, and its part of the OpenAPI document."""

    method: str
    path: str
    handler: Handler
    summary: str
    request_model: type[BaseModel] | None = None
    response_model: type[BaseModel] | None = None
    parameters: tuple[dict[str, Any], ...] = ()
    errors: tuple[type[VerlAgentEnvError], ...] = ()
    auth_scope: str = "run"
    """Scope that the request's token must have; empty where no token is needed."""
    media_types: tuple[str, ...] = ("application/json",)
    """Media types of a success."""
    tags: tuple[str, ...] = field(default=("environment",))
    is_part: bool = False
    """Whether it is a part of a call at another worker: it waits for no room, which that call may hold."""
    owned_by: Literal["environment", "key", "any"] = "any"
    """Which worker handles a request: the owner of the environment's slot, the owner of the ``Idempotency-Key``'s slot, or
    whichever got it."""
    answer_now: QuickHandler | None = None
    """Gives the handler's answer without waiting; ``None``, with nothing done, where only the handler can give it."""
