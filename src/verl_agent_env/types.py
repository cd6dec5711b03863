"""Plain types that every room shares: messages, step results and environment ids."""

from __future__ import annotations

import uuid
import zlib
from typing import Any, NamedTuple, TypeAlias

JsonValue: TypeAlias = Any
"""Anything that JSON can hold."""

Content: TypeAlias = "str | list[dict[str, Any]]"
"""What a message says: text, or a list of content parts (``{"type": "text" | "image_url", …}``)."""

Message: TypeAlias = dict[str, Any]
"""A chat message: ``{"role", "content", "tool_call_id"?, "tool_calls"?}``."""

Observation: TypeAlias = list[Message]
"""What the environment says: messages of role ``user`` or ``tool``, oldest first."""

Action: TypeAlias = "Message | list[Message] | str"
"""What the model says: an assistant message, a list that holds some, or its raw text."""

Info: TypeAlias = dict[str, Any]
"""Diagnostics of a reset or a step. Never holds the solution."""

NUM_SLOTS = 4096
"""Slices of the hash space. Three hex digits name one of them."""

_UUID_HEX_DIGITS = 32
_HEX = frozenset("0123456789abcdef")


class StepResult(NamedTuple):
    """Gymnasium's five returns of ``step``."""

    observation: Observation
    reward: float
    terminated: bool
    truncated: bool
    info: Info


def new_env_id(slot: int) -> str:
    """An id that nothing else has, ``<slot: 3 hex digits>-<uuid4 hex>``."""
    return f"{slot:03x}-{uuid.uuid4().hex}"


def slot_of(env_id: str) -> int:
    """The slot that ``env_id`` lives in: read off an id of ours, hashed for an id chosen elsewhere.

    Returns:
        A number from 0 to ``NUM_SLOTS - 1``.
    """
    if len(env_id) == 4 + _UUID_HEX_DIGITS and env_id[3] == "-" and _HEX.issuperset(env_id[:3]):
        return int(env_id[:3], 16)
    return zlib.crc32(env_id.encode()) & (NUM_SLOTS - 1)
