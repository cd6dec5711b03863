"""Tools of all servers of an environment under unique names, and their targets."""

from __future__ import annotations

import functools
import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import orjson

from verl_agent_env.envs.mcp_chat.definition import ServerDefinition
from verl_agent_env.messages import Tool

if TYPE_CHECKING:
    from mcp.types import Tool as McpTool

MAX_TOOL_NAME_CHARS = 64
"""Limit of OpenAI's API, which also takes letters, digits, ``_`` and ``-`` only."""

_TYPES = frozenset({"string", "integer", "number", "boolean", "array", "object", "null"})
_HASH_CHARS = 8


class Target(NamedTuple):
    """Server and tool of a call."""

    server: str
    tool: str
    """Name of the tool at the server."""


@dataclass(frozen=True)
class Offer:
    """Tools of a model, and their targets."""

    tools: tuple[Tool, ...]
    targets: Mapping[str, Target]
    """Targets by the names of :attr:`tools`."""


Listing: TypeAlias = Sequence[Any]
"""Tools of servers as JSON values: pairs of a server's name and its tools, each as name, description and schema."""


def listing_of(servers: Sequence[tuple[ServerDefinition, Sequence[McpTool]]]) -> Listing:
    """Return the allowed tools of these servers, without secrets."""
    return [
        (
            definition.name,
            [
                (
                    tool.name,
                    definition.redactor.hide(tool.description or tool.title or ""),
                    definition.redactor.hide_in(tool.input_schema),
                )
                for tool in tools
                if definition.allows(tool.name)
            ],
        )
        for definition, tools in servers
    ]


def offer_of(listing: Listing) -> Offer:
    """Return the tools of a listing; equal listings give the same object.

    A name that several servers use is prefixed with the server's name in all of them: ``time_now`` and ``clock_now``.
    """
    return _offer(orjson.dumps(listing, option=orjson.OPT_SORT_KEYS))


# Environments with the same servers share their tools and schemas.
@functools.lru_cache(maxsize=64)
def _offer(listed: bytes) -> Offer:
    entries = [(server, *tool) for server, tools in orjson.loads(listed) for tool in tools]
    plain = Counter(_usable(name) for _, name, _, _ in entries)
    tools: list[Tool] = []
    targets: dict[str, Target] = {}
    for server, name, description, schema in entries:
        offered = _usable(name)
        if plain[offered] > 1:
            offered = _usable(f"{server}_{name}")
        if offered in targets or (plain[_usable(name)] > 1 and plain[offered]):
            # Names that collide after the replacement of characters, or a prefixed name that another server uses.
            offered = _hashed(offered, f"{server}\0{name}\0{len(targets)}")
        tools.append(Tool(offered, description, _parameters(schema)))
        targets[offered] = Target(server, name)
    return Offer(tuple(tools), targets)


def _usable(name: str) -> str:
    """Convert ``name`` to the characters and the length that APIs accept."""
    replaced = re.sub(r"[^A-Za-z0-9_-]", "_", name) or "tool"
    return replaced if len(replaced) <= MAX_TOOL_NAME_CHARS else _hashed(replaced, name)


def _hashed(name: str, whole: str) -> str:
    digest = hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_CHARS]
    return f"{name[: MAX_TOOL_NAME_CHARS - _HASH_CHARS - 1]}_{digest}"


def _parameters(schema: Any) -> dict[str, Any]:
    """Convert a server's schema to the form of :class:`Tool`, the rest of it unchanged.

    A property with a default is not required: some servers list all properties as required, and fill in what is missing.
    """
    given = dict(schema) if isinstance(schema, dict) else {}
    properties = given.get("properties")
    required = given.get("required")
    usable = (
        {name: _property(inner) for name, inner in properties.items()} if isinstance(properties, dict) else {}
    )
    return {
        **given,
        "type": "object",
        "properties": usable,
        "required": (
            [name for name in required if isinstance(name, str) and not _has_default(usable.get(name))]
            if isinstance(required, list)
            else []
        ),
    }


def _has_default(schema: Any) -> bool:
    return isinstance(schema, dict) and "default" in schema


def _property(schema: Any) -> Any:
    """Return a property's schema without types unknown to JSON Schema."""
    if not isinstance(schema, dict):
        return schema if isinstance(schema, bool) else {}
    kinds = schema.get("type")
    known = all(
        kind in _TYPES for kind in (kinds if isinstance(kinds, list) else [kinds]) if isinstance(kind, str)
    )
    is_usable = kinds is None or isinstance(kinds, str) or (isinstance(kinds, list) and bool(kinds))
    return schema if known and is_usable else {key: value for key, value in schema.items() if key != "type"}
