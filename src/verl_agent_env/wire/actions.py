"""Recorded actions: short ones as they were sent, long ones as the tool calls that were read from them.

A model writes thousands of words for one move. A replay needs only the move, and recognizing a repeated action needs only
a fingerprint. Where a step called the outside, the outcomes come first (:mod:`~verl_agent_env.envs.effects`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from verl_agent_env.messages import ToolCall

MAX_WHOLE_BYTES = 1024
"""Actions up to this length are recorded as they were sent."""
_BRIEF = b"~"
"""First byte of an action that is recorded as calls; no JSON begins with it."""
_FINGERPRINT_LENGTH = 35
_EFFECTS = b"!"
"""First byte of an action before which the outcomes of its calls to the outside stand: their length, a space, and their JSON."""


def identity_of(action: bytes) -> bytes:
    """Return what identifies an action (JSON): the action itself if it is short, else its fingerprint, also JSON."""
    if len(action) <= MAX_WHOLE_BYTES:
        return action
    return b'"#%b"' % hashlib.blake2b(action, digest_size=16).hexdigest().encode()


def brief(action: bytes, calls: Sequence[ToolCall]) -> bytes:
    """Record a long action as its calls; as it is if that is shorter, or if the calls cannot be written as JSON."""
    try:
        recorded = b"%b%b%b" % (_BRIEF, identity_of(action), orjson.dumps([tuple(call) for call in calls]))
    except TypeError:
        return action
    return recorded if len(recorded) < len(action) else action


def calls_in(recorded: bytes) -> list[ToolCall] | None:
    """Decode the calls of a recorded action; None if it is recorded as it was sent.

    Raises:
        ValueError: The record is malformed.
    """
    recorded = _without_effects(recorded)
    if not recorded.startswith(_BRIEF):
        return None
    return [ToolCall(*call) for call in orjson.loads(recorded[1 + _FINGERPRINT_LENGTH :])]


def identity_in(recorded: bytes) -> bytes:
    """Return the :func:`identity_of` the action that was recorded."""
    recorded = _without_effects(recorded)
    return recorded[1 : 1 + _FINGERPRINT_LENGTH] if recorded.startswith(_BRIEF) else identity_of(recorded)


def with_effects(recorded: bytes, outcomes: Mapping[str, Any]) -> bytes:
    """Put the outcomes of its calls to the outside before a recorded action, if there are any.

    Raises:
        TypeError: An outcome is not JSON.
    """
    if not outcomes:
        return recorded
    written = orjson.dumps(outcomes)
    return b"%b%d %b%b" % (_EFFECTS, len(written), written, recorded)


def effects_in(recorded: bytes) -> Mapping[str, Any]:
    """Return the outcomes that stand before a recorded action; none if it called nothing outside."""
    if not recorded.startswith(_EFFECTS):
        return {}
    begin, end = _place_of_effects(recorded)
    outcomes: dict[str, Any] = orjson.loads(recorded[begin:end])
    return outcomes


def sent_action(recorded: bytes) -> Any:
    """Return an action that is recorded as it was sent."""
    return orjson.loads(_without_effects(recorded))


def shown(recorded: bytes) -> bytes:
    """Return a recorded action as JSON to show: as it was sent, or ``{"calls": [{name, arguments, id, fault}]}``."""
    recorded = _without_effects(recorded)
    calls = calls_in(recorded)
    return recorded if calls is None else orjson.dumps({"calls": [call._asdict() for call in calls]})


def _without_effects(recorded: bytes) -> bytes:
    return recorded[_place_of_effects(recorded)[1] :] if recorded.startswith(_EFFECTS) else recorded


def _place_of_effects(recorded: bytes) -> tuple[int, int]:
    length = recorded[1:24].partition(b" ")[0]
    begin = 2 + len(length)
    return begin, begin + int(length)
