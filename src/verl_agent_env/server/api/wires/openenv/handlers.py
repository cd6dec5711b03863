"""OpenEnv's HTTP calls, for each environment under a path of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from pydantic import ConfigDict, Field

from verl_agent_env import __version__
from verl_agent_env.engine import AwaitableOrValue, await_maybe
from verl_agent_env.engine.execution.kinds import KindLoader
from verl_agent_env.envs.registry import Registry
from verl_agent_env.errors import RouteNotFoundError, UnknownEnvNameError
from verl_agent_env.server.api.operations import Operations
from verl_agent_env.server.api.wires.names import name_in, short_name
from verl_agent_env.server.api.wires.openenv import rpc
from verl_agent_env.server.api.wires.openenv.frames import (
    ACTION_SCHEMA,
    OBSERVATION_SCHEMA,
    STATE_SCHEMA,
    fault,
)
from verl_agent_env.server.api.wires.openenv.session import Session, SessionError
from verl_agent_env.server.api.wires.tasks import TaskApiHandlers, TaskLister
from verl_agent_env.server.http.types import Request, Response, Route
from verl_agent_env.wire import schemas as wire
from verl_agent_env.wire.codec import decode, encode

OPENENV_PREFIX = "/openenv/"
_BRIEF_TTL_S = 300.0
"""Of an environment that a reset over HTTP begins: its client may never come back."""


class ResetBody(wire.RequestBody):
    """Begin an episode over HTTP; other fields are keyword arguments of the environment."""

    model_config = ConfigDict(extra="allow")

    seed: int | None = Field(default=None, ge=0)
    episode_id: str | None = Field(default=None, max_length=255)
    session_id: str | None = Field(default=None, max_length=128, pattern="^[^/]+$")
    """Extension: the session whose episode it is."""


class StepBody(wire.RequestBody):
    """Carry out an action over HTTP."""

    model_config = ConfigDict(extra="ignore")

    action: dict[str, Any]
    session_id: str | None = Field(default=None, max_length=128, pattern="^[^/]+$")
    """Extension: the session whose step it is."""


class OpenEnvHandlers:
    """Answers what OpenEnv's clients and its validator ask for over HTTP."""

    def __init__(self, registry: Registry, kinds: KindLoader, operations: Operations) -> None:
        self._registry = registry
        self._kinds = kinds
        self._operations = operations
        self._tasks = TaskApiHandlers(
            TaskLister(operations),
            self._task_name,
            lambda call, full: {"env_name": full} if call == "tasks" else {},
        )

    def routes(self) -> list[Route]:
        """Give the routes of all calls."""
        one = "/openenv/{env_name}"
        read = [
            ("GET", "metadata", self.metadata), ("GET", "schema", self.schema), ("GET", "state", self.state),
            ("GET", "list_environments", self.list_environments), *self._tasks.calls(),
        ]  # fmt: skip
        run = [("POST", "reset", self.reset), ("POST", "step", self.step), ("POST", "mcp", self.mcp)]
        free = [("GET", "health", self.health), ("GET", "openapi.json", self.openapi)]
        return [
            Route(method, f"{one}/{verb}", handler, f"OpenEnv: {verb}", auth_scope=scope, tags=("openenv",))
            for scope, calls in (("read", read), ("run", run), ("", free))
            for method, verb, handler in calls
        ]

    async def health(self, request: Request) -> Response:
        """Say that the server answers."""
        self._full_name(request)
        return Response(b'{"status":"healthy"}')

    async def metadata(self, request: Request) -> Response:
        """Describe the environment."""
        full = self._full_name(request)
        await self._kinds.load((full,))
        description = self._registry.kind(full).description
        return Response(encode({"name": full, "description": description, "version": __version__}))

    async def schema(self, request: Request) -> Response:
        """Describe actions, observations and states."""
        self._full_name(request)
        return Response(
            encode({"action": ACTION_SCHEMA, "observation": OBSERVATION_SCHEMA, "state": STATE_SCHEMA})
        )

    async def state(self, request: Request) -> Response:
        """Give the state of a session; without one, the state in which each begins."""
        query = parse_qs(request.query.decode("latin-1"))
        session = self._session(request, query.get("session_id", [None])[-1])
        return Response(encode(await session.state()))

    async def reset(self, request: Request) -> Response:
        """Begin an episode; its metadata names the session that steps go on with."""
        wanted = decode(request.body or b"{}", ResetBody)
        fields = wanted.model_dump(exclude_unset=True)
        session_id = fields.pop("session_id", None)
        session = self._session(request, session_id, ttl_s=None if session_id else _BRIEF_TTL_S)
        return Response(encode(await _answered(session.reset(fields))))

    async def step(self, request: Request) -> Response:
        """Carry out an action in a session."""
        wanted = decode(request.body, StepBody)
        session = self._session(request, wanted.session_id)
        if wanted.session_id is None and wanted.action.get("type") != "list_tools":
            raise fault(["session_id"], "name the session, as the metadata of reset has it")
        try:
            return Response(encode(await _answered(session.step(wanted.action))))
        finally:
            if wanted.session_id is None:
                await session.close()

    async def mcp(self, request: Request) -> Response:
        """Answer a JSON-RPC request."""

        def make(session_id: str | None, env_kwargs: Mapping[str, Any]) -> Session:
            return self._session(request, session_id, env_kwargs)

        self._full_name(request)
        return Response(encode(await rpc.answer_text(request.body, None, make)))

    async def openapi(self, request: Request) -> Response:
        """Describe these calls in OpenAPI, as far as OpenEnv's validator reads it."""
        self._full_name(request)
        paths = {
            f"/{route.path.rpartition('/')[2]}": {route.method.lower(): {"summary": route.summary}}
            for route in self.routes()
        }
        info = {"title": "OpenEnv on verl-agent-env", "version": __version__}
        return Response(encode({"openapi": "3.1.0", "info": info, "paths": paths}))

    async def list_environments(self, request: Request) -> Response:
        """Name the environment, as the Task API's paths take it."""
        return Response(encode([short_name(self._registry, self._full_name(request))]))

    def _full_name(self, request: Request) -> str:
        return self._registry.resolve(name_in(request.path, OPENENV_PREFIX))

    def _task_name(self, request: Request) -> str:
        """Give the name of a path of the Task API, which has it twice: ``/openenv/{env_name}/{env}/tasks``."""
        parts = name_in(request.path, OPENENV_PREFIX).split("/")
        for cut in range(1, len(parts)):
            try:
                names = [self._registry.resolve("/".join(half)) for half in (parts[:cut], parts[cut:])]
            except UnknownEnvNameError:
                continue
            if names[0] == names[1]:
                return names[0]
        raise RouteNotFoundError(request.path[:256])

    def _session(
        self,
        request: Request,
        session_id: str | None,
        env_kwargs: Mapping[str, Any] | None = None,
        ttl_s: float | None = None,
    ) -> Session:
        return Session(
            self._operations,
            request.principal,
            self._full_name(request),
            session_id=session_id,
            env_kwargs=env_kwargs,
            ttl_s=ttl_s,
        )


async def _answered(answer: AwaitableOrValue[dict[str, Any]]) -> dict[str, Any]:
    try:
        return await await_maybe(answer)
    except SessionError as failed:
        raise failed.error from None
