"""Handlers of the calls on one environment."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import orjson

from verl_agent_env import waits
from verl_agent_env.engine import (
    AwaitableOrValue,
    CreateRequest,
    Host,
    await_maybe,
    inspection,
    map_maybe,
)
from verl_agent_env.engine.inspection.proposals import propose_action
from verl_agent_env.engine.tasks import TaskFinder
from verl_agent_env.errors import RenderModeError, VerlAgentEnvError
from verl_agent_env.messages import action_schema
from verl_agent_env.server.api.queries import one_of, query_of, whole_number
from verl_agent_env.server.http.headers import KEY_HEADER, OPERATION_HEADER
from verl_agent_env.server.http.idempotency import IdempotentRequests, Named
from verl_agent_env.server.http.types import Request, Response
from verl_agent_env.server.verbs.create_requests import Create, fault_of
from verl_agent_env.wire.codec import decode, encode
from verl_agent_env.wire.results import EncodedReset
from verl_agent_env.wire.schemas import InitializeRequest, ProposeActionRequest, ReadActionRequest

_MAX_SEAT = 1_000_000


class EnvironmentHandlers:
    """Calls on one environment."""

    def __init__(
        self,
        host: Host,
        create: Create,
        idempotent: IdempotentRequests,
        tasks: TaskFinder,
        call: Callable[..., AwaitableOrValue[Response]],
    ) -> None:
        """Answer calls.

        Args:
            host: The environments of this worker.
            create: Makes an environment, wherever it is to live.
            idempotent: Answers a request of one key once.
            tasks: Finds tasks.
            call: Calls an operation at the owner of its environment, as :meth:`~verl_agent_env.server.api.operations.Operations.start`.
        """
        self._call = call
        self._host = host
        self._tasks = tasks
        self._create = create
        self._idempotent = idempotent

    async def initialize(self, request: Request) -> Response:
        """Make an environment and begin its first episode."""

        actions: list[Any] = []

        async def read() -> CreateRequest:
            wanted = decode(request.body, InitializeRequest)
            actions.extend(wanted.actions or ())
            seed, env_kwargs, task = wanted.seed, wanted.env_kwargs, wanted.task
            if task is not None:
                found = await self._tasks.find(wanted.env_name, task.split, task.index, env_kwargs)
                seed, env_kwargs = found.seed, dict(found.env_kwargs)
            if KEY_HEADER in request.headers:
                await self._host.kinds.load((wanted.env_name,))
                fault = fault_of(self._host.registry, wanted.env_name, env_kwargs)
                if fault is not None:
                    raise fault
            return CreateRequest(
                wanted.env_name,
                seed,
                env_kwargs,
                wanted.run_id,
                wanted.ttl_s,
                # Only who calls within the process has chosen one.
                env_id=request.env_id or None,
                tag=request.principal.tag,
            )

        async def make(asked: CreateRequest, named: Named) -> bytes:
            env_id, begin = await await_maybe(self._create(*await named([asked], 1)))
            if actions:
                shown = await self._play_first(request, env_id, begin, actions)
                return b'{"message":"Environment initialized.","env_id":"%b",%b' % (
                    env_id.encode(),
                    shown[1:],
                )
            return b'{"message":"Environment initialized.","env_id":"%b",%b' % (
                env_id.encode(),
                begin.to_json()[1:],
            )

        return Response(await self._idempotent.answer("initialize", request, read, make))

    async def _play_first(
        self, request: Request, env_id: str, begin: EncodedReset, actions: list[Any]
    ) -> bytes:
        """Begin the episode of a new environment once more, with actions; the environment is closed if they cannot be played."""
        path = f"/api/environment/{env_id}"
        body = encode({"seed": orjson.loads(begin.info)["seed"], "actions": actions})
        # The environment's own: whoever asks for it again under its key begins nothing again.
        headers = {OPERATION_HEADER: b"first-" + env_id.encode()}
        try:
            answer = await await_maybe(
                self._call("POST", f"{path}/reset", body, principal=request.principal, headers=headers)
            )
        except VerlAgentEnvError as error:
            if not error.retryable or KEY_HEADER not in request.headers:
                with contextlib.suppress(VerlAgentEnvError):
                    await await_maybe(self._call("POST", f"{path}/close", b"", principal=request.principal))
            raise
        return bytes(answer.body)

    def state(self, request: Request) -> AwaitableOrValue[Response]:
        """Get the state of an environment."""
        host, env_id = self._host, request.env_id
        return map_maybe(
            host.find(env_id), lambda _: Response(orjson.dumps(inspection.describe(host, env_id)))
        )

    async def action_space(self, request: Request) -> Response:
        """JSON Schema of a valid action."""

        def read(env: Any) -> dict[str, Any]:
            write = getattr(env.action_space, "json_schema", None)
            return write() if write is not None else action_schema((), parallel=False)

        return Response(encode({"action_space": await inspection.read_env(self._host, request.env_id, read)}))

    async def task_prompt(self, request: Request) -> Response:
        """Return the task prompt: what the model has to do."""

        def read(env: Any) -> str:
            write = getattr(env, "task_prompt", None)
            return str(write()) if callable(write) else ""

        return Response(encode({"task_prompt": await inspection.read_env(self._host, request.env_id, read)}))

    async def allow_parallel_tool_call(self, request: Request) -> Response:
        """Return whether one action may hold several tool calls."""

        def read(env: Any) -> bool:
            return bool(getattr(env, "allow_parallel_tool_calls", False))

        allowed = await inspection.read_env(self._host, request.env_id, read)
        return Response(encode({"allow_parallel_tool_call": allowed}))

    async def tools_openai(self, request: Request) -> Response:
        """The tools, as OpenAI's API takes them."""
        return await self._tools(request, "openai")

    async def tools_anthropic(self, request: Request) -> Response:
        """The tools, as Anthropic's API takes them."""
        return await self._tools(request, "anthropic")

    async def read_action(self, request: Request) -> Response:
        """Read an action as a step would, and carry out nothing."""
        wanted = decode(request.body, ReadActionRequest)
        return Response(encode(await inspection.read_action(self._host, request.env_id, wanted.action)))

    async def propose_action(self, request: Request) -> Response:
        """Propose the next action, and carry out nothing."""
        wanted = decode(request.body, ProposeActionRequest)
        action = await propose_action(self._host, request.env_id, wanted.policy, wanted.endpoint)
        return Response(encode({"action": action}))

    async def render(self, request: Request) -> Response:
        """A picture of the environment."""
        mode = query_of(request).get("mode", ["ansi"])[-1]
        if mode not in inspection.MEDIA_TYPES:
            raise RenderModeError(mode[:64], list(inspection.MEDIA_TYPES))
        picture = await inspection.render(self._host, request.env_id, mode)
        return Response(picture, inspection.MEDIA_TYPES[mode].encode())

    async def seat(self, request: Request) -> Response:
        """Show what a seat sees, and whether it is to act; wait for its turn if asked to."""
        query = query_of(request)
        seat = whole_number(query, "seat", 0, 0, _MAX_SEAT)
        wait_s = whole_number(query, "wait_s", 0, 0, int(waits.SEAT_S))
        return Response(encode(await inspection.seat_view(self._host, request.env_id, seat, wait_s)))

    async def trajectory(self, request: Request) -> Response:
        """The episode so far."""
        draws = one_of(query_of(request), "render", ("svg",)) is not None
        return Response(await inspection.trajectory(self._host, request.env_id, draws=draws))

    async def _tools(self, request: Request, form: str) -> Response:
        def read(env: Any) -> list[dict[str, Any]]:
            return [getattr(tool, form)() for tool in getattr(env, "tools", ())]

        return Response(encode({"tools_schema": await inspection.read_env(self._host, request.env_id, read)}))
