"""The environments as MCP tools: list, start, act, look, close."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from mcp.server.lowlevel import Server
from mcp.types import CallToolResult, ContentBlock, ImageContent, ListToolsResult, TextContent, Tool
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from verl_agent_env import __version__
from verl_agent_env.errors import InvalidRequestError, VerlAgentEnvError
from verl_agent_env.messages import content_text, text_part
from verl_agent_env.types import Action, Observation

ApiCall = Callable[[str, str, "Mapping[str, Any] | None"], Awaitable[Any]]
"""Makes a call of the HTTP API, by method, path and body; gives its answer's JSON or raises its error."""

_INSTRUCTIONS = (
    "Environments for LLM agents. list_environments names them; start_environment begins an episode and shows its "
    "first observation and the environment's own tools; act carries out one action and shows what came of it; look "
    "shows the state of the episode; close_environment ends it."
)
_DATA_URL = re.compile(r"data:(image/[\w.+-]+);base64,(.*)", re.DOTALL)
_CALL_ID = "call_0"


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True)


class ListArguments(_Arguments):
    """All environments by name, with what they are about; of one of them also the arguments that it takes."""

    env_name: str | None = None
    """Show the arguments of this environment."""


class StartArguments(_Arguments):
    """Make an environment and begin an episode in it."""

    env_name: str
    """Its name; a short one such as 'sokoban' does."""
    seed: int | None = Field(default=None, ge=0)
    """The same seed gives the same episode; random if not given."""
    env_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Its keyword arguments."""


class ActArguments(_Arguments):
    """Carry out one action: a call of one of the environment's own tools, or a text."""

    env_id: str = Field(pattern=r"^[^/?%]{1,128}$")
    """The id that start_environment gave."""
    tool: str | None = None
    """Which of the environment's tools to call."""
    arguments: dict[str, Any] | str | None = None
    """What to call it with: an object, or its JSON."""
    text: str | None = None
    """What to say instead of calling a tool: an answer, or a move as a word."""


class LookArguments(_Arguments):
    """Show the state of an episode; changes nothing."""

    env_id: str = Field(pattern=r"^[^/?%]{1,128}$")
    """The id that start_environment gave."""


class CloseArguments(_Arguments):
    """End an environment that is needed no more."""

    env_id: str = Field(pattern=r"^[^/?%]{1,128}$")
    """The id that start_environment gave."""


class EnvironmentTools:
    """MCP tools for the environments of a server."""

    def __init__(self, api: ApiCall) -> None:
        self._api = api
        self._tools: dict[str, tuple[type[_Arguments], Callable[[Any], Awaitable[CallToolResult]]]] = {
            "list_environments": (ListArguments, self.list_environments),
            "start_environment": (StartArguments, self.start_environment),
            "act": (ActArguments, self.act),
            "look": (LookArguments, self.look),
            "close_environment": (CloseArguments, self.close_environment),
        }

    def listing(self) -> list[Tool]:
        """The tools, as MCP describes them."""
        return [
            Tool(name=name, description=model.__doc__, input_schema=model.model_json_schema())
            for name, (model, _) in self._tools.items()
        ]

    async def call(self, name: str, arguments: Mapping[str, Any]) -> CallToolResult:
        """Carry out a call; what goes wrong is a result that says so."""
        if name not in self._tools:
            return _failed(f"There is no tool '{name[:64]}'; there are: {', '.join(self._tools)}.")
        model, carry_out = self._tools[name]
        try:
            return await carry_out(model.model_validate(dict(arguments)))
        except ValidationError as invalid:
            faults = invalid.errors(include_url=False, include_context=False, include_input=False)
            error: VerlAgentEnvError = InvalidRequestError(
                [{"loc": list(fault["loc"]), "msg": fault["msg"]} for fault in faults[:5]]
            )
        except VerlAgentEnvError as raised:
            error = raised
        return _failed(error.detail, error.to_problem())

    async def list_environments(self, wanted: ListArguments) -> CallToolResult:
        """List the kinds of environments."""
        catalogue = (await self._api("GET", "/api/environments", None))["environments"]
        if wanted.env_name is None:
            return _said("\n".join(f"{each['name']}: {each['description']}" for each in catalogue))
        for each in catalogue:
            if wanted.env_name in (each["name"], each["name"].partition("/")[2].rpartition("-v")[0]):
                return _said(
                    _json({key: each[key] for key in ("name", "description", "kwargs_schema", "tools")})
                )
        return _failed(
            f"There is no environment '{wanted.env_name[:128]}'; list_environments names all of them."
        )

    async def start_environment(self, wanted: StartArguments) -> CallToolResult:
        """Create an environment and begin its first episode."""
        body = {"env_name": wanted.env_name, "seed": wanted.seed, "env_kwargs": wanted.env_kwargs}
        begun = await self._api("POST", "/api/environment/initialize", body)
        env_id = begun["env_id"]
        schema = (await self._api("GET", f"{_path(env_id)}/tools-schema-openai", None))["tools_schema"]
        tools = [tool["function"] for tool in schema]
        shown = [f"env_id: {env_id}", f"Tools for act: {_json(tools) if tools else 'none; act takes a text'}"]
        return CallToolResult(
            content=[*(TextContent(text=text) for text in shown), *_blocks(begun["observation"])],
            structured_content={"env_id": env_id, "tools": tools, "info": begun["info"]},
        )

    async def act(self, wanted: ActArguments) -> CallToolResult:
        """Take a step."""
        if (wanted.tool is None) == (wanted.text is None):
            return _failed("Give either a tool to call, or a text.")
        taken = await self._api("POST", f"{_path(wanted.env_id)}/step", {"action": _action(wanted)})
        facts = {key: taken[key] for key in ("reward", "terminated", "truncated", "info")}
        over = "The episode is over" if taken["terminated"] or taken["truncated"] else "The episode goes on"
        summary = TextContent(text=f"{over}; reward {taken['reward']:g}.")
        return CallToolResult(content=[*_blocks(taken["observation"]), summary], structured_content=facts)

    async def look(self, wanted: LookArguments) -> CallToolResult:
        """Get the state of an environment."""
        state = await self._api("GET", _path(wanted.env_id), None)
        drawn = await self._api("GET", f"{_path(wanted.env_id)}/render?mode=ansi", None)
        return CallToolResult(content=[TextContent(text=str(drawn))], structured_content=state)

    async def close_environment(self, wanted: CloseArguments) -> CallToolResult:
        """Close an environment."""
        return _said((await self._api("POST", f"{_path(wanted.env_id)}/close", {}))["message"])


def make_mcp_server(api: ApiCall) -> Server[Any]:
    """An MCP server of the SDK that offers the environments behind ``api``."""
    tools = EnvironmentTools(api)

    async def on_list_tools(_: Any, __: Any) -> ListToolsResult:
        return ListToolsResult(tools=tools.listing())

    async def on_call_tool(_: Any, params: Any) -> CallToolResult:
        return await tools.call(params.name, params.arguments or {})

    return Server(
        "verl-agent-env",
        version=__version__,
        instructions=_INSTRUCTIONS,
        on_list_tools=on_list_tools,
        on_call_tool=on_call_tool,
    )


def _action(wanted: ActArguments) -> Action:
    if wanted.tool is None:
        return wanted.text or ""
    arguments = wanted.arguments if isinstance(wanted.arguments, str) else _json(wanted.arguments or {})
    function = {"name": wanted.tool, "arguments": arguments}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": _CALL_ID, "type": "function", "function": function}],
    }


def _blocks(observation: Observation) -> list[ContentBlock]:
    """Messages as MCP content: their texts and pictures."""
    blocks: list[ContentBlock] = []
    for message in observation:
        content = message["content"]
        parts: list[dict[str, Any]] = [text_part(content)] if isinstance(content, str) else content
        for part in parts:
            url = part.get("image_url", {}).get("url", "") if part["type"] == "image_url" else ""
            picture = _DATA_URL.fullmatch(url)
            if picture is not None:
                blocks.append(ImageContent(data=picture[2], mime_type=picture[1]))
            elif text := content_text([part]) or url:
                blocks.append(TextContent(text=text))
    return blocks


def _said(text: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(text=text)])


def _failed(text: str, problem: dict[str, Any] | None = None) -> CallToolResult:
    return CallToolResult(content=[TextContent(text=text)], structured_content=problem, is_error=True)


def _path(env_id: str) -> str:
    return f"/api/environment/{env_id}"


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
