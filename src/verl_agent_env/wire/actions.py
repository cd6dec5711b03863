"""Recorded actions: short ones as they were sent, long ones as the tool calls that were read from them.

A model writes thousands of words for one move. A replay needs only the move, and recognizing a repeated action needs only
a fingerprint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import orjson

from verl_agent_env.messages import ToolCall

MAX_WHOLE_BYTES = 1024
"""Actions up to this length are recorded as they were sent."""
_BRIEF = b"~"
"""First byte of an action that is recorded as calls; no JSON begins with it."""
_FINGERPRINT_LENGTH = 35


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
    if not recorded.startswith(_BRIEF):
        return None
    return [ToolCall(*call) for call in orjson.loads(recorded[1 + _FINGERPRINT_LENGTH :])]


def identity_in(recorded: bytes) -> bytes:
    """Return the :func:`identity_of` the action that was recorded."""
    return recorded[1 : 1 + _FINGERPRINT_LENGTH] if recorded.startswith(_BRIEF) else identity_of(recorded)


def shown(recorded: bytes) -> bytes:
    """Return a recorded action as JSON to show: as it was sent, or ``{"calls": [{name, arguments, id, fault}]}``."""
    calls = calls_in(recorded)
    return recorded if calls is None else orjson.dumps({"calls": [call._asdict() for call in calls]})
