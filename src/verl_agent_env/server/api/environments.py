"""Handlers of the calls on one environment."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

import orjson

from verl_agent_env.engine import CreateRequest, Host, inspection
from verl_agent_env.errors import RenderModeError
from verl_agent_env.messages import action_schema
from verl_agent_env.server.api.create_requests import fault_of
from verl_agent_env.server.cluster.peers import OPERATION_HEADER
from verl_agent_env.server.http.dispatcher import Call, Reply
from verl_agent_env.server.http.idempotency import KEY_HEADER, IdempotentCalls, Named
from verl_agent_env.wire.codec import ResetAnswer, decode, decode_step, encode
from verl_agent_env.wire.operations import call_of
from verl_agent_env.wire.pieces import Body
from verl_agent_env.wire.requests import InitializeRequest, ReadActionRequest, ResetRequest

Create = Callable[[CreateRequest], Awaitable[tuple[str, ResetAnswer]]]
"""Makes an environment, here or on another worker."""

_CLOSED = b'{"message":"Environment closed."}'


class EnvironmentCalls:
    """What a client asks of one environment."""

    def __init__(self, host: Host, create: Create, idempotent: IdempotentCalls) -> None:
        self._host = host
        self._create = create
        self._idempotent = idempotent

    async def initialize(self, call: Call) -> Body:
        """Make an environment and begin its first episode."""

        async def read() -> CreateRequest:
            wanted = decode(call.body, InitializeRequest)
            if KEY_HEADER in call.headers:
                await self._host.kinds.load((wanted.env_name,))
                fault = fault_of(self._host.registry, wanted.env_name, wanted.env_kwargs)
                if fault is not None:
                    raise fault
            return CreateRequest(
                wanted.env_name,
                wanted.seed,
                wanted.env_kwargs,
                wanted.run_id,
                wanted.ttl_s,
                tag=call.principal.tag,
            )

        async def make(request: CreateRequest, named: Named) -> bytes:
            env_id, begin = await self._create(*await named([request]))
            return b'{"message":"Environment initialized.","env_id":"%b",%b' % (
                env_id.encode(),
                begin.to_json()[1:],
            )

        return await self._idempotent.answer("initialize", call, read, make)

    async def reset(self, call: Call) -> bytes:
        """Begin another episode."""
        wanted = decode(call.body, ResetRequest)
        operation = call_of(call.headers.get(OPERATION_HEADER))
        return (await self._host.reset(call.env_id, wanted.seed, wanted.options, operation)).to_json()

    def reset_now(self, call: Call) -> bytes | None:
        """As :meth:`reset`, at once; ``None``, with nothing done, where that cannot be."""
        if self._has_to_wait:
            return None
        wanted = decode(call.body, ResetRequest)
        operation = call_of(call.headers.get(OPERATION_HEADER))
        answer = self._host.reset_now(call.env_id, wanted.seed, wanted.options, operation)
        return None if answer is None else answer.to_json()

    async def step(self, call: Call) -> bytes:
        """Carry out one action."""
        action, seq = decode_step(call.body)
        return (await self._host.step(call.env_id, action, seq, _step_operation(call, seq))).to_json()

    def step_now(self, call: Call) -> bytes | None:
        """As :meth:`step`, at once; ``None``, with nothing done, where that cannot be."""
        if self._has_to_wait:
            return None
        action, seq = decode_step(call.body)
        answer = self._host.step_now(call.env_id, action, seq, _step_operation(call, seq))
        return None if answer is None else answer.to_json()

    async def close(self, call: Call) -> bytes:
        """Close the environment; closing twice is a success."""
        await self._host.close(call.env_id)
        return _CLOSED

    def close_now(self, call: Call) -> bytes | None:
        """As :meth:`close`, at once; ``None``, with nothing done, where that cannot be."""
        if self._has_to_wait:
            return None
        self._host.close_now(call.env_id)
        return _CLOSED

    async def state(self, call: Call) -> bytes:
        """Where the environment stands."""
        await self._host.find(call.env_id)
        return orjson.dumps(inspection.describe(self._host, call.env_id))

    def state_now(self, call: Call) -> bytes | None:
        """As :meth:`state`, at once; ``None`` where that cannot be."""
        if self._has_to_wait:
            return None
        return orjson.dumps(inspection.describe(self._host, call.env_id))

    async def action_space(self, call: Call) -> bytes:
        """JSON Schema of a valid action."""

        def read(env: Any) -> dict[str, Any]:
            write = getattr(env.action_space, "json_schema", None)
            return write() if write is not None else action_schema((), parallel=False)

        return encode({"action_space": await inspection.read_env(self._host, call.env_id, read)})

    async def task_prompt(self, call: Call) -> bytes:
        """What the model has to do."""

        def read(env: Any) -> str:
            write = getattr(env, "task_prompt", None)
            return str(write()) if callable(write) else ""

        return encode({"task_prompt": await inspection.read_env(self._host, call.env_id, read)})

    async def allow_parallel_tool_call(self, call: Call) -> bytes:
        """Whether one action may hold several tool calls."""

        def read(env: Any) -> bool:
            return bool(getattr(env, "allow_parallel_tool_calls", False))

        return encode({"allow_parallel_tool_call": await inspection.read_env(self._host, call.env_id, read)})

    async def tools_openai(self, call: Call) -> bytes:
        """The tools, as OpenAI's API takes them."""
        return await self._tools(call, "openai")

    async def tools_anthropic(self, call: Call) -> bytes:
        """The tools, as Anthropic's API takes them."""
        return await self._tools(call, "anthropic")

    async def read_action(self, call: Call) -> bytes:
        """Read an action as a step would, and carry out nothing."""
        wanted = decode(call.body, ReadActionRequest)
        return encode(await inspection.read_action(self._host, call.env_id, wanted.action))

    async def render(self, call: Call) -> Reply:
        """A picture of the environment."""
        query = parse_qs(call.query.decode("latin-1"), keep_blank_values=True)
        mode = query.get("mode", ["ansi"])[-1]
        if mode not in inspection.MEDIA_TYPES:
            raise RenderModeError(mode[:64], list(inspection.MEDIA_TYPES))
        picture = await inspection.render(self._host, call.env_id, mode)
        return Reply(picture, inspection.MEDIA_TYPES[mode].encode())

    async def trajectory(self, call: Call) -> bytes:
        """The episode so far."""
        return await inspection.trajectory(self._host, call.env_id)

    @property
    def _has_to_wait(self) -> bool:
        # Who keeps a log answers when it is written, and may have to read in it first.
        return self._host.recorder is not None

    async def _tools(self, call: Call, form: str) -> bytes:
        def read(env: Any) -> list[dict[str, Any]]:
            return [getattr(tool, form)() for tool in getattr(env, "tools", ())]

        return encode({"tools_schema": await inspection.read_env(self._host, call.env_id, read)})


def _step_operation(call: Call, seq: int | None) -> bytes:
    """The id of a step that has no number, if its call has one."""
    return call_of(call.headers.get(OPERATION_HEADER)) if seq is None else b""
