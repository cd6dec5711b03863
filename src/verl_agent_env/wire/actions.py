"""Actions as they are recorded: short ones as they were sent, of long ones what was read of them.

A model writes thousands of words for one move. Playing the move again takes the move alone, and telling whether the
same action is sent again takes a fingerprint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import orjson

from verl_agent_env.messages import ToolCall

MAX_WHOLE_BYTES = 1024
"""Actions up to this length are recorded as they were sent."""
_BRIEF = b"~"
"""Before what was read of an action; no JSON begins with it."""
_FINGERPRINT_LENGTH = 35


def identity_of(action: bytes) -> bytes:
    """Tell an action (JSON) from others: itself if it is short, else its fingerprint, which is JSON as well."""
    if len(action) <= MAX_WHOLE_BYTES:
        return action
    return b'"#%b"' % hashlib.blake2b(action, digest_size=16).hexdigest().encode()


def brief(action: bytes, calls: Sequence[ToolCall]) -> bytes:
    """Record a long action as the calls that were read of it; as it is if that is shorter, or they are no JSON."""
    try:
        recorded = b"%b%b%b" % (_BRIEF, identity_of(action), orjson.dumps([tuple(call) for call in calls]))
    except TypeError:
        return action
    return recorded if len(recorded) < len(action) else action


def calls_in(recorded: bytes) -> list[ToolCall] | None:
    """Read the calls of an action that is recorded by them; ``None`` of one that is recorded as it was sent.

    Raises:
        ValueError: It cannot be read.
    """
    if not recorded.startswith(_BRIEF):
        return None
    return [ToolCall(*call) for call in orjson.loads(recorded[1 + _FINGERPRINT_LENGTH :])]


def identity_in(recorded: bytes) -> bytes:
    """Tell of a recorded action what :func:`identity_of` told of the action that was sent."""
    return recorded[1 : 1 + _FINGERPRINT_LENGTH] if recorded.startswith(_BRIEF) else identity_of(recorded)


def shown(recorded: bytes) -> bytes:
    """Write a recorded action as JSON for people: as it was sent, or ``{"calls": [{name, arguments, id, fault}]}``."""
    calls = calls_in(recorded)
    return recorded if calls is None else orjson.dumps({"calls": [call._asdict() for call in calls]})
