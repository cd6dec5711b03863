"""Ids of operations: what a call asks of an environment, known again when the call is sent again.

All that one call asks has one id, the *call's*. An environment that stands in a batch several times is asked several
things by one call: from the second on they are told apart by a number, ``<call> 1``, ``<call> 2``, …
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence

# Short, because it is kept with each step; no space, which precedes the number; ASCII, which any log can hold.
_CALL = re.compile(rb"[!-~]{1,64}")


def new_call() -> bytes:
    """Make an id for a call that came without one."""
    return secrets.token_hex(8).encode()


def call_of(given: bytes | None) -> bytes:
    """Read the id of a call from a header; empty without one, a digest of what cannot be kept as it is."""
    if not given:
        return b""
    if _CALL.fullmatch(given):
        return given
    return hashlib.blake2b(given, digest_size=16).hexdigest().encode()


def operations_of(call: bytes, env_ids: Sequence[str]) -> list[bytes]:
    """Name what ``call`` asks of each environment, in order."""
    if len(set(env_ids)) == len(env_ids):
        return [call] * len(env_ids)
    counts: dict[str, int] = {}
    operations = []
    for env_id in env_ids:
        number = counts.get(env_id, 0)
        counts[env_id] = number + 1
        operations.append(b"%b %d" % (call, number) if number else call)
    return operations


def steps_of(call: bytes, env_ids: Sequence[str], seqs: Sequence[int | None] | None) -> list[bytes] | None:
    """Name the steps of a batch as :func:`operations_of`; None where the number of each step says enough.

    It does not where an environment stands twice: of its steps only the last one is known by its number.
    """
    is_numbered = seqs is not None and None not in seqs
    if is_numbered and len(set(env_ids)) == len(env_ids):
        return None
    return operations_of(call, env_ids)


def split(operation: bytes) -> tuple[bytes, int]:
    """Take an operation apart: its call, and the number of operations on the same environment before it."""
    call, _, number = operation.partition(b" ")
    return call, int(number or 0)
