"""Every door to the environments, with one handle: begin an episode, carry out an action."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import httpx
import orjson

from tests.server.api.wires.openenv.client import OpenEnvSocket
from tests.server.api.wires.ors.client import OrsSession
from verl_agent_env.messages import content_text
from verl_agent_env.types import Action, Observation


class Seen(NamedTuple):
    """What a client saw of a step, or of a beginning."""

    text: str
    reward: float | None
    terminated: bool
    truncated: bool
    success: bool | None

    @classmethod
    def of(
        cls, observation: Observation, reward: float, terminated: bool, truncated: bool, info: Any
    ) -> Seen:
        """See what a step of the API gives."""
        return cls(text_of(observation), reward, terminated, truncated, info["success"])

    @classmethod
    def beginning(cls, text: str) -> Seen:
        """See what an episode begins with."""
        return cls(text, None, False, False, None)


class Door(Protocol):
    """A way to the environments of a server."""

    def begin(self, env_name: str, seed: int, env_kwargs: dict[str, Any]) -> Seen:
        """Begin an episode."""

    def step(self, action: Action) -> Seen:
        """Carry out an action."""


def text_of(observation: Observation) -> str:
    return "\n".join(content_text(message["content"]) for message in observation)


def call_in(action: Action) -> tuple[str, dict[str, Any]] | str:
    """The tool that an action calls, and its arguments; the text of one that calls none."""
    if isinstance(action, str):
        return action
    assert isinstance(action, dict)
    if not action.get("tool_calls"):
        return content_text(action["content"])
    [call] = action["tool_calls"]
    return call["function"]["name"], orjson.loads(call["function"]["arguments"])


class SingleCalls:
    """The API, one environment at a time."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self._env_id = ""
        self._seq = 0

    def begin(self, env_name: str, seed: int, env_kwargs: dict[str, Any]) -> Seen:
        begun = self._ask("initialize", {"env_name": env_name, "seed": seed, "env_kwargs": env_kwargs})
        self._env_id, self._seq = begun["env_id"], 0
        return Seen.beginning(text_of(begun["observation"]))

    def step(self, action: Action) -> Seen:
        taken = self._ask(f"{self._env_id}/step", {"action": action, "seq": self._seq})
        self._seq += 1
        names = ("observation", "reward", "terminated", "truncated", "info")
        return Seen.of(*(taken[name] for name in names))

    def _ask(self, path: str, body: dict[str, Any]) -> Any:
        answer = self._http.post(f"/api/environment/{path}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()


class BatchCalls:
    """The API, many environments at a time: three of the same episode."""

    _SIZE = 3

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self._env_ids: list[str] = []

    def begin(self, env_name: str, seed: int, env_kwargs: dict[str, Any]) -> Seen:
        body = {"env_name": env_name, "seeds": [seed] * self._SIZE, "env_kwargs": env_kwargs}
        begun = self._ask("initialize", body)
        self._env_ids = begun["env_ids"]
        return self._one([Seen.beginning(text_of(observation)) for observation in begun["observations"]])

    def step(self, action: Action) -> Seen:
        taken = self._ask("step", {"env_ids": self._env_ids, "actions": [action] * self._SIZE})
        names = ("observations", "rewards", "terminations", "truncations", "infos")
        return self._one([Seen.of(*row) for row in zip(*(taken[name] for name in names), strict=True)])

    def _one(self, seen: list[Seen]) -> Seen:
        assert len(seen) == self._SIZE
        assert len(set(seen)) == 1
        return seen[0]

    def _ask(self, verb: str, body: dict[str, Any]) -> Any:
        answer = self._http.post(f"/api/batch/{verb}", json=body).json()
        assert answer["errors"] == [], answer
        return answer


class McpTools:
    """The server's own tools for MCP clients."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self._env_id = ""

    def begin(self, env_name: str, seed: int, env_kwargs: dict[str, Any]) -> Seen:
        begun = self._call("start_environment", env_name=env_name, seed=seed, env_kwargs=env_kwargs)
        self._env_id = begun["structuredContent"]["env_id"]
        return Seen.beginning("\n".join(block["text"] for block in begun["content"][2:]))

    def step(self, action: Action) -> Seen:
        call = call_in(action)
        how = {"text": call} if isinstance(call, str) else {"tool": call[0], "arguments": call[1]}
        taken = self._call("act", env_id=self._env_id, **how)
        facts = taken["structuredContent"]
        text = "\n".join(block["text"] for block in taken["content"][:-1])
        return Seen(text, facts["reward"], facts["terminated"], facts["truncated"], facts["info"]["success"])

    def _call(self, name: str, **arguments: Any) -> Any:
        request = {
            "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": arguments},
        }  # fmt: skip
        headers = {"Accept": "application/json, text/event-stream"}
        answer = self._http.post("/mcp", json=request, headers=headers)
        assert answer.status_code == 200, answer.text
        result = answer.json()["result"]
        assert not result.get("isError"), result
        return result


class OpenEnvMessages:
    """OpenEnv's WebSocket."""

    def __init__(self, http: httpx.Client) -> None:
        self._url = str(http.base_url).rstrip("/")
        self._socket: OpenEnvSocket | None = None

    def begin(self, env_name: str, seed: int, env_kwargs: dict[str, Any]) -> Seen:
        if self._socket is None:
            self._socket = OpenEnvSocket(self._url, env_name)
        begun = self._socket.reset(seed=seed, env_kwargs=env_kwargs)
        return Seen.beginning(begun["observation"]["text"])

    def step(self, action: Action) -> Seen:
        assert self._socket is not None
        call = call_in(action)
        if isinstance(call, str):
            return openenv_seen(self._socket.step(text=call))
        return openenv_seen(self._socket.step(type="call_tool", tool_name=call[0], arguments=call[1]))

    def close(self) -> None:
        """Leave."""
        if self._socket is not None:
            self._socket.__exit__(None, None, None)


class OpenEnvHttp:
    """OpenEnv's calls over HTTP, with this server's sessions."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self._base = ""
        self._session_id = ""

    def begin(self, env_name: str, seed: int, env_kwargs: dict[str, Any]) -> Seen:
        self._base = f"/openenv/{env_name}"
        begun = self._ask("reset", {"seed": seed, **env_kwargs})
        self._session_id = begun["metadata"]["session_id"]
        return Seen.beginning(begun["observation"]["text"])

    def step(self, action: Action) -> Seen:
        sent = {"text": action} if isinstance(action, str) else action
        return openenv_seen(self._ask("step", {"action": sent, "session_id": self._session_id}))

    def _ask(self, verb: str, body: dict[str, Any]) -> Any:
        answer = self._http.post(f"{self._base}/{verb}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()


def openenv_seen(data: dict[str, Any]) -> Seen:
    metadata = data["metadata"]
    assert data["done"] == (metadata["terminated"] or metadata["truncated"])
    return Seen(
        data["observation"]["text"],
        data["reward"],
        metadata["terminated"],
        metadata["truncated"],
        metadata["success"],
    )


class OrsCalls:
    """ORS."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self._session: OrsSession | None = None

    def begin(self, env_name: str, seed: int, env_kwargs: dict[str, Any]) -> Seen:
        self._session = OrsSession(self._http, env_name)
        self._session.create(task_spec={"seed": seed, "env_kwargs": env_kwargs})
        return Seen.beginning("\n".join(block["text"] for block in self._session.ask("GET", "/prompt")))

    def step(self, action: Action) -> Seen:
        assert self._session is not None
        call = call_in(action)
        name, arguments = ("answer", {"text": call}) if isinstance(call, str) else call
        _, taken = self._session.call(name, **arguments)
        output = taken["output"]
        metadata = output["metadata"]
        assert output["finished"] == (metadata["terminated"] or metadata["truncated"])
        text = "\n".join(block["text"] for block in output["blocks"])
        return Seen(
            text, output["reward"], metadata["terminated"], metadata["truncated"], metadata["success"]
        )


DOORS: dict[str, Callable[[httpx.Client], Door]] = {
    "single calls": SingleCalls,
    "batches": BatchCalls,
    "MCP": McpTools,
    "OpenEnv": OpenEnvMessages,
    "OpenEnv over HTTP": OpenEnvHttp,
    "ORS": OrsCalls,
}
