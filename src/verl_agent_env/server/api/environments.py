"""Handlers of the calls on one environment."""

from __future__ import annotations

from collections.abc import Callable
from types import CoroutineType
from typing import Any
from urllib.parse import parse_qs

import orjson

from verl_agent_env.engine import AwaitableOrValue, Created, CreateRequest, Host, await_maybe, inspection
from verl_agent_env.engine.tasks import TaskFinder
from verl_agent_env.errors import RenderModeError
from verl_agent_env.messages import action_schema
from verl_agent_env.server.api.create_requests import fault_of
from verl_agent_env.server.http.headers import KEY_HEADER, OPERATION_HEADER
from verl_agent_env.server.http.idempotency import IdempotentRequests, Named
from verl_agent_env.server.http.types import Request, Response
from verl_agent_env.wire.codec import decode, decode_step, encode
from verl_agent_env.wire.operations import call_of
from verl_agent_env.wire.pieces import Body
from verl_agent_env.wire.results import EncodedReset, EncodedStep
from verl_agent_env.wire.schemas import InitializeRequest, ReadActionRequest, ResetRequest

Create = Callable[[CreateRequest], AwaitableOrValue[Created]]
"""Makes an environment, here or on another worker."""

_CLOSED = b'{"message":"Environment closed."}'


class EnvironmentHandlers:
    """What a client asks of one environment."""

    def __init__(self, host: Host, create: Create, idempotent: IdempotentRequests, tasks: TaskFinder) -> None:
        self._host = host
        self._tasks = tasks
        self._create = create
        self._idempotent = idempotent

    async def initialize(self, request: Request) -> Body:
        """Make an environment and begin its first episode."""

        async def read() -> CreateRequest:
            wanted = decode(request.body, InitializeRequest)
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

        async def make(request: CreateRequest, named: Named) -> bytes:
            env_id, begin = await await_maybe(self._create(*await named([request])))
            return b'{"message":"Environment initialized.","env_id":"%b",%b' % (
                env_id.encode(),
                begin.to_json()[1:],
            )

        return await self._idempotent.answer("initialize", request, read, make)

    async def reset(self, request: Request) -> bytes:
        """Begin another episode."""
        wanted = decode(request.body, ResetRequest)
        operation = call_of(request.headers.get(OPERATION_HEADER))
        answer = self._host.reset(request.env_id, wanted.seed, wanted.options, operation)
        return (await await_maybe(answer)).to_json()

    def reset_now(self, request: Request) -> bytes | None:
        """As :meth:`reset`, at once; ``None``, with nothing done, where that cannot be."""
        if self._has_to_wait:
            return None
        wanted = decode(request.body, ResetRequest)
        operation = call_of(request.headers.get(OPERATION_HEADER))
        answer = self._host.reset(request.env_id, wanted.seed, wanted.options, operation)
        return _at_once(answer)

    async def step(self, request: Request) -> bytes:
        """Carry out one action."""
        action, seq = decode_step(request.body)
        answer = self._host.step(request.env_id, action, seq, _step_operation(request, seq))
        return (await await_maybe(answer)).to_json()

    def step_now(self, request: Request) -> bytes | None:
        """As :meth:`step`, at once; ``None``, with nothing done, where that cannot be."""
        if self._has_to_wait:
            return None
        action, seq = decode_step(request.body)
        answer = self._host.step(request.env_id, action, seq, _step_operation(request, seq))
        return _at_once(answer)

    async def close(self, request: Request) -> bytes:
        """Close the environment; closing twice is a success."""
        await await_maybe(self._host.close(request.env_id))
        return _CLOSED

    def close_now(self, request: Request) -> bytes | None:
        """As :meth:`close`, at once; ``None``, with nothing done, where that cannot be."""
        if self._has_to_wait:
            return None
        self._host.close(request.env_id)
        return _CLOSED

    async def state(self, request: Request) -> bytes:
        """Where the environment stands."""
        await await_maybe(self._host.find(request.env_id))
        return orjson.dumps(inspection.describe(self._host, request.env_id))

    def state_now(self, request: Request) -> bytes | None:
        """As :meth:`state`, at once; ``None`` where that cannot be."""
        if self._has_to_wait:
            return None
        return orjson.dumps(inspection.describe(self._host, request.env_id))

    async def action_space(self, request: Request) -> bytes:
        """JSON Schema of a valid action."""

        def read(env: Any) -> dict[str, Any]:
            write = getattr(env.action_space, "json_schema", None)
            return write() if write is not None else action_schema((), parallel=False)

        return encode({"action_space": await inspection.read_env(self._host, request.env_id, read)})

    async def task_prompt(self, request: Request) -> bytes:
        """What the model has to do."""

        def read(env: Any) -> str:
            write = getattr(env, "task_prompt", None)
            return str(write()) if callable(write) else ""

        return encode({"task_prompt": await inspection.read_env(self._host, request.env_id, read)})

    async def allow_parallel_tool_call(self, request: Request) -> bytes:
        """Whether one action may hold several tool calls."""

        def read(env: Any) -> bool:
            return bool(getattr(env, "allow_parallel_tool_calls", False))

        return encode(
            {"allow_parallel_tool_call": await inspection.read_env(self._host, request.env_id, read)}
        )

    async def tools_openai(self, request: Request) -> bytes:
        """The tools, as OpenAI's API takes them."""
        return await self._tools(request, "openai")

    async def tools_anthropic(self, request: Request) -> bytes:
        """The tools, as Anthropic's API takes them."""
        return await self._tools(request, "anthropic")

    async def read_action(self, request: Request) -> bytes:
        """Read an action as a step would, and carry out nothing."""
        wanted = decode(request.body, ReadActionRequest)
        return encode(await inspection.read_action(self._host, request.env_id, wanted.action))

    async def render(self, request: Request) -> Response:
        """A picture of the environment."""
        query = parse_qs(request.query.decode("latin-1"), keep_blank_values=True)
        mode = query.get("mode", ["ansi"])[-1]
        if mode not in inspection.MEDIA_TYPES:
            raise RenderModeError(mode[:64], list(inspection.MEDIA_TYPES))
        picture = await inspection.render(self._host, request.env_id, mode)
        return Response(picture, inspection.MEDIA_TYPES[mode].encode())

    async def trajectory(self, request: Request) -> bytes:
        """The episode so far."""
        return await inspection.trajectory(self._host, request.env_id)

    @property
    def _has_to_wait(self) -> bool:
        # Who keeps a log answers when it is written, and may have to read in it first.
        return self._host.recorder is not None

    async def _tools(self, request: Request, form: str) -> bytes:
        def read(env: Any) -> list[dict[str, Any]]:
            return [getattr(tool, form)() for tool in getattr(env, "tools", ())]

        return encode({"tools_schema": await inspection.read_env(self._host, request.env_id, read)})


def _at_once(answer: AwaitableOrValue[Any]) -> bytes | None:
    """The answer as JSON; ``None`` of a call that has to wait, which is dropped, and has not begun."""
    if isinstance(answer, EncodedStep | EncodedReset):
        return answer.to_json()
    if isinstance(answer, CoroutineType):
        answer.close()
    return None


def _step_operation(request: Request, seq: int | None) -> bytes:
    """The id of a step that has no number, if its call has one."""
    return call_of(request.headers.get(OPERATION_HEADER)) if seq is None else b""
