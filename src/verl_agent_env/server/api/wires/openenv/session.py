"""A session of OpenEnv: one environment of this server, whose id is the session's id."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import orjson

from verl_agent_env.engine import AwaitableOrValue, map_maybe
from verl_agent_env.errors import EnvironmentNotFoundError, EpisodeNotStartedError, VerlAgentEnvError
from verl_agent_env.server.api.operations import Operation, Operations
from verl_agent_env.server.api.wires.openenv.frames import (
    action_of,
    code_of_session_error,
    fault,
    seq_of,
    shown_observation,
    text_of,
    tool_call,
    tool_specs,
)
from verl_agent_env.server.http.tokens import Principal
from verl_agent_env.server.http.types import Response
from verl_agent_env.types import Action

_INITIALIZE = "/api/environment/initialize"


class SessionError(Exception):
    """A session's environment cannot be made or found."""

    def __init__(self, error: VerlAgentEnvError) -> None:
        super().__init__(error.detail)
        self.error = error
        self.code = code_of_session_error(error)


class Session:
    """An environment, made when it is first needed, or found by the session's id."""

    __slots__ = (
        "_env_kwargs", "_env_name", "_episode_id", "_given", "_is_own", "_operations", "_principal", "_seq", "_step",
        "_ttl_s", "env_id",
    )  # fmt: skip

    def __init__(
        self,
        operations: Operations,
        principal: Principal,
        env_name: str,
        *,
        session_id: str | None = None,
        env_kwargs: Mapping[str, Any] | None = None,
        ttl_s: float | None = None,
    ) -> None:
        """Begin a session, or go on with one.

        Args:
            operations: Of the API.
            principal: Whose it is.
            env_name: Full name of the environment.
            session_id: Of the session to go on with; a new one if not given.
            env_kwargs: Keyword arguments of a new environment, to which those of a reset are added.
            ttl_s: Seconds without a call after which a new environment is closed; the server's default if not given.
        """
        self._operations = operations
        self._principal = principal
        self._env_name = env_name
        self.env_id = session_id
        """The environment and session; ``None`` before there is one."""
        self._is_own = session_id is None
        self._given = dict(env_kwargs or {})
        self._env_kwargs: dict[str, Any] = {}
        self._ttl_s = ttl_s
        self._seq: int | None = None
        """Number of the next step; ``None`` where others may have stepped, and nothing told it yet."""
        self._episode_id: str | None = None
        self._step: Operation | None = None
        """Steps the environment of this id."""

    async def attach(self) -> None:
        """Make sure that the session to go on with is there.

        Raises:
            SessionError: It is not.
        """
        try:
            found = await self._call("GET", "")
            if found["env_name"] != self._env_name:
                raise EnvironmentNotFoundError(str(self.env_id))
        except VerlAgentEnvError as error:
            raise SessionError(error) from None
        self._seq = found["seq"]

    async def make(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make the environment, which begins its first episode.

        Args:
            body: What ``initialize`` takes besides the name: ``seed``, ``task``, ``env_kwargs``.

        Raises:
            SessionError: It cannot be made.
        """
        env_kwargs = {**self._given, **body.get("env_kwargs", {})}
        body = {**body, "env_name": self._env_name, "env_kwargs": env_kwargs, "ttl_s": self._ttl_s}
        try:
            begun: dict[str, Any] = await self._operations.call(
                "POST",
                _INITIALIZE,
                body,
                principal=self._principal,
                env_id=self._operations.new_env_id(self._principal),
            )
        except VerlAgentEnvError as error:
            raise SessionError(error) from None
        self.env_id, self._env_kwargs, self._seq = begun["env_id"], env_kwargs, 0
        return begun

    async def reset(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Begin an episode; fields of their own in ``data`` are keyword arguments of the environment.

        An environment that is the session's own is made anew where the arguments are others than before.
        """
        fields = dict(data)
        begin = {name: fields.pop(name) for name in ("seed", "task") if fields.get(name) is not None}
        episode_id = fields.pop("episode_id", None)
        inner = fields.pop("env_kwargs", None)
        if not isinstance(inner, Mapping | None):
            raise fault(["env_kwargs"], "must be an object")
        env_kwargs = {**self._given, **(inner or {}), **{k: v for k, v in fields.items() if k not in begin}}
        if self.env_id is not None and not self._is_own:
            if env_kwargs != self._given or "task" in begin:
                raise fault([*env_kwargs][:1] or ["task"], "is given when the session is made")
            begun = await self._call("POST", "/reset", begin)
        elif self.env_id is not None and env_kwargs == self._env_kwargs and "task" not in begin:
            begun = await self._call("POST", "/reset", begin)
        else:
            await self.close()
            begun = await self.make({**begin, "env_kwargs": env_kwargs})
        self._seq, self._episode_id = 0, None if episode_id is None else str(episode_id)
        return shown_observation(begun["observation"], self._metadata(begun["info"]))

    def step(self, data: Mapping[str, Any]) -> AwaitableOrValue[dict[str, Any]]:
        """Carry out an action, or list the tools, which is no step."""
        kind, tool_name = data.get("type"), None
        if kind == "list_tools":
            return self._listed_tools()
        if kind == "call_tool":
            tool_name, arguments = data.get("tool_name"), data.get("arguments", {})
            if not isinstance(tool_name, str) or not isinstance(arguments, Mapping):
                raise fault(["tool_name"], "a call has a tool_name, and arguments that are an object")
            action = tool_call(tool_name, arguments)
        else:
            action = action_of(data)
        seq = seq_of(data)
        return map_maybe(self._start(action, seq), partial(self._shown_step, seq, tool_name))

    def act(self, action: Action, seq: int | None = None) -> AwaitableOrValue[dict[str, Any]]:
        """Carry out an action; gives what a step of the API answers.

        Args:
            action: As the API takes it.
            seq: Number of the step; with it, a step that is sent again is answered as the first time.
        """
        return map_maybe(self._start(action, seq), partial(self._read_step, seq))

    def _start(self, action: Action, seq: int | None) -> AwaitableOrValue[Response]:
        if self.env_id is None:
            raise EpisodeNotStartedError("")
        step = self._step
        if step is None or step.env_id != self.env_id:
            step = self._step = self._operations.find("POST", f"/api/environment/{self.env_id}/step")
        # Without a number it has the form that is read fastest.
        body = orjson.dumps({"action": action} if seq is None else {"action": action, "seq": seq})
        return step.start(body, self._principal)

    def _read_step(self, seq: int | None, response: Response) -> dict[str, Any]:
        taken: dict[str, Any] = orjson.loads(bytes(response.body))
        num_steps = taken["info"].get("num_steps")
        if seq is not None:
            self._seq = seq + 1
        elif isinstance(num_steps, int):
            # Others may have stepped the session meanwhile.
            self._seq = num_steps
        elif self._seq is not None:
            self._seq += 1
        return taken

    def _shown_step(self, seq: int | None, tool_name: str | None, response: Response) -> dict[str, Any]:
        taken = self._read_step(seq, response)
        observation, terminated, truncated = taken["observation"], taken["terminated"], taken["truncated"]
        metadata = self._metadata(taken["info"], terminated=terminated, truncated=truncated)
        more: dict[str, Any] = {}
        if tool_name is not None:
            more = {"tool_name": tool_name, "result": text_of(observation), "error": None}
        done = terminated or truncated
        return shown_observation(observation, metadata, reward=taken["reward"], done=done, **more)

    async def _listed_tools(self) -> dict[str, Any]:
        tools = tool_specs(await self.tools())
        return {"observation": {"tools": tools, "metadata": {}}, "reward": None, "done": False}

    async def tools(self) -> list[dict[str, Any]]:
        """List the environment's tools, in OpenAI's schema; also before the first reset."""
        if self.env_id is None:
            await self.make({})
        tools: list[dict[str, Any]] = (await self._call("GET", "/tools-schema-openai"))["tools_schema"]
        return tools

    async def state(self) -> dict[str, Any]:
        """Give the state of the session."""
        if self.env_id is None:
            return {"episode_id": None, "step_count": 0}
        found = await self._call("GET", "")
        shown = {"episode_id": self._episode_id or self.env_id, "step_count": found["seq"]}
        return {**shown, "session_id": self.env_id, **found}

    async def close(self) -> None:
        """Close the environment, if there is one."""
        if self.env_id is not None:
            await self._call("POST", "/close", {})
            self.env_id = None

    async def leave(self) -> None:
        """End a connection in good order: the environment that it made is closed, one that it found is not."""
        if self._is_own:
            await self.close()

    def _metadata(self, info: Mapping[str, Any], **ends: bool) -> dict[str, Any]:
        metadata = {"truncated": False, **info, **ends, "session_id": self.env_id}
        if self._seq is not None:
            metadata["seq"] = self._seq
        return metadata

    async def _call(self, method: str, verb: str, body: Mapping[str, Any] | None = None) -> Any:
        target = f"/api/environment/{self.env_id}{verb}"
        return await self._operations.call(method, target, body, principal=self._principal)
