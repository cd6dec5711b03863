"""Definition of one MCP server: transport, allowed tools, limits and secrets."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, Field, PrivateAttr, field_validator, model_validator
from pydantic.alias_generators import to_camel

from verl_agent_env.envs.mcp_chat.redaction import Redactor
from verl_agent_env.envs.mcp_chat.resources import READ_RESOURCE
from verl_agent_env.envs.strict_model import STRICT_MODEL

MAX_NAME_CHARS = 48
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Limit of a message over stdio, and of an event over streamable HTTP; a connection that exceeds it is closed."""
Transport = Literal["stdio", "sse", "http"]

# Keys of other programs in the same file, ignored here. Any other unknown key is an error: a mistyped "allowedTools" must
# not offer everything.
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
    """Definition of one MCP server. Keys are in camel case, as in the usual ``mcpServers``."""

    model_config = {**STRICT_MODEL, "alias_generator": to_camel, "populate_by_name": True}

    name: str = Field(pattern=rf"^[A-Za-z0-9_-]{{1,{MAX_NAME_CHARS}}}$")
    """Prefix of a tool's name if two servers have a tool of the same name."""
    type: Transport = "stdio"
    """Transport; by default ``stdio`` with a ``command``, ``sse`` with a ``url`` that ends with ``/sse``, else
    ``http`` (streamable HTTP)."""
    command: str | None = Field(default=None, min_length=1, max_length=4_096, repr=False)
    """Program to run."""
    args: tuple[str, ...] = Field(default=(), max_length=256, repr=False)
    """Arguments of the program."""
    env: dict[str, str] = Field(default_factory=dict, max_length=256, repr=False)
    """Variables of the program. It gets these, PATH, HOME and the like, and no other variables of this process."""
    cwd: str | None = Field(default=None, max_length=4_096, repr=False)
    """Working directory."""
    url: str | None = Field(default=None, max_length=8_192, repr=False)
    """URL of the server."""
    headers: dict[str, str] = Field(default_factory=dict, max_length=64, repr=False)
    """Headers of every request to the server."""
    allowed_tools: tuple[str, ...] | None = None
    """Patterns of the tools that it may offer, with ``*`` as wildcard; by default all."""
    denied_tools: tuple[str, ...] = ()
    """Patterns of tools that it may not offer, even if ``allowedTools`` matches."""
    resources: bool = False
    """True to offer its resources, as a tool that reads them; patterns of allowed tools need not name it."""
    public_env: tuple[str, ...] = ()
    """Names among ``env`` and ``headers`` whose values are not secret: all other values are removed from any output."""
    shared: bool = False
    """True if episodes share it; only for a server without any state of its clients."""
    stateless: bool = False
    """True if no call depends on an earlier one: what its tools answer is recorded, and an episode whose worker is lost goes on
    elsewhere, with a new session."""
    resumable: bool = False
    """True if a session of a server over streamable HTTP outlives its client: what its tools answer is recorded, and an episode
    whose worker is lost goes on elsewhere, in the same session."""
    instances: int = Field(default=1, ge=1, le=256)
    """Number of instances of a shared server."""
    idle_s: float = Field(default=30.0, ge=0, le=86_400)
    """Seconds after which an unused shared server is ended."""
    max_sessions: int = Field(default=1_000, ge=1, le=100_000)
    """Limit of the sessions of one worker; further environments get a retryable error."""
    start_timeout_s: float = Field(default=20.0, gt=0, le=3_600)
    """Time limit of the start, including the list of tools."""
    call_timeout_s: float = Field(default=15.0, gt=0, le=3_600)
    """Time limit of a call. Must be less than the server's ``max_step_s``."""
    stop_grace_s: float = Field(default=2.0, ge=0, le=60)
    """Seconds that it gets to exit by itself, and again after SIGTERM."""
    max_restarts: int = Field(default=3, ge=0, le=1_000)
    """Limit of the restarts within a minute; beyond it, the server counts as lost."""
    protocol: Literal["auto", "legacy"] = "auto"
    """``legacy`` uses only the handshake of 2025, for a server that fails on any request before it."""
    log_stderr: bool = False
    """True to log its standard error without secrets; else only its end is logged, if the server does not start."""
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
        if self.resumable and (self.type != "http" or self.shared or self.stateless):
            raise ValueError("a resumable server is of type http, and neither shared nor stateless")
        return self

    @property
    def is_recorded(self) -> bool:
        """True if an episode can go on with it on another worker."""
        return self.stateless or self.resumable

    def hiding(self, texts: Iterable[str]) -> ServerDefinition:
        """Return a copy with more secrets: the values of referenced variables."""
        copied = self.model_copy()
        copied._expanded = tuple(texts)  # noqa: SLF001 - its own class
        return copied

    def allows(self, tool: str) -> bool:
        """Return true if the server may offer the tool of this name."""
        if any(fnmatchcase(tool, pattern) for pattern in self.denied_tools):
            return False
        if tool == READ_RESOURCE and self.resources:
            return True
        return self.allowed_tools is None or any(fnmatchcase(tool, pattern) for pattern in self.allowed_tools)

    @functools.cached_property
    def redactor(self) -> Redactor:
        """Redactor of this server's secrets."""
        return Redactor(self._secrets())

    def _secrets(self) -> Iterator[str]:
        yield from self._expanded
        for key, value in (*self.env.items(), *self.headers.items()):
            if key not in self.public_env:
                yield value
                # "Bearer <token>": the token alone is the secret.
                yield value.rpartition(" ")[2]
        if self.url is not None:
            parts = urlsplit(self.url)
            yield parts.password or ""
            yield from (value for _, value in parse_qsl(parts.query))
