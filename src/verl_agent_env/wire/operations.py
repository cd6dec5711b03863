"""Operation ids (header ``X-Operation-Id``): equal for all attempts of one request, so that a repeated one is recognized.

All items of a request share its id. If an environment is in a batch several times, its operations from the second one on
are numbered: ``<id> 1``, ``<id> 2``, … This id is not the request id (``X-Request-Id``), which only names a request in logs.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
from collections.abc import Sequence

# Short, because it is kept with each step; without a space, which precedes the number; ASCII, for the log.
_CALL = re.compile(rb"[!-~]{1,64}")
# Of its own, for an environment may seed that of the module; the system's would cost a system call for each request.
_random = random.Random()
os.register_at_fork(after_in_child=_random.seed)


def new_call() -> bytes:
    """Return a new id, for a request without one."""
    return b"%016x" % _random.getrandbits(64)


def call_of(given: bytes | None) -> bytes:
    """Return the id in a header: empty without one, a digest if it is too long or has other characters."""
    if not given:
        return b""
    if _CALL.fullmatch(given):
        return given
    return hashlib.blake2b(given, digest_size=16).hexdigest().encode()


def operations_of(call: bytes, env_ids: Sequence[str]) -> list[bytes]:
    """Return the operation id of each item of the request with the id ``call``."""
    if len(set(env_ids)) == len(env_ids):
        return [call] * len(env_ids)
    counts: dict[str, int] = {}
    operations = []
    for env_id in env_ids:
        number = counts.get(env_id, 0)
        counts[env_id] = number + 1
        operations.append(b"%b %d" % (call, number) if number else call)
    return operations


def split(operation: bytes) -> tuple[bytes, int]:
    """Split an operation id into that of its request and the number of earlier operations on the same environment."""
    call, _, number = operation.partition(b" ")
    return call, int(number or 0)
