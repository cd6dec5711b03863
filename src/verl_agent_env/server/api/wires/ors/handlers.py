"""ORS' calls. A session is an environment of this server, whose id is chosen before it is made."""

from __future__ import annotations

import logging
import re
from typing import Any

import orjson
from pydantic import ConfigDict, model_validator

from verl_agent_env import __version__
from verl_agent_env.engine import AwaitableOrValue, await_maybe
from verl_agent_env.engine.execution.kinds import KindLoader
from verl_agent_env.envs.registry import Registry
from verl_agent_env.errors import (
    ActionTooLargeError,
    EnvironmentNotFoundError,
    EpisodeEndedError,
    InternalError,
    InvalidRequestError,
    VerlAgentEnvError,
)
from verl_agent_env.messages import content_text, text_part
from verl_agent_env.server.api.operations import Operations
from verl_agent_env.server.api.wires.names import name_in, short_name
from verl_agent_env.server.api.wires.ors.events import events, events_of_work
from verl_agent_env.server.api.wires.ors.root_requests import ORS_PREFIX
from verl_agent_env.server.api.wires.tasks import TaskApiHandlers, TaskLister
from verl_agent_env.server.http.events import event, json_event
from verl_agent_env.server.http.headers import OPERATION_HEADER
from verl_agent_env.server.http.types import Handler, Request, Response, Route
from verl_agent_env.types import Action, Observation
from verl_agent_env.wire.codec import decode, encode
from verl_agent_env.wire.operations import call_of, new_call
from verl_agent_env.wire.schemas import RequestBody

logger = logging.getLogger(__name__)

SESSION_TTL_S = 900.0
"""ORS' own: a client pings every ten seconds."""
ANSWER_TOOL = "answer"
"""Of environments without tools: ORS' way to say that the model's message is its action."""

_ONE = "/api/environment/"
_SESSION_ID = re.compile(rb"[^/?%\s]{1,128}")
_CALL_ID = "call_0"
_DATA_URL = re.compile(r"data:(image/[\w.+-]+);base64,(.*)", re.DOTALL)
_ROOT = frozenset(
    {"health", "version", "list_environments", "create_session", "create", "delete", "delete_session", "ping"}
)


_Call = tuple[str, str, Handler]


class _Body(RequestBody):
    model_config = ConfigDict(extra="ignore")


class CreateBody(_Body):
    """Begin the episode of a task."""

    env_name: str | None = None
    task_spec: dict[str, Any] | None = None
    """A task as the server lists it, or an own one: ``seed``, ``env_kwargs``, ``split`` and ``index``."""
    split: str | None = None
    index: int | None = None

    @model_validator(mode="after")
    def _check_task(self) -> CreateBody:
        if (self.task_spec is None) == (self.split is None or self.index is None):
            raise ValueError("give either a task_spec, or both split and index")
        return self


class CallBody(_Body):
    """Call a tool."""

    name: str
    input: dict[str, Any]
    task_id: str | None = None
    """Of a call whose answer was lost: it is answered as the first time, and not carried out again."""


class OrsHandlers:
    """Answers ORS' calls, with and without the environment's name in their paths."""

    def __init__(self, registry: Registry, kinds: KindLoader, operations: Operations) -> None:
        self._registry = registry
        self._kinds = kinds
        self._operations = operations
        self._tasks = TaskApiHandlers(
            TaskLister(operations),
            self._env_name,
            lambda call, full: {} if call == "num_tasks" else {"env_name": short_name(registry, full)},
        )

    def routes(self) -> list[Route]:
        """Give the routes of all calls."""
        free: list[_Call] = [("GET", "health", self.health), ("GET", "version", self.version)]
        read: list[_Call] = [
            ("GET", "list_environments", self.list_environments), ("GET", "tools", self.tools),
            *self._tasks.calls(),
        ]  # fmt: skip
        run: list[_Call] = [
            ("POST", "create_session", self.create_session), ("POST", "create", self.create),
            ("POST", "delete", self.delete), ("POST", "delete_session", self.delete_session),
            ("POST", "ping", self.ping), ("GET", "task_tools", self.task_tools), ("GET", "prompt", self.prompt),
            ("POST", "call", self.call),
        ]  # fmt: skip
        return [
            Route(
                method,
                f"{prefix}/{verb}",
                handler,
                f"ORS: {verb}",
                auth_scope=scope,
                tags=("ors",),
                is_long=verb == "call",
            )
            for scope, calls in (("", free), ("read", read), ("run", run))
            for method, verb, handler in calls
            for prefix in (ORS_PREFIX, *(() if verb in _ROOT else (f"{ORS_PREFIX}/{{env_name}}",)))
        ]

    # --- the server and its environments --------------------------------------------------------------------

    async def health(self, request: Request) -> Response:
        """Say that the server answers."""
        return Response(b'{"status":"ok"}')

    async def version(self, request: Request) -> Response:
        """Name the server's version."""
        return Response(encode({"version": __version__, "build_sha": None}))

    async def list_environments(self, request: Request) -> Response:
        """Name all environments."""
        return Response(encode([short_name(self._registry, full) for full in self._registry.names()]))

    async def tools(self, request: Request) -> Response:
        """List an environment's tools, as all of its sessions have them."""
        full = self._env_name(request)
        await self._kinds.load((full,))
        return Response(
            encode(
                _shown_tools(
                    [tool.openai() for tool in getattr(self._registry.kind(full).env_class, "tools", ())]
                )
            )
        )

    # --- sessions -------------------------------------------------------------------------------------------

    async def create_session(self, request: Request) -> Response:
        """Choose a session's id; its environment is made by ``create``."""
        return events(event("task_id", self._operations.new_env_id(request.principal)), event("end"))

    async def create(self, request: Request) -> Response:
        """Make the session's environment, which begins the episode of a task; once, however often it is asked for."""
        session_id, wanted = _session_of(request), decode(request.body, CreateBody)
        named = wanted.env_name or _deployment(request)
        if not named:
            raise _fault(["env_name"], "name the environment, here or in X-Deployment")
        body = {"env_name": self._registry.resolve(named), "ttl_s": SESSION_TTL_S, **_episode(wanted)}
        await self._operations.call(
            "POST", f"{_ONE}initialize", body, principal=request.principal, env_id=session_id
        )
        return Response(encode({"sid": session_id}))

    async def ping(self, request: Request) -> Response:
        """Keep a session."""
        await self._of_session(request, "GET", "/allow-parallel-tool-call")
        return Response(b'{"status":"ok"}')

    async def delete(self, request: Request) -> Response:
        """Close a session's environment; one that there never was is closed as well."""
        try:
            await self._of_session(request, "POST", "/close", {})
        except EnvironmentNotFoundError:
            logger.debug("session without an environment deleted")
        return Response(encode({"sid": _session_of(request)}))

    async def delete_session(self, request: Request) -> Response:
        """Forget a session's id, of which nothing is kept."""
        return Response(encode({"sid": _session_of(request)}))

    async def task_tools(self, request: Request) -> Response:
        """List the tools of a session."""
        return Response(
            encode(
                _shown_tools((await self._of_session(request, "GET", "/tools-schema-openai"))["tools_schema"])
            )
        )

    async def prompt(self, request: Request) -> Response:
        """Show what the episode began with."""
        begun = (await self._of_session(request, "GET", "/trajectory"))["observation"]
        return Response(encode(_blocks(begun or [])))

    def call(self, request: Request) -> Response:
        """Call a tool. The first event names the call, so that it can be asked for again if its answer gets lost."""
        wanted = decode(request.body, CallBody)
        target = f"{_ONE}{_session_of(request)}/step"
        operation = call_of((wanted.task_id or "").encode()) or new_call()
        named = event("task_id", operation.decode())
        try:
            body = orjson.dumps({"action": _action(wanted)})
            headers = {OPERATION_HEADER: operation}
            step = self._operations.start("POST", target, body, principal=request.principal, headers=headers)
        except Exception as raised:  # noqa: BLE001 - sent
            return events(named, _failed(raised))
        if isinstance(step, Response):
            return events(named, _called(step))
        return events_of_work(named, _called_later(step))

    async def _of_session(
        self,
        request: Request,
        method: str,
        verb: str,
        body: Any = None,
    ) -> Any:
        target = f"{_ONE}{_session_of(request)}{verb}"
        return await self._operations.call(method, target, body, principal=request.principal)

    def _env_name(self, request: Request) -> str:
        named = name_in(request.path, f"{ORS_PREFIX}/") or _deployment(request)
        if not named:
            raise _fault(["header", "X-Deployment"], "name the environment, in the path or in this header")
        return self._registry.resolve(named)


async def _called_later(step: AwaitableOrValue[Response]) -> bytes:
    try:
        return _called(await await_maybe(step))
    except Exception as raised:  # noqa: BLE001 - sent
        return _failed(raised)


def _called(step: Response) -> bytes:
    """Write the event of a call that was carried out."""
    taken = orjson.loads(bytes(step.body))
    flags = {name: taken[name] for name in ("terminated", "truncated")}
    output = {
        "blocks": _blocks(taken["observation"]),
        "metadata": {**taken["info"], **flags},
        "reward": taken["reward"],
        "finished": any(flags.values()),
    }
    return json_event(b"end", orjson.dumps({"ok": True, "output": output}))


def _failed(error: Exception) -> bytes:
    """Write the event of a call that was not: part of its answer where a model may learn from it, else an error."""
    if isinstance(error, EpisodeEndedError):
        reason = "episode_finished"
    elif isinstance(error, ActionTooLargeError | InvalidRequestError):
        reason = "input_validation"
    elif isinstance(error, VerlAgentEnvError):
        return event("error", error.detail)
    else:
        logger.error("ORS call failed", exc_info=error)
        return event("error", InternalError().detail)
    return json_event(b"end", orjson.dumps({"ok": False, "error": error.detail, "reason": reason}))


def _deployment(request: Request) -> str:
    return request.headers.get(b"x-deployment", b"").decode("latin-1")


def _session_of(request: Request) -> str:
    given = request.headers.get(b"x-session-id", b"")
    if _SESSION_ID.fullmatch(given) is None:
        raise _fault(["header", "X-Session-ID"], "give the id of a session, of create_session")
    return given.decode("latin-1")


def _episode(wanted: CreateBody) -> dict[str, Any]:
    """Say which episode a task is, in the words of ``initialize``."""
    if wanted.task_spec is None:
        return {"task": {"split": wanted.split, "index": wanted.index}}
    spec = wanted.task_spec
    env_kwargs = spec.get("env_kwargs") or {}
    if spec.get("seed") is not None:
        return {"seed": spec["seed"], "env_kwargs": env_kwargs}
    if "split" in spec and "index" in spec:
        return {"task": {"split": spec["split"], "index": spec["index"]}, "env_kwargs": env_kwargs}
    return {"env_kwargs": env_kwargs}


def _action(wanted: CallBody) -> Action:
    text = wanted.input.get("text")
    if wanted.name == ANSWER_TOOL and isinstance(text, str) and len(wanted.input) == 1:
        return text
    function = {"name": wanted.name, "arguments": orjson.dumps(wanted.input).decode()}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": _CALL_ID, "type": "function", "function": function}],
    }


def _shown_tools(tools: list[dict[str, Any]]) -> dict[str, Any]:
    functions = [tool["function"] for tool in tools]
    shown = [
        {"name": one["name"], "description": one["description"], "input_schema": one["parameters"]}
        for one in functions
    ]
    said = {"name": ANSWER_TOOL, "arg": "text", "description": "Say something: the message is the action."}
    return {"tools": shown, "terminal_tool": None if shown else said}


def _blocks(observation: Observation) -> list[dict[str, Any]]:
    """Show messages as ORS' blocks: their texts and pictures."""
    blocks: list[dict[str, Any]] = []
    for message in observation:
        content = message["content"]
        for part in [text_part(content)] if isinstance(content, str) else content:
            url = part.get("image_url", {}).get("url", "") if part["type"] == "image_url" else ""
            picture = _DATA_URL.fullmatch(url)
            if picture is not None:
                blocks.append({"type": "image", "data": picture[2], "mimeType": picture[1], "detail": None})
            else:
                blocks.append({"type": "text", "text": content_text([part]) or url, "detail": None})
    return blocks


def _fault(loc: list[str | int], message: str) -> InvalidRequestError:
    return InvalidRequestError([{"loc": loc, "msg": message}])
