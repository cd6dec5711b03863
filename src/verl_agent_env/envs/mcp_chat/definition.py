"""One MCP server: how it is reached, what it may offer, and what of it must stay hidden."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator
from pydantic.alias_generators import to_camel

from verl_agent_env.envs.mcp_chat.redaction import Redactor

MAX_NAME_CHARS = 48
Transport = Literal["stdio", "sse", "http"]

# What other programs keep in the same file and this one has no use for. Any other unknown key is refused: a mistyped
# "allowedTools" must not offer everything.
_FOREIGN = frozenset({"alwaysAllow", "autoApprove", "description", "disabled", "timeout", "trust", "$schema"})
_TRANSPORTS = {
    "stdio": "stdio",
    "sse": "sse",
    "http": "http",
    "streamable-http": "http",
    "streamable_http": "http",
    "streamableHttp": "http",
}


class ServerDefinition(BaseModel):
    """How to run or reach one MCP server. Keys are written in camel case, as in the usual ``mcpServers``."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        alias_generator=to_camel,
        populate_by_name=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )

    name: str = Field(pattern=rf"^[A-Za-z0-9_-]{{1,{MAX_NAME_CHARS}}}$")
    """Stands before a tool's name where two servers have a tool of one name."""
    type: Transport = "stdio"
    """How it is reached; by default ``stdio`` with a ``command``, ``sse`` with a ``url`` that ends with ``/sse``, else
    ``http`` (streamable HTTP)."""
    command: str | None = Field(default=None, min_length=1, max_length=4_096, repr=False)
    """Program to run."""
    args: tuple[str, ...] = Field(default=(), max_length=256, repr=False)
    """Its arguments."""
    env: dict[str, str] = Field(default_factory=dict, max_length=256, repr=False)
    """Variables for it. It gets these, PATH, HOME and the like, and nothing else of the server's own variables."""
    cwd: str | None = Field(default=None, max_length=4_096, repr=False)
    """Working directory."""
    url: str | None = Field(default=None, max_length=8_192, repr=False)
    """Where it listens."""
    headers: dict[str, str] = Field(default_factory=dict, max_length=64, repr=False)
    """Headers of every request to it."""
    allowed_tools: tuple[str, ...] | None = None
    """The tools that it may offer, ``*`` standing for anything; all if not given."""
    denied_tools: tuple[str, ...] = ()
    """Tools that it may not offer, whatever ``allowedTools`` says."""
    public_env: tuple[str, ...] = ()
    """Names among ``env`` and ``headers`` whose values are no secrets: all others are taken out of whatever is shown."""
    shared: bool = False
    """Whether episodes share it: only for a server that keeps nothing of its clients."""
    instances: int = Field(default=1, ge=1, le=256)
    """How many of a shared server run."""
    idle_s: float = Field(default=30.0, ge=0, le=86_400)
    """Seconds after which a shared server that nobody uses is ended."""
    max_sessions: int = Field(default=1_000, ge=1, le=100_000)
    """Sessions of one worker at a time; beyond that, new environments are told to come again."""
    start_timeout_s: float = Field(default=20.0, gt=0, le=3_600)
    """Seconds in which it must have started and said what it offers."""
    call_timeout_s: float = Field(default=15.0, gt=0, le=3_600)
    """Seconds in which it must answer a call. Must be less than the server's ``max_step_s``."""
    stop_grace_s: float = Field(default=2.0, ge=0, le=60)
    """Seconds that it gets to end by itself, and once more after SIGTERM."""
    max_restarts: int = Field(default=3, ge=0, le=1_000)
    """Restarts within a minute; beyond that, it counts as lost."""
    protocol: Literal["auto", "legacy"] = "auto"
    """``legacy`` asks with the handshake of 2025 only, for a server that cannot bear any other question before."""
    log_stderr: bool = False
    """Whether its standard error goes to the log, secrets taken out; else only its end does, if it does not start."""
    _expanded: tuple[str, ...] = PrivateAttr(default=())

    @model_validator(mode="before")
    @classmethod
    def _read_usual_forms(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        fields = {key: inner for key, inner in value.items() if key not in _FOREIGN}
        kind = fields.get("type", fields.pop("transport", None))
        if isinstance(kind, str) and kind in _TRANSPORTS:
            fields["type"] = _TRANSPORTS[kind]
        elif kind is None and isinstance(url := fields.get("url"), str):
            fields["type"] = "sse" if urlsplit(url).path.rstrip("/").endswith("/sse") else "http"
        return fields

    @field_validator("env", "headers")
    @classmethod
    def _holds_no_null(cls, value: dict[str, str]) -> dict[str, str]:
        for key, inner in value.items():
            if not key or "\0" in key + inner or "=" in key or re.search(r"[\r\n]", key):
                raise ValueError("a name is empty, or one of them holds what it cannot hold")
        return value

    @model_validator(mode="after")
    def _is_whole(self) -> ServerDefinition:
        if self.type == "stdio":
            if self.command is None or self.url is not None:
                raise ValueError("a server of type stdio needs a command, and no url")
            if any("\0" in text for text in (self.command, self.cwd or "", *self.args)):
                raise ValueError("the command holds a zero character")
        elif (
            self.url is None or self.command is not None or urlsplit(self.url).scheme not in ("http", "https")
        ):
            raise ValueError(f"a server of type {self.type} needs a url of http or https, and no command")
        return self

    def hiding(self, texts: Iterable[str]) -> ServerDefinition:
        """The same, with more secrets: what references to variables stood for."""
        copied = self.model_copy()
        copied._expanded = tuple(texts)  # noqa: SLF001 - its own class
        return copied

    def allows(self, tool: str) -> bool:
        """Whether the server may offer the tool of this name."""
        if any(fnmatchcase(tool, pattern) for pattern in self.denied_tools):
            return False
        return self.allowed_tools is None or any(fnmatchcase(tool, pattern) for pattern in self.allowed_tools)

    @functools.cached_property
    def redactor(self) -> Redactor:
        """Takes this server's secrets out of texts."""
        return Redactor(self._secrets())

    def _secrets(self) -> Iterator[str]:
        yield from self._expanded
        for key, value in (*self.env.items(), *self.headers.items()):
            if key not in self.public_env:
                yield value
                # "Bearer <token>": the token alone tells as much.
                yield value.rpartition(" ")[2]
        if self.url is not None:
            parts = urlsplit(self.url)
            yield parts.password or ""
            yield from (value for _, value in parse_qsl(parts.query))
