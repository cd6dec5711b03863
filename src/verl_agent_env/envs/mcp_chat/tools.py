"""The tools of all servers of an environment under names of their own, and where each of them leads."""

from __future__ import annotations

import functools
import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from verl_agent_env.envs.mcp_chat.definition import ServerDefinition
from verl_agent_env.messages import Tool

if TYPE_CHECKING:
    from mcp.types import Tool as McpTool

MAX_TOOL_NAME_CHARS = 64
"""As OpenAI's API has it, which also takes letters, digits, ``_`` and ``-`` only."""

_TYPES = frozenset({"string", "integer", "number", "boolean", "array", "object", "null"})
_HASH_CHARS = 8


class Target(NamedTuple):
    """Where a call goes."""

    server: str
    tool: str
    """The server's own name of it."""


@dataclass(frozen=True)
class Offer:
    """What a model may call."""

    tools: tuple[Tool, ...]
    targets: Mapping[str, Target]
    """By the tool's name in :attr:`tools`."""


def offer_of(listings: Sequence[tuple[ServerDefinition, Sequence[McpTool]]]) -> Offer:
    """The tools that these servers offer and may offer; equal listings give the same object.

    A name that several servers use gets the server's name before it, in all of them: ``time_now`` and ``clock_now``.
    """
    listed = [
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
        for definition, tools in listings
    ]
    return _offer(orjson.dumps(listed, option=orjson.OPT_SORT_KEYS))


# Hundreds of environments with the same servers share their tools and the schemas made of them.
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
            # Two names that differ in nothing but what had to be replaced, or a prefixed one that is another's own.
            offered = _hashed(offered, f"{server}\0{name}\0{len(targets)}")
        tools.append(Tool(offered, description, _parameters(schema)))
        targets[offered] = Target(server, name)
    return Offer(tuple(tools), targets)


def _usable(name: str) -> str:
    """``name`` in the characters and the length that APIs take."""
    replaced = re.sub(r"[^A-Za-z0-9_-]", "_", name) or "tool"
    return replaced if len(replaced) <= MAX_TOOL_NAME_CHARS else _hashed(replaced, name)


def _hashed(name: str, whole: str) -> str:
    digest = hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_CHARS]
    return f"{name[: MAX_TOOL_NAME_CHARS - _HASH_CHARS - 1]}_{digest}"


def _parameters(schema: Any) -> dict[str, Any]:
    """A server's schema in the form that :class:`Tool` promises, the rest of it as it is."""
    given = dict(schema) if isinstance(schema, dict) else {}
    properties = given.get("properties")
    required = given.get("required")
    return {
        **given,
        "type": "object",
        "properties": (
            {name: _property(inner) for name, inner in properties.items()}
            if isinstance(properties, dict)
            else {}
        ),
        "required": (
            [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
        ),
    }


def _property(schema: Any) -> Any:
    """A property's schema, without a type that JSON Schema does not know."""
    if not isinstance(schema, dict):
        return schema if isinstance(schema, bool) else {}
    kinds = schema.get("type")
    known = all(
        kind in _TYPES for kind in (kinds if isinstance(kinds, list) else [kinds]) if isinstance(kind, str)
    )
    is_usable = kinds is None or isinstance(kinds, str) or (isinstance(kinds, list) and bool(kinds))
    return schema if known and is_usable else {key: value for key, value in schema.items() if key != "type"}
