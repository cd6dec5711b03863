"""Requests, responses and routes: what handlers and the dispatcher have in common."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from pydantic import BaseModel

from verl_agent_env.engine import AwaitableOrValue
from verl_agent_env.engine.execution.budget import UNCOUNTED, AnswerMemory
from verl_agent_env.errors import VerlAgentEnvError
from verl_agent_env.server.http.headers import OPERATION_HEADER
from verl_agent_env.server.http.tokens import ANYBODY, Principal
from verl_agent_env.wire.operations import call_of, new_call
from verl_agent_env.wire.pieces import Body

JSON = b"application/json"
PROBLEM_JSON = b"application/problem+json"

Headers = tuple[tuple[bytes, bytes], ...]


class Request(msgspec.Struct):
    """One request, read."""

    # Structs are made in C: every request and every response is one.

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
    may_be_sent_on: bool = False
    """Whether another worker may have to handle it after this one: then it has an operation."""

    def operation(self) -> bytes:
        """Return the id under which the request is known when it is sent again; empty if it has none.

        In the form in which it reaches any worker unchanged. One that may be sent on gets one from the first try on: what was
        written may be refused all the same, when the slot has moved before the answer to the write came.
        """
        given = self.headers.get(OPERATION_HEADER)
        if given is None and not self.may_be_sent_on:
            return b""
        operation = b"" if given is None else call_of(given)
        if self.may_be_sent_on and operation != given:
            operation = operation or new_call()
            self.headers = {**self.headers, OPERATION_HEADER: operation}
        return operation


class Response(msgspec.Struct):
    """Response to a client."""

    body: Body
    media_type: bytes = JSON
    status: int = 200
    headers: Headers = ()
    """Those besides the media type, the length and the request's id."""
    stream: AsyncGenerator[bytes, None] | None = None
    """The body, in place of ``body``, where its parts come one after the other."""
    request_id: bytes = b""
    """Of the request that is answered; the dispatcher sets it."""

    def all_headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers as ASGI takes them."""
        length = () if self.stream is not None else ((b"content-length", b"%d" % len(self.body)),)
        return [
            (b"content-type", self.media_type),
            *length,
            (b"x-request-id", self.request_id),
            *self.headers,
        ]


Handler = Callable[[Request], AwaitableOrValue[Response]]
"""Handles a request. Gives the response itself where there is nothing to wait for."""


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
    at_owner: Callable[[Request], Coroutine[Any, Any, Response]] | None = None
    """Has the owner of a slot handle a request for which ``handler`` raised :class:`~verl_agent_env.errors.MovedError`; None
    where that error is the client's."""
    is_long: bool = False
    """Whether its bodies or its responses may be long, or come in parts: only the slow path counts their memory and streams."""
