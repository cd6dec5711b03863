"""Plain types that every package shares: messages, step results and environment ids."""

from __future__ import annotations

import functools
import hashlib
import re
import secrets
import uuid
import zlib
from typing import Any, Literal, NamedTuple, TypeAlias

JsonValue: TypeAlias = Any
"""Anything that JSON can hold."""

Content: TypeAlias = "str | list[dict[str, Any]]"
"""Content of a message: text, or a list of content parts (``{"type": "text" | "image_url", …}``)."""

Message: TypeAlias = dict[str, Any]
"""A chat message: ``{"role", "content", "tool_call_id"?, "tool_calls"?}``."""

Observation: TypeAlias = list[Message]
"""Messages to the model, of role ``user`` or ``tool``, oldest first."""

Action: TypeAlias = "Message | list[Message] | str"
"""Turn of the model: an assistant message, a list that holds some, or its raw text."""

Info: TypeAlias = dict[str, Any]
"""Diagnostics of a reset or a step. Never holds the solution."""

Execution = Literal["inline", "compute", "thread", "async"]
"""Where a server runs the code of a kind.

``inline``: on the event loop, for code that never blocks and takes a few milliseconds at most; ``compute``: in one of a few
threads, for longer computations; ``thread``: in one of many, for code that waits; ``async``: as a coroutine.
"""

Durability = Literal["journal", "snapshot", "relaxed", "none"]
"""How the environments of a kind survive the death of their worker.

``journal``: their steps are stored and replayed; ``snapshot``: their state after each step is stored; ``relaxed``: as
``journal``, but a step is answered before it is stored, so the last steps can be lost; ``none``: they do not survive.
"""

MAX_SPLIT_NAME_LENGTH = 64
"""Characters in the name of a split of tasks."""

NUM_SLOTS = 4096
"""Number of slots, the parts of the hash space of environment ids, if a cluster says nothing else. Three hex digits name one."""

MANY_SLOTS = 65_536
"""The other number of slots that a cluster may have. Four hex digits name one, so the length of an id tells them apart."""

_UUID_HEX_DIGITS = 32
_TAG_BYTES = 6
_TAG_BITS = 8 * _TAG_BYTES
_VERSION = 2 * _TAG_BYTES - _UUID_HEX_DIGITS
_TAG = slice(-_UUID_HEX_DIGITS, _VERSION)
_TAGGED = "8"
_LENGTHS = (4 + _UUID_HEX_DIGITS, 5 + _UUID_HEX_DIGITS)
_FOUR_DIGITS = re.compile("[0-9a-f]{4}")
_SLOTS = {f"{slot:03x}-": slot for slot in range(NUM_SLOTS)}
"""Slots by what the ids in them begin with."""


class StepResult(NamedTuple):
    """Gymnasium's five returns of ``step``."""

    observation: Observation
    reward: float
    terminated: bool
    """The episode came to its end; ``done`` in the HTTP API, which Gym used for "terminated or truncated"."""
    truncated: bool
    """The episode ran out of steps."""
    info: Info

    @property
    def is_over(self) -> bool:
        """True if no further step can follow: the episode is terminated or truncated."""
        return self.terminated or self.truncated


def slot_text(slot: int, num_slots: int = NUM_SLOTS) -> str:
    """Return the hex digits that name a slot of ``num_slots``: three, or four."""
    return f"{slot:03x}" if num_slots <= NUM_SLOTS else f"{slot:04x}"


def new_env_id(slot: int, tag: str = "", num_slots: int = NUM_SLOTS) -> str:
    """Make a unique id, ``<slot: 3 or 4 hex digits>-<uuid4 hex>``; with a ``tag``, as :func:`tagged_env_id`."""
    return numbered_env_id(slot, tag, secrets.randbits(128), num_slots)


def numbered_env_id(slot: int, tag: str, number: int, num_slots: int = NUM_SLOTS) -> str:
    """Make the id of a ``number`` of 128 bits, as :func:`new_env_id`: the same for the same number."""
    if tag:
        return tagged_env_id(slot, tag, number, num_slots)
    # With the version of a random id: any other could be taken for a tagged one.
    return f"{slot_text(slot, num_slots)}-{uuid.UUID(int=number, version=4).hex}"


def tagged_env_id(slot: int, tag: str, number: int, num_slots: int = NUM_SLOTS) -> str:
    """Make an id whose ``tag`` names the holder: a UUID of version 8 (RFC 9562) that begins with the tag.

    Args:
        slot: Slot of the environment.
        tag: Tag of its holder, from :func:`tag_of_holder`.
        number: 128 bits; 74 of them are used.
        num_slots: Number of slots of the cluster.
    """
    number = number % (1 << (128 - _TAG_BITS)) | int(tag, 16) << (128 - _TAG_BITS)
    # The bits of version and variant have places of their own, as those of version 4.
    digits = uuid.UUID(int=number, version=4).hex
    text = slot_text(slot, num_slots)
    return f"{text}-{digits[: 2 * _TAG_BYTES]}{_TAGGED}{digits[2 * _TAG_BYTES + 1 :]}"


def tag_of_holder(name: str) -> str:
    """Return the tag of a holder's environments: 12 hex digits of a hash of the holder's name."""
    return hashlib.blake2b(name.encode(), digest_size=_TAG_BYTES).hexdigest()


def tag_of(env_id: str) -> str:
    """Return the tag of an id; empty for an environment without a holder."""
    is_tagged = len(env_id) in _LENGTHS and env_id[_VERSION] == _TAGGED
    return env_id[_TAG] if is_tagged else ""


def slot_of(env_id: str) -> int:
    """Return the slot of ``env_id``: the digits of an id of ours, a hash of an id chosen elsewhere.

    Returns:
        A number from 0 to ``NUM_SLOTS - 1``; of an id with four digits, which no cluster of :data:`NUM_SLOTS` slots makes, up to
        ``MANY_SLOTS - 1``.
    """
    slot = _SLOTS.get(env_id[:4])
    if slot is not None and len(env_id) == _LENGTHS[0]:
        return slot
    slot = _slot_of_four(env_id[:4]) if len(env_id) == _LENGTHS[1] and env_id[4] == "-" else None
    return zlib.crc32(env_id.encode()) & (NUM_SLOTS - 1) if slot is None else slot


@functools.lru_cache(maxsize=MANY_SLOTS)
def _slot_of_four(digits: str) -> int | None:
    return int(digits, 16) if _FOUR_DIGITS.fullmatch(digits) else None
